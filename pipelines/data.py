"""The commands on a published dataset: dlspark data show | verify | diff | audit | quarantine PATH ..."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.config import Config
from dlspark.data.accept import accept
from dlspark.data.audit.audit import audit
from dlspark.data.audit.clusters import read_moves
from dlspark.data.audit.pixels import pixels_of_pairs
from dlspark.data.augment import Augmentation
from dlspark.data.card import card
from dlspark.data.diff import diff
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.data.moved import add_moved
from dlspark.data.quarantine import DUPLICATE, read_quarantine
from dlspark.data.verify import verify
from dlspark.errors import ClusterError, ConfigError, DatasetError
from dlspark.help import DATA_VERBS
from dlspark.inspection.pairs_sheet import draw_pairs
from dlspark.progress import show_progress
from pipelines import ingest
from pipelines.sheet import write_sheet

_OPTIONS = {"verify": ("--repair",), "audit": ("--fix",), "quarantine": ("--retry", "--accept")}
_NUM_PATHS = {"diff": 2}
_NUM_LISTED = 100

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataCommand:
    """One command on datasets, read from the command line."""

    verb: str
    paths: tuple[str, ...]
    option: str | None
    overrides: tuple[str, ...]

    @property
    def needs_spark(self) -> bool:
        """Whether it reads images, with Spark."""
        return self.verb == "audit" or self.option in ("--repair", "--retry")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataResult:
    """What a command found; `exit_code` is 2 if the dataset is not what it should be."""

    values: dict[str, Any]
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return self.values


def parse(words: Sequence[str]) -> DataCommand:
    """Read `<verb> PATH [PATH] [--option] [key=value ...]`.

    Raises:
        ConfigError: the words are no command.
    """
    verb = words[0] if words else ""
    if verb not in DATA_VERBS:
        raise ConfigError(
            "unknown data command", got=repr(verb), allowed=", ".join(DATA_VERBS), fix="dlspark data --help"
        )
    options = [word for word in words[1:] if word.startswith("-")]
    overrides = tuple(word for word in words[1:] if "=" in word and not word.startswith("-"))
    paths = tuple(word for word in words[1:] if "=" not in word and not word.startswith("-"))
    allowed = _OPTIONS.get(verb, ())
    unknown = [option for option in options if option not in allowed]
    if unknown or len(options) > 1:
        raise ConfigError(
            f"dlspark data {verb} does not take these options",
            got=" ".join(options),
            allowed=" or ".join(allowed) or "none",
        )
    if len(paths) != _NUM_PATHS.get(verb, 1):
        number = _NUM_PATHS.get(verb, 1)
        raise ConfigError(
            f"dlspark data {verb} takes {number} dataset{'s' if number > 1 else ''}",
            got=" ".join(paths) or "none",
            fix=f"dlspark data {verb}" + " PATH" * number,
        )
    option = options[0] if options else None
    return DataCommand(verb=verb, paths=paths, option=option, overrides=overrides)


def run(command: DataCommand, config: Config, spark: SparkSession | None) -> DataResult:
    """Run a command.

    Args:
        command: from `parse`.
        config: its overrides, composed.
        spark: needed if `command.needs_spark`.

    Raises:
        DlsparkError: whatever the command raises.
    """
    if command.needs_spark and spark is None:
        raise ClusterError(f"dlspark data {command.verb} needs a Spark session", fix="set cluster.master")
    dataset = storage.absolute(command.paths[0])
    manifest = read_manifest(dataset)
    if command.verb == "show":
        return _show(dataset, manifest, config)
    if command.verb == "verify":
        return _verify(dataset, manifest, command, spark)
    if command.verb == "diff":
        other = storage.absolute(command.paths[1])
        return DataResult(values=dataclasses.asdict(diff(dataset, manifest, other, read_manifest(other))))
    if command.verb == "audit":
        return _audit(dataset, manifest, command, spark)
    return _quarantine(dataset, manifest, command, spark)


def _show(dataset: str, manifest: Manifest, config: Config) -> DataResult:
    _log.info("%s", card(dataset, manifest))
    picture = storage.absolute(f"{dataset.rstrip('/').rpartition('/')[2]}.png")
    write_sheet(dataset, manifest, Augmentation(**config.augment.changes), picture)
    _log.info("images of each class: %s", picture)
    return DataResult(values={"dataset": dataset, "picture": picture, **_facts(manifest)})


def _verify(dataset: str, manifest: Manifest, command: DataCommand, spark: SparkSession | None) -> DataResult:
    with show_progress("verify", "files") as progress:
        found = verify(dataset, manifest, progress)
    for damage in found.damages:
        _log.warning("%s", damage.problem)
    values = {
        "dataset": dataset,
        "fingerprint": manifest.fingerprint,
        "files": found.num_files,
        "rows": found.num_rows,
        "damaged": [damage.path for damage in found.damages],
        "repaired": False,
    }
    if found.damages and command.option == "--repair":
        again = _ingest_again(dataset, manifest, spark)
        if again.fingerprint != manifest.fingerprint:
            raise DatasetError(
                "the source has changed since it was published; the dataset was made again of what is there",
                got=f"fingerprint {again.fingerprint}",
                allowed=manifest.fingerprint,
                where=dataset,
            )
        return DataResult(values=values | {"repaired": True})
    sound = not found.damages and found.fingerprint == manifest.fingerprint
    return DataResult(values=values, exit_code=0 if sound else 2)


def _audit(dataset: str, manifest: Manifest, command: DataCommand, spark: SparkSession | None) -> DataResult:
    assert spark is not None  # noqa: S101 - `run` has refused
    with show_progress("audit", "tasks") as progress:
        report = audit(spark, dataset, manifest, progress=progress)
    values = report.to_json() | {"dataset": dataset, "fingerprint": manifest.fingerprint, "moved": 0}
    if report.examples:
        values["picture"] = storage.join(dataset, "_audit", "pairs.png")
        pixels = pixels_of_pairs(dataset, manifest, report.examples)
        pairs = [(pair, *pictures) for pair, pictures in zip(report.examples, pixels, strict=True)]
        draw_pairs(pairs, values["picture"], classes=manifest.classes)
        _log.info("pairs, leaks and conflicts first: %s", values["picture"])
    if command.option != "--fix":
        return DataResult(values=values, exit_code=2 if report.num_moves else 0)
    if report.num_moves:
        add_moved(dataset, read_moves(dataset)["row_id"].to_pylist())
        values["fingerprint"] = _ingest_again(dataset, manifest, spark).fingerprint
        values["moved"] = report.num_moves
        _log.info("%d images are in train now, with their twins", report.num_moves)
    return DataResult(values=values)


def _quarantine(
    dataset: str, manifest: Manifest, command: DataCommand, spark: SparkSession | None
) -> DataResult:
    if command.option == "--retry":
        again = _ingest_again(dataset, manifest, spark)
        return DataResult(
            values={"dataset": dataset, "left_out_before": dict(manifest.refused), **again.to_json()}
        )
    rows = list(read_quarantine(dataset, manifest.quarantine_files))
    if command.option == "--accept":
        settled = accept(dataset, [row for row in rows if row.reason != DUPLICATE])
        _log.info("%d images are settled: ingests to come leave them out and do not count them", settled)
    for row in rows[:_NUM_LISTED]:
        _log.info("%-20s %s: %s", row.reason, row.key, row.message)
    if len(rows) > _NUM_LISTED:
        _log.info("... and %d more, in %s", len(rows) - _NUM_LISTED, storage.join(dataset, "_quarantine"))
    return DataResult(
        values={
            "dataset": dataset,
            "left_out": dict(manifest.refused),
            "by_class": dict(manifest.refused_by_class),
        }
    )


def _ingest_again(dataset: str, manifest: Manifest, spark: SparkSession | None) -> ingest.IngestResult:
    """Run the ingest of a dataset again; unchanged rows are taken over from what is sound of it."""
    if not manifest.request.get("source"):
        raise DatasetError(
            "the dataset was made from a DataFrame, which cannot be opened again",
            where=dataset,
            fix="run the code that made it again, with overwrite=true",
        )
    config = Config.model_validate({**manifest.request, "dataset": dataset, "overwrite": True})
    return ingest.run(config, spark, again=True)


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "fingerprint": manifest.fingerprint,
        **dataclasses.asdict(manifest.counts),
        "left_out": dict(manifest.refused),
        "splits": {split: entry.rows for split, entry in manifest.splits.items()},
        "classes": list(manifest.classes),
    }
