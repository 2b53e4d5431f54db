from __future__ import annotations

import fcntl
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from setup import console, horovod_wheel, install
from setup.console import SetupError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def finished(clone: Path, environment) -> Path:
    """A clone whose set-up is finished for this environment."""
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").touch()
    install.stamp_file(clone).write_text(install.fingerprint(clone, environment))
    return clone


def test_a_second_set_up_does_nothing_within_two_seconds(finished: Path, environment) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / ".venv").rglob("*")}
    start = time.monotonic()
    answer = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; from setup import install; install.set_up({_path(finished)}, {environment})",
        ],
        cwd=finished,
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.monotonic() - start < 2
    assert (answer.stdout, answer.stderr) == ("", "")
    assert {path: path.stat().st_mtime_ns for path in (finished / ".venv").rglob("*")} == before


def _path(path: Path) -> str:
    return f"__import__('pathlib').Path({str(path)!r})"


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "setup/requirements.lock", "setup/horovod.lock", "setup/install.py"]
)
def test_a_changed_file_makes_the_set_up_unfinished(name: str, finished: Path, environment) -> None:
    with (finished / name).open("a") as file:
        file.write("\n")
    assert not install.is_done(finished, install.fingerprint(finished, environment))


def test_a_build_setting_makes_the_set_up_unfinished(finished: Path, environment) -> None:
    wish = environment | {"HOROVOD_GPU_OPERATIONS": "NCCL"}
    assert install.is_done(finished, install.fingerprint(finished, environment))
    assert not install.is_done(finished, install.fingerprint(finished, wish))


def test_another_python_makes_the_set_up_unfinished(finished, environment, monkeypatch) -> None:
    monkeypatch.setattr(sys, "version", "3.11.99")
    assert not install.is_done(finished, install.fingerprint(finished, environment))


def test_a_moved_clone_is_unfinished(finished: Path, environment, tmp_path: Path) -> None:
    moved = finished.rename(tmp_path / "moved")
    assert not install.is_done(moved, install.fingerprint(moved, environment))
    (moved / ".venv" / "bin" / "pip").write_text(f"#!{finished}/.venv/bin/python\n")
    assert not install.is_usable(moved / ".venv", environment)


def test_a_lock_file_is_split_into_its_packages() -> None:
    entries = install.lock_entries(
        "# comment\na==1 \\\n    --hash=sha256:00\n    # via b\nB-c==2 ; x == 'y'\n"
    )
    assert entries == {"a": "a==1 \\\n    --hash=sha256:00\n    # via b\n", "b-c": "B-c==2 ; x == 'y'\n"}


def test_a_failed_command_shows_its_last_lines(tmp_path: Path, capsys) -> None:
    command = ["/bin/sh", "-c", "seq 100; exit 3"]
    with pytest.raises(SetupError, match=r"counting failed with status 3; .* in .*log"):
        console.run_quietly(command, log=tmp_path / "log", doing="counting", environment={})
    shown = capsys.readouterr().err.split()
    assert shown[-1] == "100"
    assert len(shown) == console.NUM_LINES_OF_A_FAILURE
    assert (tmp_path / "log").read_text().startswith("1\n2\n")


def test_a_command_that_succeeds_is_quiet(tmp_path: Path, capsys) -> None:
    console.run_quietly(["/bin/sh", "-c", "echo noise"], log=tmp_path / "log", doing="", environment={})
    assert capsys.readouterr() == ("", "")


def test_two_set_ups_of_a_clone_wait_for_each_other(tmp_path: Path, capsys) -> None:
    with (tmp_path / ".setup.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        entered = threading.Event()

        def second() -> None:
            with install.only_one(tmp_path):
                entered.set()

        thread = threading.Thread(target=second, daemon=True)
        thread.start()
        assert not entered.wait(0.3)
    assert entered.wait(5)
    thread.join()
    assert "waiting for another set-up" in capsys.readouterr().err


def test_no_variable_sends_packages_elsewhere() -> None:
    for name in ("PYTHONPATH", "PIP_TARGET", "PIP_USER", "PIP_NO_BINARY"):
        assert install.UNWANTED_VARIABLES.fullmatch(name)
    for name in ("PIP_INDEX_URL", "PIP_CERT", "PIP_FIND_LINKS", "PATH"):
        assert not install.UNWANTED_VARIABLES.fullmatch(name)


def test_a_full_disk_is_said_before_anything_is_made(clone, environment, programs, monkeypatch) -> None:
    programs.add("java", 'openjdk version "17.0.1"')
    programs.add("g++", "g++ 12")
    programs.add("cmake", "cmake version 3.25.1")
    monkeypatch.setattr("setup.prerequisites.missing_for_python", list)
    monkeypatch.setattr("setup.prerequisites.missing_for_build", lambda environment: [])
    monkeypatch.setattr("shutil.disk_usage", lambda root: type("Usage", (), {"free": 2**30}))
    with pytest.raises(SetupError, match=r"not enough disk space .* about 7\.0 GiB needed, 1\.0 GiB free"):
        install.check_prerequisites(clone, environment)
    assert not (clone / ".venv").exists()


def test_a_kept_wheel_needs_no_compiler(clone, environment, programs, monkeypatch) -> None:
    programs.add("java", 'openjdk version "17.0.1"')
    kept = clone / "kept.whl"
    monkeypatch.setattr("setup.prerequisites.missing_for_python", list)
    monkeypatch.setattr(horovod_wheel, "kept_wheel", lambda place: kept)
    assert install.check_prerequisites(clone, environment)[2] == kept
