"""Every command of the README is run, in its order, in one folder, as a newcomer would."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.e2e.commands import REPOSITORY, result_of, run_command
from tests.e2e.standalone_cluster import free_port, standalone_cluster

pytestmark = [pytest.mark.e2e, pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(900)]

_PROVEN_BY_THE_SUITE_ITSELF = ("make test",)
"""The command that runs this very test."""


def commands_of(readme: str) -> list[str]:
    """Return the commands of the bash blocks, lines that end in a backslash joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git knows or would add, with this environment as its .venv."""
    folder = tmp_path_factory.mktemp("readme") / "dlspark"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    (folder / ".venv").symlink_to(Path(sys.prefix))
    return folder


def test_every_command_runs(checkout: Path, tmp_path: Path) -> None:
    commands = commands_of((REPOSITORY / "README.md").read_text())
    assert "make demo" in commands
    assert "make test" in commands
    with standalone_cluster(tmp_path) as master:
        environment = {"SPARK_MASTER": master, "SPARK_LOCAL_IP": "127.0.0.1"}
        for command in commands:
            if command in _PROVEN_BY_THE_SUITE_ITSELF:
                continue
            finished = run_command(
                ["bash", "-c", _bounded(command)], folder=checkout, environment=environment, timeout=400
            )
            assert finished.returncode in (0, 143), f"{command}\n{finished.stdout}\n{finished.stderr}"
            if command == "make demo":
                _check_the_demo(checkout, result_of(finished))


def _bounded(command: str) -> str:
    """Return a command that ends by itself: the server of the UI is stopped once it has started."""
    if not command.startswith("mlflow ui"):
        return command
    return f"timeout --preserve-status 20 {command} --port {free_port()}"


def _check_the_demo(checkout: Path, result: dict[str, object]) -> None:
    assert result["test_accuracy"] >= 0.98
    assert result["listed"] == result["written"] == 1797
    client = MlflowClient(f"sqlite:///{checkout}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.run_id == result["run_id"]
    assert run.info.status == "FINISHED"
    assert run.data.tags["dlspark.backend"] == "horovod"
    assert run.data.tags["dlspark.workers"] == "2"
    champion = client.get_model_version_by_alias("digits", "champion")
    assert champion.run_id == result["run_id"]
