"""Writes the lock files from pyproject.toml and build.in. Run by `make lock`; `--upgrade` renews versions.

Only names, versions and hashes are recorded: no addresses, nothing of the machine's settings for pip or uv.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from setup.console import SetupError, run_quietly, say, step

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.8"
HEADER = "# Written by `make lock`. Do not edit: change pyproject.toml or setup/build.in instead.\n"
OPTIONS = (
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-header",
    "--no-emit-index-url",
    "--no-emit-find-links",
)


def main(arguments: Sequence[str]) -> int:
    """Writes both lock files; returns the exit status."""
    try:
        write_locks(ROOT, upgrade="--upgrade" in arguments)
    except SetupError as error:
        say(f"error: {error}")
        return 1
    return 0


def write_locks(root: Path, *, upgrade: bool) -> None:
    """Resolves the packages of the environment, and Horovod's source package apart from them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
    with tempfile.TemporaryDirectory(prefix="dlspark-lock-") as scratch, step("resolving"):
        log = Path(scratch, "log")
        for command in (
            [sys.executable, "-m", "venv", Path(scratch, "venv")],
            [Path(scratch, "venv", "bin", "pip"), "install", UV],
        ):
            run_quietly(command, log=log, doing="installing uv", environment=environment)
        uv = Path(scratch, "venv", "bin", "uv")
        horovod = Path(scratch, "horovod.in")
        horovod.write_text(f"{horovod_pin(root)}\n")
        for inputs, options, name in (
            (["pyproject.toml", "setup/build.in"], ["--extra=dev"], "requirements.lock"),
            ([str(horovod)], ["--no-deps", "--no-annotate"], "horovod.lock"),
        ):
            lock = root / "setup" / name
            command = [uv, "--no-config", "--directory", root, "pip", "compile", *inputs, *options, *OPTIONS]
            command += ["--output-file", lock, *(["--upgrade"] if upgrade else [])]
            run_quietly(command, log=log, doing=f"resolving {name}", environment=environment)
            lock.write_text(HEADER + lock.read_text().removeprefix(HEADER))


def horovod_pin(root: Path) -> str:
    """The exact Horovod that pyproject.toml names in its extra."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pins: list[str] = project["optional-dependencies"]["horovod"]
    if len(pins) != 1 or not re.fullmatch(r"horovod==[\w.]+", pins[0]):
        raise SetupError(f"pyproject.toml: extra 'horovod': got {pins}, allowed is one 'horovod==VERSION'")
    return pins[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
