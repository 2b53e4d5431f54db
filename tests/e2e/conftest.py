"""The three doors, each gone through once in a copy of this tree, by the commands that the README shows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import REPOSITORY, result_of, run_command
from tests.e2e.readme import commands_by_section
from tests.e2e.standalone_cluster import SHORT_LIVED_JVM, standalone_cluster


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git knows or would add, with this environment as its .venv."""
    folder = tmp_path_factory.mktemp("checkout") / "dlspark"
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


def _without_setup(command: str) -> str:
    """Return a command of make that takes the environment as it is: `make test` has just set it up."""
    return f"make -o setup {command.removeprefix('make ')}" if command.startswith("make ") else command


@pytest.fixture(scope="session")
def demo(checkout: Path) -> dict[str, Any]:
    """The result of `make demo`."""
    return result_of(run_command(["bash", "-c", _without_setup("make demo")], folder=checkout, timeout=400))


@pytest.fixture(scope="session")
def laptop(checkout: Path, demo: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Stage -> result of the README's commands for a laptop, in their order."""
    results = {}
    for command in commands_by_section()["The command, on a laptop"]:
        finished = run_command(["bash", "-c", command], folder=checkout, timeout=300)
        if command.startswith("dlspark "):
            results[command.split()[1]] = result_of(finished)
        else:
            assert finished.returncode == 0, finished.stderr
    return results


@pytest.fixture(scope="session")
def inspected(checkout: Path, looked_into: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of the README's commands on data, in their order; the last of them change the dataset."""
    commands = commands_by_section()["The data"]
    activated = [f"source .venv/bin/activate && {command}" for command in commands]
    return [
        result_of(run_command(["bash", "-c", command], folder=checkout, timeout=300)) for command in activated
    ]


@pytest.fixture(scope="session")
def looked_into(checkout: Path, laptop: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of the README's commands on networks and steps, in their order."""
    commands = commands_by_section()["The network and its training"]
    activated = [f"source .venv/bin/activate && {command}" for command in commands]
    return [
        result_of(run_command(["bash", "-c", command], folder=checkout, timeout=300)) for command in activated
    ]


@pytest.fixture(scope="session")
def experiments(checkout: Path, laptop: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of the README's commands on MNIST, in their order: an epoch each, on the digits."""
    for split, part in (("train", slice(0, None, 2)), ("test", slice(1, None, 2))):
        for folder in (checkout / "runs" / "digits" / "dataset-source").glob("[0-9]"):
            target = checkout / "mnist" / split / folder.name
            target.mkdir(parents=True)
            for file in sorted(folder.iterdir())[part]:
                shutil.copy2(file, target)
    results = []
    for command in commands_by_section()["MNIST"]:
        words = command if command.startswith("dlspark evaluate") else f"{command} train.epochs=1"
        finished = run_command(
            ["bash", "-c", f"source .venv/bin/activate && {words}"], folder=checkout, timeout=300
        )
        results.append(result_of(finished))
    return results


@pytest.fixture(scope="session")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A standalone cluster of one master and two workers of one core each."""
    with standalone_cluster(tmp_path_factory.mktemp("cluster"), num_workers=2) as url:
        yield url


@pytest.fixture(scope="session")
def submit_environment(master: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a cluster's administrator would set for spark-submit."""
    folder = tmp_path_factory.mktemp("spark-conf")
    (folder / "spark-defaults.conf").write_text(
        "".join(f"spark.{jvm}.extraJavaOptions {SHORT_LIVED_JVM}\n" for jvm in ("driver", "executor"))
    )
    return {
        "SPARK_MASTER": master,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_CONF_DIR": str(folder),
        "PYSPARK_PYTHON": sys.executable,
    }


@pytest.fixture(scope="session")
def submitted(
    checkout: Path, demo: dict[str, Any], submit_environment: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Stage -> result of the README's commands for a cluster, in their order."""
    results = {}
    for command in commands_by_section()["spark-submit, on a cluster"]:
        words = ["bash", "-c", _without_setup(command)]
        finished = run_command(words, folder=checkout, environment=submit_environment, timeout=300)
        if "jobs/" in command:
            results[command.partition("jobs/")[2].partition(".py")[0]] = result_of(finished)
        else:
            assert finished.returncode == 0, finished.stderr
    return results
