"""Speaking to the person who typed `make`, and running commands that stay quiet unless they fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

NUM_LINES_OF_A_FAILURE = 40


class SetupError(Exception):
    """Something that the person can put right; its message is one line that says how."""


def say(message: str) -> None:
    """Writes one progress line to stderr."""
    sys.stderr.write(f"setup: {message}\n")
    sys.stderr.flush()


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Says what is being done, and after it how long that took."""
    say(f"{doing} ...")
    start = time.monotonic()
    yield
    say(f"  done in {time.monotonic() - start:.0f} s")


def run_quietly(command: Sequence[object], *, log: Path, doing: str, environment: Mapping[str, str]) -> None:
    """Runs a command with its output going to a file, and shows the last lines of it only on failure.

    Args:
        command: program and arguments, strings or paths.
        log: file that receives stdout and stderr, replaced if it exists.
        doing: what the command does, for the error.
        environment: the whole environment of the command.

    Raises:
        SetupError: the command ended with another status than 0.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        status = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            check=False,
        ).returncode
    if status != 0:
        lines = log.read_text(errors="replace").splitlines()[-NUM_LINES_OF_A_FAILURE:]
        sys.stderr.write("".join(f"    {line}\n" for line in lines))
        raise SetupError(
            f"{doing} failed with status {status}; its last lines are above, all of them in {log}"
        )


def output_of(command: Sequence[object], environment: Mapping[str, str]) -> str | None:
    """What a short command prints (stdout and stderr), or None where it is not found or fails."""
    program = shutil.which(str(command[0]), path=environment.get("PATH", ""))
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, *(str(part) for part in command[1:])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.decode(errors="replace")
