"""What is recorded about a run before it starts: code version, parameters, the dataset it reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Param
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH

import dlspark
from dlspark import storage

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """The dataset that a run reads, as MLflow shows it."""

    name: str
    """A short name for people, e.g. the last part of the URL."""
    url: str
    fingerprint: str
    """The manifest's, 32 hexadecimal characters; becomes the digest."""
    num_rows: Mapping[str, int]
    """Rows of each split."""
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    """(height, width, channels)."""


def dataset_input(facts: DatasetFacts) -> DatasetInput:
    """Return the dataset as MLflow's input of a training."""
    scheme, separator, _ = facts.url.partition("://")
    height, width, channels = facts.image_shape
    dataset = Dataset(
        name=facts.name[:500],
        digest=facts.fingerprint,
        source_type=scheme if separator and scheme != "file" else "local",
        source=json.dumps({"uri": facts.url}),
        schema=json.dumps(
            {
                "image": {"dtype": "uint8", "shape": [height, width, channels]},
                "label": {"classes": list(facts.classes)},
            }
        ),
        profile=json.dumps({"num_rows": sum(facts.num_rows.values()), **_prefixed(facts.num_rows)}),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])


def flatten_config(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of a nested configuration as (dotted key, text); lists are leaves, written as JSON."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from flatten_config(value, f"{key}.")
        elif isinstance(value, str):
            yield key, value
        else:
            yield key, json.dumps(value, default=str)


def config_params(config: Mapping[str, Any]) -> list[Param]:
    """Return the configuration as MLflow parameters; a value over MLflow's limit ends in an ellipsis."""
    return [Param(key, shorten(value, MAX_PARAM_VAL_LENGTH)) for key, value in flatten_config(config)]


def shorten(text: str, max_length: int) -> str:
    """Cut a text to `max_length` characters, the last of them an ellipsis where something is left out."""
    return text if len(text) <= max_length else text[: max_length - 1] + "…"


def code_tags() -> dict[str, str]:
    """Return the commit and dirty flag of the repository of this package, else of the working directory.

    The user's project is the next best where dlspark was installed from a wheel; nothing where there is no
    repository or no git.
    """
    tags = {"dlspark.version": dlspark.__version__}
    for folder in (Path(dlspark.__file__).parent, Path.cwd()):
        state = _git_state(folder)
        if state is not None:
            commit, dirty = state
            return {**tags, "mlflow.source.git.commit": commit, "dlspark.git_dirty": str(dirty).lower()}
    return tags


def _git_state(folder: Path) -> tuple[str, bool] | None:
    try:
        # Imported here because GitPython refuses to be imported where there is no git.
        from git import GitCommandError, InvalidGitRepositoryError, NoSuchPathError, Repo
    except ImportError as error:
        logger.info("the git commit is not recorded: %s", error)
        return None
    try:
        with Repo(folder, search_parent_directories=True) as repository:
            if repository.ignored(str(folder)) or not repository.head.is_valid():
                return None
            return repository.head.commit.hexsha, repository.is_dirty(untracked_files=True)
    except (InvalidGitRepositoryError, NoSuchPathError):
        return None
    except (GitCommandError, OSError, ValueError) as error:
        logger.info("the git commit is not recorded: %s", error)
        return None


def dataset_name(url: str) -> str:
    """Return the last part of a dataset's URL."""
    return storage.absolute(url).rstrip("/").rpartition("/")[2] or url


def _prefixed(num_rows: Mapping[str, int]) -> dict[str, int]:
    return {f"num_rows_{split}": rows for split, rows in num_rows.items()}
