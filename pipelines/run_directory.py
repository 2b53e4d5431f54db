"""The run directory: the one place a run lives, claimed before any work and described by run.json.

<run_dir>/run.json       which MLflow run, which dataset; how later stages find both
<run_dir>/config.yaml    the resolved configuration
<run_dir>/start/         the first weights, where they were made elsewhere
<run_dir>/result.json    what it came to, once it is complete
<run_dir>/journal/       what the workers recorded
<run_dir>/checkpoints/   what it goes on from, and the final weights
<run_dir>/failures/      what ended a failed attempt
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dlspark import storage
from dlspark.cluster.hosts import PROBE_PREFIX
from dlspark.config import Config
from dlspark.config.compose import read_resolved, resolved_yaml
from dlspark.errors import ConfigError, OutputExistsError
from dlspark.tracking.journal import list_segments
from dlspark.training.start import START_FOLDER

_log = logging.getLogger(__name__)

_CONFIG = "config.yaml"
_DESCRIPTION = "run.json"
_RESULT = "result.json"
_ATTEMPT = re.compile(r"(driver|rank0)-(?P<number>\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDescription:
    """What later stages need to know of a run."""

    run_id: str
    """Of the MLflow run."""
    experiment_id: str
    tracking_uri: str
    dataset: str
    """URL of the dataset it was trained on."""
    fingerprint: str
    """Of that dataset."""


def new_run_dir() -> str:
    """Return a run directory below ./runs, named by the time of day."""
    return storage.absolute(f"runs/{time.strftime('%Y%m%d-%H%M%S')}")


def find_run(url: str, *, overwrite: bool, resume: Literal["auto", "never"]) -> RunDescription | None:
    """Return the run that goes on in a run directory; None if a new one begins there. Changes nothing.

    Raises:
        OutputExistsError: there is something already, and it is not a run of dlspark, or neither `overwrite`
            nor `resume` lets it be used.
    """
    # What a preflight left that was killed is nobody's.
    names = [name for name in storage.list_names(url) if not name.startswith(PROBE_PREFIX)]
    if not names:
        return None
    if _CONFIG not in names:
        raise OutputExistsError(
            "the run directory holds files that are not a run of dlspark",
            where=f"run_dir={url}",
            fix="choose another run_dir",
        )
    if overwrite or set(names) <= {_CONFIG, START_FOLDER}:
        return None
    if resume == "never":
        raise OutputExistsError(
            "the run directory holds a run already",
            where=f"run_dir={url}",
            fix="choose another run_dir, or set resume=auto to go on with that run, or overwrite=true to "
            "replace it",
        )
    return read_run_description(url)


def is_run(url: str) -> bool:
    """Tell whether a folder is a run directory."""
    return storage.exists(storage.join(url, _DESCRIPTION))


def clear_run_dir(url: str) -> None:
    """Make the directory of a new run; an earlier run in it is removed."""
    if storage.list_names(url):
        _log.info("what was in %s is replaced", url)
        storage.remove_tree(url)
    storage.make_folder(url)


def next_attempt(url: str) -> int:
    """Return the how-manieth start of the run the next one is, from 1: by what earlier ones journaled."""
    found = (_ATTEMPT.fullmatch(name) for name, _ in list_segments(url))
    return max((int(match["number"]) for match in found if match), default=0) + 1


def write_config(url: str, config: Config) -> None:
    """Write config.yaml."""
    storage.write_bytes(storage.join(url, _CONFIG), resolved_yaml(config).encode())


def read_config(url: str) -> Config:
    """Return what config.yaml says.

    Raises:
        ConfigError: it is not of this version of dlspark, or damaged.
    """
    path = storage.join(url, _CONFIG)
    return read_resolved(storage.read_bytes(path).decode(), path)


def write_result(url: str, result: Mapping[str, Any]) -> None:
    """Write result.json, which says that the run is complete."""
    storage.write_json(storage.join(url, _RESULT), result)


def read_result(url: str) -> dict[str, Any] | None:
    """Return what result.json says; None for a run that is not complete."""
    try:
        return dict(storage.read_json(storage.join(url, _RESULT)))
    except FileNotFoundError:
        return None


def write_run_description(url: str, description: RunDescription) -> None:
    """Write run.json."""
    storage.write_json(storage.join(url, _DESCRIPTION), asdict(description))


def read_run_description(url: str) -> RunDescription:
    """Return what run.json says.

    Raises:
        ConfigError: the folder is not a run directory.
    """
    path = storage.join(url, _DESCRIPTION)
    try:
        return RunDescription(**storage.read_json(path))
    except (FileNotFoundError, json.JSONDecodeError, TypeError) as error:
        raise ConfigError(
            "there is no run in the run directory",
            got=f"{type(error).__name__} for {path}",
            where=f"run_dir={url}",
            fix="set run_dir to the directory that `dlspark train` printed",
        ) from error
