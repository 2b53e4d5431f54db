from __future__ import annotations

import re
import tomllib

import pytest

from setup import lock
from setup.install import lock_entries
from tests.unit.setup.conftest import REPOSITORY

LOCKS = sorted((REPOSITORY / "setup").glob("*.lock"))
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def test_there_are_two_lock_files() -> None:
    assert [path.name for path in LOCKS] == ["horovod.lock", "requirements.lock"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_no_address_is_recorded(path) -> None:
    text = path.read_text()
    assert re.findall(r"https?:|://|index-url|find-links|trusted-host|\s@\s", text) == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_pin_is_exact_and_has_hashes(path) -> None:
    entries = lock_entries(path.read_text())
    assert entries
    for lines in entries.values():
        assert re.match(r"[\w.-]+==[\w.]+( ;[^\\]+)? \\\n    --hash=sha256:[0-9a-f]{64}", lines), lines[:200]


def test_horovod_is_apart_because_it_is_built() -> None:
    entries = {path.name: lock_entries(path.read_text()) for path in LOCKS}
    assert list(entries["horovod.lock"]) == ["horovod"]
    assert entries["horovod.lock"]["horovod"].startswith(lock.horovod_pin(REPOSITORY))
    assert "horovod" not in entries["requirements.lock"]


def test_the_lock_has_what_the_project_asks_for() -> None:
    entries = lock_entries((REPOSITORY / "setup" / "requirements.lock").read_text())
    for wish in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        name = re.split(r"[=<>]", wish)[0]
        assert name in entries, f"{name}: run `make lock`"
        if "==" in wish:
            assert re.match(rf"{re.escape(wish)}\s", entries[name]), f"{wish}: run `make lock`"


def test_torch_is_the_pair_that_fits_petastorm() -> None:
    entries = lock_entries((REPOSITORY / "setup" / "requirements.lock").read_text())
    assert entries["torch"].startswith("torch==2.11.0 ")
    assert entries["torchvision"].startswith("torchvision==0.26.0 ")
    assert int(entries["setuptools"].removeprefix("setuptools==").split(".")[0]) < 70
