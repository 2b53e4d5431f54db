from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from setup import prerequisites

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.setup.conftest import Programs

COMPILER = "g++ (Debian 12.2.0-14) 12.2.0"
CMAKE = "cmake version 3.25.1"


def java_prints(version: str) -> str:
    return f'openjdk version "{version}" 2025-04-15'


@pytest.mark.parametrize(
    ("version", "major"), [("17.0.15", 17), ("21", 21), ("1.8.0_402", 8), ("11.0.2", 11)]
)
def test_the_major_version_of_java_is_read(version, major, programs: Programs, environment) -> None:
    java = programs.add("java", java_prints(version))
    assert prerequisites.java_major(str(java), environment) == major


@pytest.mark.parametrize("version", ["17.0.15", "21.0.4"])
def test_java_17_and_21_are_accepted(version, programs: Programs, environment) -> None:
    programs.add("java", java_prints(version))
    assert prerequisites.missing_for_java(environment) == []


@pytest.mark.parametrize("version", ["1.8.0_402", "11.0.2", "22.0.1"])
def test_another_java_is_named_with_what_is_allowed(version, programs: Programs, environment) -> None:
    java = programs.add("java", java_prints(version))
    (missing,) = prerequisites.missing_for_java(environment)
    major = "8" if version.startswith("1.8") else version.split(".")[0]
    assert missing.what == f"Java 17 or 21 (found Java {major} at {java})"
    assert missing.package == "openjdk-17-jre-headless"


def test_java_home_counts_before_the_path(programs: Programs, environment) -> None:
    programs.add("java", java_prints("17.0.15"))
    environment["JAVA_HOME"] = str(programs.folder / "nowhere")
    (missing,) = prerequisites.missing_for_java(environment)
    assert f"none in JAVA_HOME={environment['JAVA_HOME']}" in missing.what


def test_a_java_that_does_not_run_is_named(programs: Programs, environment) -> None:
    programs.add("java", "Error: could not find libjvm", status=1)
    (missing,) = prerequisites.missing_for_java(environment)
    assert "found no working Java" in missing.what


def test_nothing_is_missing_where_compiler_and_cmake_are(programs: Programs, environment) -> None:
    programs.add("g++", COMPILER)
    programs.add("cmake", CMAKE)
    assert prerequisites.missing_for_build(environment, with_headers=False) == []


def test_an_old_cmake_is_named_with_what_is_needed(programs: Programs, environment) -> None:
    programs.add("g++", COMPILER)
    programs.add("cmake", "cmake version 3.10.2")
    (missing,) = prerequisites.missing_for_build(environment, with_headers=False)
    assert missing == ("cmake of at least 3.13 (found 3.10)", "cmake")


def test_the_compiler_is_the_one_that_cxx_names(programs: Programs, environment) -> None:
    programs.add("cmake", CMAKE)
    programs.add("clang++", "clang version 14")
    environment["CXX"] = "clang++"
    assert prerequisites.missing_for_build(environment, with_headers=False) == []


def run_set_up(clone: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    python = sys._base_executable  # type: ignore[attr-defined]
    return subprocess.run(
        [python, "-m", "setup.install"],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_everything_missing_is_one_line_before_anything_is_made(clone: Path, environment) -> None:
    start = time.monotonic()
    answer = run_set_up(clone, environment)
    assert answer.returncode == 1
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("setup: error: missing: ")
    for package in ("openjdk-17-jre-headless", "g++", "cmake"):
        assert package in line.split("apt-get install ")[1].split()
    assert not (clone / ".venv").exists()
    assert not (clone / ".setup.lock").exists()
    assert time.monotonic() - start < 10  # nothing was downloaded


def test_without_the_venv_module_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (missing,) = prerequisites.missing_for_python()
    assert missing.package == "python3.11-venv"


def test_another_python_is_named_with_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 4, "final", 0))
    (missing,) = prerequisites.missing_for_python()
    assert missing.what == f"Python 3.11 (found 3.12.4 at {sys.executable})"
    assert missing.package == "python3.11 python3.11-venv"
