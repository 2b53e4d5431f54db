"""What dlspark keeps to save work, listed and cleaned: dlspark cache ls | gc PATH.

That is the features that trainings of a head have computed, in dlspark-features/ of a folder of runs. They
can be removed at any time, also by hand: who needs them computes them again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dlspark import storage
from dlspark.data.feature_files import read_index
from dlspark.data.feature_use import is_in_use, remove_features
from dlspark.errors import ConfigError, DatasetError
from dlspark.help import CACHE_VERBS
from pipelines.feature_cache import FEATURES_FOLDER

_DAYS = "unused_days"
_DEFAULT_DAYS = 30.0
_SECONDS_OF_A_DAY = 86_400

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheCommand:
    """One command on what is kept, read from the command line."""

    verb: str
    path: str
    """The folder that holds run directories."""
    unused_days: float
    """gc: what a training has used since so many days stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """One folder of features."""

    folder: str
    """URL."""
    num_features: int
    """Of each row; 0: their computation has not ended."""
    rows: int
    num_bytes: int
    unused_days: float | None
    """Since a training last began with them; None: none has."""
    in_use: bool
    """Whether a training holds them now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheResult:
    """What is kept, and what of it was removed."""

    kept: tuple[Kept, ...]
    removed: tuple[Kept, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def parse(words: Sequence[str]) -> CacheCommand:
    """Read `ls PATH` or `gc PATH [unused_days=N]`.

    Raises:
        ConfigError: the words are no command.
    """
    verb = words[0] if words else ""
    if verb not in CACHE_VERBS:
        raise ConfigError(
            "unknown cache command",
            got=repr(verb),
            allowed=", ".join(CACHE_VERBS),
            fix="dlspark cache --help",
        )
    settings = [word for word in words[1:] if "=" in word]
    paths = [word for word in words[1:] if "=" not in word]
    if len(paths) != 1:
        raise ConfigError(
            f"dlspark cache {verb} takes one folder of runs",
            got=" ".join(paths) or "none",
            fix=f"dlspark cache {verb} PATH",
        )
    allowed = f"{_DAYS}=N" if verb == "gc" else "none"
    if settings and (verb != "gc" or len(settings) > 1 or not settings[0].startswith(f"{_DAYS}=")):
        raise ConfigError(f"unknown key of dlspark cache {verb}", got=" ".join(settings), allowed=allowed)
    days = _days(settings[0].partition("=")[2]) if settings else _DEFAULT_DAYS
    return CacheCommand(verb=verb, path=paths[0], unused_days=days)


def run(command: CacheCommand) -> CacheResult:
    """Run a command.

    Raises:
        DatasetError: there is no such folder.
    """
    path = storage.absolute(command.path)
    if not storage.is_folder(path):
        raise DatasetError("there is no such folder", got=path, fix="name the folder that holds the runs")
    root = storage.join(path, FEATURES_FOLDER)
    found = [_describe(storage.join(root, name)) for name in storage.list_names(root)]
    removed = [one for one in found if command.verb == "gc" and _is_old(one, command) and _remove(one)]
    kept = [one for one in found if one not in removed]
    for one in kept:
        _log.info("%s", _line(one))
    _log.info(
        "%d folders of features, %.1f MB, in %s", len(kept), sum(one.num_bytes for one in kept) / 1e6, root
    )
    return CacheResult(kept=tuple(kept), removed=tuple(removed))


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not days >= 0:
        raise ConfigError(f"{_DAYS} is not a number of days", got=text, allowed=">= 0")
    return days


def _describe(folder: str) -> Kept:
    index = read_index(folder)
    files = [] if index is None else list(index.files.values())
    return Kept(
        folder=folder,
        num_features=0 if index is None else index.num_features,
        rows=sum(file.rows for file in files),
        num_bytes=sum(file.num_bytes for file in files),
        unused_days=None if index is None else max(0.0, (time.time() - index.used) / _SECONDS_OF_A_DAY),
        in_use=is_in_use(folder),
    )


def _is_old(one: Kept, command: CacheCommand) -> bool:
    return one.unused_days is None or one.unused_days >= command.unused_days


def _remove(one: Kept) -> bool:
    removed = remove_features(one.folder)
    _log.info("%s %s", "removed" if removed else "left, since a training uses it:", one.folder)
    return removed


def _line(one: Kept) -> str:
    if one.unused_days is None:
        return f"{one.folder}: {'being computed' if one.in_use else 'not complete'}"
    since = "in use now" if one.in_use else f"used {one.unused_days:.1f} days ago"
    size = f"{one.rows:,} rows of {one.num_features} features, {one.num_bytes / 1e6:.1f} MB"
    return f"{one.folder}: {size}, {since}"
