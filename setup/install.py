"""Sets up a clone: .venv with the pinned packages, Horovod, and this package itself.

Run by `make setup` as `python -m setup.install`. What is already done is not done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from setup import cuda_toolkit, horovod_wheel, prerequisites
from setup.console import SetupError, output_of, run_quietly, say, step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from setup.cuda_toolkit import Cuda
    from setup.horovod_wheel import Shelf

ROOT = Path(__file__).resolve().parent.parent
NEEDED_DISK_BYTES = 7 << 30
BUILD_TOOLS = ("packaging", "setuptools", "wheel")  # needed first: some packages come as source
# What a run imports. Doing it once proves the environment, and leaves the bytecode that pip is told not to
# make: for all files of all packages that takes longer than their download.
IMPORTS = (
    "torch",
    "torchvision",
    "horovod.torch",
    "horovod.runner.http.http_server",
    "petastorm.reader",
    "pyspark.sql",
    "mlflow.pyfunc",
    "hydra",
    "pydantic",
    "sklearn.datasets",
    "matplotlib.pyplot",
    "rich.progress",
)
# Variables that would send packages elsewhere or let other code in.
UNWANTED_VARIABLES = re.compile(
    r"PYTHON(PATH|HOME|USERBASE|SAFEPATH)"
    r"|PIP_(TARGET|PREFIX|ROOT|USER|CONSTRAINT|REQUIREMENT|NO_BINARY|ONLY_BINARY|REQUIRE_HASHES|NO_DEPS)"
)


def main() -> int:
    """Sets up the clone that this file is in; returns the exit status."""
    try:
        set_up(ROOT, os.environ)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; `make setup` goes on from here")
        return 130
    return 0


def set_up(root: Path, environment: Mapping[str, str]) -> None:
    """Brings .venv to what the lock files say.

    Args:
        root: the repository.
        environment: variables of the person who runs it (PATH, JAVA_HOME, CUDA_HOME, HOROVOD_*, PIP_*).

    Raises:
        SetupError: something is missing or a step failed.
    """
    stamp = fingerprint(root, environment)
    if is_done(root, stamp):
        return
    clean = {name: value for name, value in environment.items() if not UNWANTED_VARIABLES.fullmatch(name)}
    cuda, place, wheel = check_prerequisites(root, clean)
    with only_one(root):
        if is_done(root, stamp):
            return
        python = make_environment(root, clean)
        install_packages(root, python, clean)
        if wheel is None:
            say(f"CUDA for Horovod: {cuda_toolkit.describe(cuda, horovod_wheel.torch_cuda(root))}")
            wheel = horovod_wheel.build_wheel(place, root=root, python=python, environment=clean, cuda=cuda)
        else:
            say(f"Horovod: taking the built {wheel}")
        install_wheel(root, python, wheel, clean)
        install_this(root, python, clean)
        check_environment(root, python, clean)
        make_class_archive(root, python, clean)
        stamp_file(root).write_text(stamp)
    say("ready: .venv/bin/dlspark")


def check_prerequisites(root: Path, environment: Mapping[str, str]) -> tuple[Cuda, Shelf, Path | None]:
    """Finds everything that is missing, before anything is downloaded or made.

    Returns:
        The CUDA decision, the place of the Horovod wheel, and the wheel where one is kept.

    Raises:
        SetupError: one line with all that is missing.
    """
    missing = prerequisites.missing_for_python()
    if missing:  # no key and no headers without the right Python: assume that Horovod must be built
        missing += prerequisites.missing_for_java(environment)
        missing += prerequisites.missing_for_build(environment, with_headers=False)
        raise SetupError(prerequisites.one_line(missing))
    missing = prerequisites.missing_for_java(environment)
    cuda = cuda_toolkit.decide(environment)
    place = horovod_wheel.shelf(root, environment, cuda)
    wheel = horovod_wheel.kept_wheel(place)
    if wheel is None:
        missing += prerequisites.missing_for_build(environment)
    if missing:
        raise SetupError(prerequisites.one_line(missing))
    free_bytes = shutil.disk_usage(root).free
    if not (root / ".venv").exists() and free_bytes < NEEDED_DISK_BYTES:
        needed, free = (f"{amount / 2**30:.1f} GiB" for amount in (NEEDED_DISK_BYTES, free_bytes))
        raise SetupError(f"not enough disk space in {root}: about {needed} needed, {free} free")
    return cuda, place, wheel


def fingerprint(root: Path, environment: Mapping[str, str]) -> str:
    """What a finished set-up depends on: lock and project files, these scripts, Python, build settings."""
    files = [root / "pyproject.toml", *sorted((root / "setup").glob("*.*"))]
    content = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()}
    settings = horovod_wheel.build_settings(environment)
    parts = [str(root), sys.version, content, settings]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def stamp_file(root: Path) -> Path:
    """The file in .venv that says for which fingerprint it is finished."""
    return root / ".venv" / "dlspark-setup"


def is_done(root: Path, stamp: str) -> bool:
    """Whether .venv is finished for this fingerprint."""
    try:
        return stamp_file(root).read_text() == stamp and (root / ".venv" / "bin" / "python").exists()
    except OSError:
        return False


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Holds the clone's set-up lock, so that two of them never write one .venv."""
    with (root / ".setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of this clone")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_environment(root: Path, environment: Mapping[str, str]) -> Path:
    """Makes .venv where there is none that works; returns its Python."""
    venv = root / ".venv"
    python = venv / "bin" / "python"
    stamp_file(root).unlink(missing_ok=True)
    if is_usable(venv, environment):
        return python
    if venv.exists():
        say(".venv is unfinished, was moved or is of another Python: making it anew")
        shutil.rmtree(venv)
    with tempfile.TemporaryDirectory(prefix="dlspark-setup-") as scratch:
        base = getattr(sys, "_base_executable", sys.executable)  # not one inside the .venv just removed
        run_quietly(
            [base, "-m", "venv", venv],
            log=Path(scratch, "venv.log"),
            doing="making .venv",
            environment=environment,
        )
    return python


