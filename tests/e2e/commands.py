"""Run a command the way a user does, and read its result from the last line of stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
_OF_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
DLSPARK = (sys.executable, "-m", "dlspark")


def run_command(
    words: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run `words` in `folder`, the scripts of this Python first on the PATH; stdout and stderr are kept."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Inside `make test` a make is a sub-make, which prints the folder it enters and leaves.
    inherited = {name: value for name, value in os.environ.items() if name not in _OF_MAKE}
    return subprocess.run(
        words,
        cwd=folder,
        env={**inherited, "PATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def result_of(finished: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the JSON object on the last line of stdout of a command that must have succeeded."""
    assert finished.returncode == 0, f"exit code {finished.returncode}\n{finished.stdout}\n{finished.stderr}"
    last = finished.stdout.rstrip("\n").rsplit("\n", 1)[-1]
    result = json.loads(last)
    assert isinstance(result, dict)
    return result
