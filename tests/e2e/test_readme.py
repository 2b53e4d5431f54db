"""Every command of the README is run by a test, and says what the page says of it."""

from __future__ import annotations

import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.e2e.commands import REPOSITORY
from tests.e2e.readme import commands_by_section
from tests.e2e.standalone_cluster import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(1200)]

_RUN_ELSEWHERE = {
    "Two commands": ["make demo", "make test"],
    "What you see in MLflow": ["mlflow ui --backend-store-uri sqlite:///mlflow.db"],
}
_RUN_AS_SECTIONS = {
    "The command, on a laptop",
    "spark-submit, on a cluster",
    "The data",
    "The network and its training",
    "MNIST",
}


def test_there_is_no_command_that_no_test_runs() -> None:
    sections = {heading: commands for heading, commands in commands_by_section().items() if commands}
    assert {heading: sections[heading] for heading in _RUN_ELSEWHERE} == _RUN_ELSEWHERE
    assert sections.keys() == _RUN_ELSEWHERE.keys() | _RUN_AS_SECTIONS


def test_make_demo(checkout: Path, demo: dict[str, Any]) -> None:
    assert demo["test_accuracy"] >= 0.98
    assert demo["listed"] == demo["written"] == 1797
    client = MlflowClient(f"sqlite:///{checkout}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.run_id == demo["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["dlspark.backend"] == "horovod"
    assert run.data.tags["dlspark.workers"] == "2"
    assert run.data.metrics["test_accuracy"] == demo["test_accuracy"]
    shown = {file.path for file in client.list_artifacts(demo["run_id"], "dataset")}
    assert shown == {f"dataset/{name}" for name in ("card.txt", "quarantine.json", "samples.png")}
    champion = client.get_model_version_by_alias("digits", "champion")
    assert champion.run_id == demo["run_id"]


def test_the_commands_on_data(
    checkout: Path, laptop: dict[str, dict[str, Any]], inspected: list[dict[str, Any]]
) -> None:
    shown, verified, copied, changed, audited, quarantined = inspected
    assert shown["fingerprint"] == verified["fingerprint"] == laptop["ingest"]["fingerprint"]
    assert Path(shown["picture"]).read_bytes().startswith(b"\x89PNG")
    assert (verified["damaged"], verified["rows"]) == ([], 1797)
    assert copied["copies"] == 2 * copied["splits"]["train"] / 3
    assert (changed["added"], changed["removed"], changed["changed"]) == (copied["copies"], 0, 0)
    assert audited["num_rows"] == 1797
    assert quarantined["left_out"] == {}


def test_the_commands_on_networks_and_steps(
    laptop: dict[str, dict[str, Any]], looked_into: list[dict[str, Any]]
) -> None:
    described, measured, searched, scaled, compared, replayed, listed, cleaned = looked_into
    assert described["parameters"] == 11_173_962
    assert {case["reader"] for case in measured["cases"]} == {"petastorm", "arrow"}
    assert {case["storage"] for case in measured["cases"]} == {"raw", "encoded"}
    assert all(case["images_per_second"] > 0 for case in measured["cases"])
    assert measured["use"].startswith("data.reader=")
    assert searched["rates"][0] < searched["suggestion"] < searched["rates"][-1]
    assert Path(searched["picture"]).read_bytes().startswith(b"\x89PNG")
    assert [(case["backend"], case["workers"]) for case in scaled["cases"]] == [("torch", 1), ("torch", 2)]
    assert all(0 < case["communication_share"] < 1 for case in scaled["cases"])
    assert [run["words"] for run in compared["runs"]] == ["optimizer=sgd optimizer.lr=0.1", "optimizer=adam"]
    assert compared["best"] in {run["words"] for run in compared["runs"]}
    assert Path(compared["picture"]).read_bytes().startswith(b"\x89PNG")
    assert (replayed["step"], len(replayed["rows"])) == (17, 128)
    assert len({row["row_id"] for row in replayed["rows"]}) == 128
    assert replayed["epoch"] == 17 // -(-laptop["ingest"]["splits"]["train"] // 128) + 1
    assert all(row["key"].startswith(f"{row['label']}/") for row in replayed["rows"])
    assert Path(replayed["picture"]).read_bytes().startswith(b"\x89PNG")
    assert listed == cleaned == {"kept": [], "removed": []}


def test_the_commands_on_mnist(experiments: list[dict[str, Any]]) -> None:
    lecture, best, dropout, without, with_it, batch_norm, optimizers = experiments
    assert lecture["listed"] == best["listed"] == 1797
    assert lecture["is_new"]
    assert not best["is_new"]
    assert lecture["test_accuracy"] > 0.3  # of an epoch of six steps
    assert [run["run_dir"] for run in dropout["runs"]] == [without["run_dir"], with_it["run_dir"]]
    assert (without["split"], with_it["split"]) == ("test", "test")
    assert [run["words"] for run in batch_norm["runs"]] == ["model.batch_norm=false", "model.batch_norm=true"]
    assert len(optimizers["runs"]) == 9
    for compared in (dropout, batch_norm, optimizers):
        assert Path(compared["picture"]).read_bytes().startswith(b"\x89PNG")
        assert all(run["error"] is None for run in compared["runs"])


def test_the_command_that_opens_the_ui(checkout: Path, demo: dict[str, Any]) -> None:
    (command,) = _RUN_ELSEWHERE["What you see in MLflow"]
    port = free_port()
    words = [str(checkout / ".venv" / "bin" / "mlflow"), *command.split()[1:], "--port", str(port)]
    server = subprocess.Popen(words, cwd=checkout, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        page = ""
        while not page:
            assert time.monotonic() < deadline, "the UI does not answer"
            assert server.poll() is None, "the UI ended"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as reply:
                    page = reply.read().decode()
            except OSError:
                time.sleep(0.5)
        assert "MLflow" in page
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_the_tree_in_the_readme_is_the_tree() -> None:
    block = (REPOSITORY / "README.md").read_text().partition("## Where things are")[2].split("```")[1]
    folder = REPOSITORY
    for line in filter(None, block.splitlines()):
        names = line.strip().split("  ")[0].split(", ")
        base = folder / "dlspark" if line.startswith("  ") else folder
        for name in names:
            assert (base / name).exists(), f"{name} is in the README and not in the tree"