def is_usable(venv: Path, environment: Mapping[str, str]) -> bool:
    """Whether .venv has a Python 3.11 with pip that believes to live where it is."""
    script = venv / "bin" / "pip"
    if not script.is_file() or str(venv) not in script.read_text()[:1000]:
        return False
    answer = output_of([venv / "bin" / "python", "-m", "pip", "--version"], environment) or ""
    return f"(python {prerequisites.PYTHON[0]}.{prerequisites.PYTHON[1]})" in answer


def install_packages(root: Path, python: Path, environment: Mapping[str, str]) -> None:
    """Installs what the lock file pins: every file by its hash, nothing that is not in it."""
    lock = root / "setup" / "requirements.lock"
    entries = lock_entries(lock.read_text())
    options = ["install", "--no-deps", "--no-compile", "--no-build-isolation", "--require-hashes", "-r"]
    with step(f"installing {len(entries)} pinned packages (about 6 GB, some minutes)"):
        with tempfile.NamedTemporaryFile("w", prefix="dlspark-build-tools-", suffix=".txt") as first:
            first.write("".join(entries[name] for name in BUILD_TOOLS))
            first.flush()
            pip(
                root,
                python,
                [*options, first.name],
                doing="installing the build tools",
                environment=environment,
            )
        pip(
            root,
            python,
            [*options, str(lock)],
            doing="installing the pinned packages",
            environment=environment,
        )


def lock_entries(text: str) -> dict[str, str]:
    """Splits a lock file: name of a package to its lines (the last ones, where a name stands twice)."""
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    return {block.split("==")[0].lower(): block for block in blocks if "==" in block.split("\n")[0]}


def install_wheel(root: Path, python: Path, wheel: Path, environment: Mapping[str, str]) -> None:
    """Installs the Horovod wheel, unless it is the one installed."""
    records = list((root / ".venv").glob("lib/python*/site-packages/horovod-*.dist-info/direct_url.json"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if any(digest in record.read_text() for record in records):
        return
    options = ["install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    pip(root, python, options, doing="installing Horovod", environment=environment)


def install_this(root: Path, python: Path, environment: Mapping[str, str]) -> None:
    """Installs this package so that its source is used in place."""
    # "compat" puts the repository's path into a .pth file, which type checkers and editors understand.
    options = ["install", "--no-deps", "--no-index", "--no-build-isolation"]
    options += ["--config-settings", "editable_mode=compat", "-e", str(root)]
    pip(root, python, options, doing="installing dlspark", environment=environment)


def check_environment(root: Path, python: Path, environment: Mapping[str, str]) -> None:
    """Proves that the packages fit together and can be imported."""
    with step("checking the environment"):
        pip(root, python, ["check"], doing="checking that the packages fit together", environment=environment)
        run_quietly(
            [python, "-c", f"import {', '.join(IMPORTS)}"],
            log=root / ".venv" / "import.log",
            doing="importing what a run needs",
            environment=environment,
        )


def make_class_archive(root: Path, python: Path, environment: Mapping[str, str]) -> None:
    """Makes the archive of classes with which a local Spark starts in half the time."""
    with step("making the class archive of Spark's JVM"):
        run_quietly(
            [python, "-m", "dlspark.cluster.make_class_archive"],
            log=root / ".venv" / "class-archive.log",
            doing="making the class archive",
            environment=environment,
        )


def pip(
    root: Path, python: Path, options: Sequence[str], *, doing: str, environment: Mapping[str, str]
) -> None:
    """Runs the environment's pip; its output is shown only if it fails."""
    told = {**environment, "PIP_USER": "0", "PYTHONNOUSERSITE": "1"}
    command = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", *options]
    run_quietly(command, log=root / ".venv" / "pip.log", doing=doing, environment=told)


if __name__ == "__main__":
    sys.exit(main())
