"""What the system must bring: Python 3.11, Java 17 or 21, and g++ and cmake where Horovod has to be built."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from setup.console import output_of

if TYPE_CHECKING:
    from collections.abc import Mapping

ALLOWED_JAVA = (17, 21)
MINIMAL_CMAKE = (3, 13)
PYTHON = (3, 11)


class Missing(NamedTuple):
    """One thing that is not there, and the Debian package that brings it."""

    what: str
    package: str


def missing_for_python() -> list[Missing]:
    """Python 3.11 with the modules that make virtual environments."""
    if sys.version_info[:2] != PYTHON:
        found = ".".join(str(part) for part in sys.version_info[:3])
        return [Missing(f"Python 3.11 (found {found} at {sys.executable})", "python3.11 python3.11-venv")]
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        return [Missing("Python's venv and ensurepip", "python3.11-venv")]
    return []


def missing_for_java(environment: Mapping[str, str]) -> list[Missing]:
    """Java 17 or 21, where Spark will look for it: JAVA_HOME first, then the PATH."""
    allowed = " or ".join(str(major) for major in ALLOWED_JAVA)
    package = f"openjdk-{ALLOWED_JAVA[0]}-jre-headless"
    java = _java(environment)
    if java is None:
        where = f"in JAVA_HOME={environment['JAVA_HOME']}" if environment.get("JAVA_HOME") else "on the PATH"
        return [Missing(f"Java {allowed} (none {where})", package)]
    major = java_major(java, environment)
    if major not in ALLOWED_JAVA:
        found = f"Java {major}" if major else "no working Java"
        return [Missing(f"Java {allowed} (found {found} at {java})", package)]
    return []


def missing_for_build(environment: Mapping[str, str], *, with_headers: bool = True) -> list[Missing]:
    """A C++ compiler, cmake and Python's headers: needed only where no built Horovod is kept."""
    path = environment.get("PATH", "")
    missing = []
    compiler = compiler_command(environment)
    if shutil.which(compiler, path=path) is None:
        missing.append(Missing(f"a C++ compiler ({compiler})", "g++"))
    cmake = environment.get("HOROVOD_CMAKE", "cmake")
    found = cmake_version(cmake, environment)
    if found is None:
        missing.append(Missing(cmake, "cmake"))
    elif found < MINIMAL_CMAKE:
        wanted, got = (".".join(str(part) for part in version) for version in (MINIMAL_CMAKE, found))
        missing.append(Missing(f"cmake of at least {wanted} (found {got})", "cmake"))
    if with_headers and not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        missing.append(Missing("Python's headers", "python3.11-dev"))
    return missing


def one_line(missing: list[Missing]) -> str:
    """The one line that names everything that is missing and what installs it."""
    packages = " ".join(dict.fromkeys(thing.package for thing in missing))
    return f"missing: {', '.join(thing.what for thing in missing)}; on Debian: apt-get install {packages}"


def compiler_command(environment: Mapping[str, str]) -> str:
    """The C++ compiler that CMake will take: CXX where set, else g++."""
    words = environment.get("CXX", "").split()
    return words[0] if words else "g++"


def cmake_version(cmake: str, environment: Mapping[str, str]) -> tuple[int, int] | None:
    """(major, minor) of a cmake, None where it does not run."""
    found = re.search(r"version (\d+)\.(\d+)", output_of([cmake, "--version"], environment) or "")
    return (int(found[1]), int(found[2])) if found else None


def java_major(java: str, environment: Mapping[str, str]) -> int | None:
    """Major version of a java program (8 for "1.8.0"), None where it does not run."""
    found = re.search(r'version "(?:1\.)?(\d+)', output_of([java, "-version"], environment) or "")
    return int(found[1]) if found else None


def _java(environment: Mapping[str, str]) -> str | None:
    if environment.get("JAVA_HOME"):
        return shutil.which(str(Path(environment["JAVA_HOME"], "bin", "java")))
    return shutil.which("java", path=environment.get("PATH", ""))
