"""The run directory: the one place a run lives, claimed before any work and described by run.json.

<run_dir>/run.json       which MLflow run, which dataset; how later stages find both
<run_dir>/config.yaml    the resolved configuration
<run_dir>/journal/       what the workers recorded
<run_dir>/checkpoints/   the weights
<run_dir>/failures/      what ended a failed attempt
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass

from dlspark import storage
from dlspark.errors import ConfigError, OutputExistsError

_DESCRIPTION = "run.json"


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


def claim_run_dir(url: str, *, overwrite: bool) -> None:
    """Make an empty run directory.

    Raises:
        OutputExistsError: there is something already, and it is not a run of dlspark or `overwrite` is false.
    """
    if storage.list_names(url):
        is_run = storage.exists(storage.join(url, "config.yaml"))
        if not is_run:
            raise OutputExistsError(
                "the run directory holds files that are not a run of dlspark",
                where=f"run_dir={url}",
                fix="choose another run_dir",
            )
        if not overwrite:
            raise OutputExistsError(
                "the run directory holds a run already",
                where=f"run_dir={url}",
                fix="choose another run_dir, or set overwrite=true to replace that run",
            )
        storage.remove_tree(url)
    storage.make_folder(url)


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
