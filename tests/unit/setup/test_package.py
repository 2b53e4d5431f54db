from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.unit.setup.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

TARGETS = ("help", "setup", "demo", "test", "test-fast", "lint", "lock", "wheel", "clean")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel as it is built from a copy of the repository, stray files and all."""
    copy: Path = tmp_path_factory.mktemp("package") / "copy"
    shutil.copytree(
        REPOSITORY, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs")
    )
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    answer = subprocess.run(
        [sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=True
    )
    return zipfile.ZipFile(copy / answer.stdout.split()[-1])


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"conf", "dlspark", "pipelines", "dlspark-0.1.0.dist-info"}


def test_the_wheel_holds_every_module_and_every_configuration(wheel: zipfile.ZipFile) -> None:
    expected = {
        str(path.relative_to(REPOSITORY))
        for folder, pattern in (("dlspark", "*.py"), ("pipelines", "*.py"), ("conf", "*.yaml"))
        for path in (REPOSITORY / folder).rglob(pattern)
    }
    assert expected | {"conf/__init__.py", "dlspark/py.typed"} <= set(wheel.namelist())


def test_the_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    entry_points = wheel.read("dlspark-0.1.0.dist-info/entry_points.txt").decode()
    assert "dlspark = dlspark.cli:main" in entry_points


def test_make_alone_shows_the_targets() -> None:
    answer = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    shown = [line.split()[1] for line in answer.stdout.splitlines() if line.startswith("  make ")]
    assert set(TARGETS) <= set(shown)
