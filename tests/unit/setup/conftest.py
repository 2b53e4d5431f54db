"""A small repository with the real set-up files, and a folder to stand in for the PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a set-up needs of a clone: pyproject.toml and setup/."""
    root = tmp_path / "clone"
    shutil.copytree(REPOSITORY / "setup", root / "setup", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "pyproject.toml", root)
    return root


class Programs:
    """A folder of programs that print what they are told to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder

    def add(self, name: str, prints: str, status: int = 0) -> Path:
        program = self.folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\necho '{prints}'\nexit {status}\n")
        program.chmod(0o755)
        return program


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "programs")


@pytest.fixture
def environment(tmp_path: Path, programs: Programs) -> dict[str, str]:
    """An environment in which only `programs` are found, with an empty cache."""
    return {"PATH": str(programs.folder), "HOME": str(tmp_path), "DLSPARK_CACHE": str(tmp_path / "cache")}
