"""The stage `bench-loader`: how fast a dataset is read, by reader, threads and storage form."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from dlspark import storage
from dlspark.cluster.communicator import LocalCommunicator
from dlspark.config import Config
from dlspark.contracts import Batch
from dlspark.data.loader import Loader
from dlspark.data.loader_speed import measure_loader
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.data.other_form import copy_in_form
from dlspark.heap import keep_freed_memory
from dlspark.progress import show_progress
from dlspark.recipe import build_network, optimizer_of
from dlspark.training.frozen import freeze
from dlspark.training.precision import choose_precision
from dlspark.training.step_speed import measure_steps
from dlspark.worker import open_source
from pipelines.stage import required

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_SECONDS_OF_A_CASE = 3.0
_ROWS_OF_A_COPY = 4096
_ENOUGH = 1.5
"""A loader shares the cores with the network: one that is just as fast as the network would be waited for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderCase:
    """One way to read, and how fast it is."""

    storage: Literal["raw", "encoded"]
    reader: Literal["petastorm", "arrow"]
    num_threads: int
    images_per_second: float
    first_batch_seconds: float
    is_copy: bool
    """Of a local copy of the dataset's first rows in the other storage form."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchLoaderResult:
    """All that was measured, and what to use."""

    dataset: str
    model: str
    model_images_per_second: float
    """What one process trains, if the data are there."""
    cases: tuple[LoaderCase, ...]
    use: str
    """The words to add to `dlspark train`."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> BenchLoaderResult:
    """Measure one process on this machine: about half a minute.

    Args:
        config: dataset is required; model, optimizer, augment and train say what is trained.
        spark: not used.

    Raises:
        DlsparkError: there is no dataset, or the network does not fit its images.
    """
    dataset = storage.absolute(required(config.dataset, "dataset", "bench-loader"))
    manifest = read_manifest(dataset)
    settings = list(_settings_to_try())
    with (
        show_progress("bench-loader", "cases") as progress,
        tempfile.TemporaryDirectory(prefix="dlspark-bench-") as folder,
    ):
        model_rate = _measure_model(config, dataset, manifest)
        other: Literal["raw", "encoded"] = "encoded" if manifest.storage == "raw" else "raw"
        copy = copy_in_form(dataset, manifest, other, folder, max_rows=_ROWS_OF_A_COPY)
        cases: list[LoaderCase] = []
        for place, described in ((dataset, manifest), (folder, copy)):
            for reader, num_threads in settings:
                progress.update(len(cases), 2 * len(settings))
                cases.append(_measure(config, place, described, reader, num_threads, is_copy=place == folder))
        progress.update(len(cases), len(cases))
    result = BenchLoaderResult(
        dataset=dataset,
        model=config.model.name,
        model_images_per_second=model_rate,
        cases=tuple(cases),
        use=_choose(cases, model_rate),
    )
    _show(result)
    return result


def _settings_to_try() -> Iterator[tuple[Literal["petastorm", "arrow"], int]]:
    most = torch.get_num_threads()
    readers: tuple[Literal["petastorm", "arrow"], ...] = ("petastorm", "arrow")
    for reader in readers:
        for num_threads in sorted({1, max(1, most // 2), most}):
            yield reader, num_threads


def _open(
    config: Config, dataset: str, manifest: Manifest, reader: Literal["petastorm", "arrow"], num_threads: int
) -> Loader:
    data = config.data.model_copy(update={"reader": reader, "num_threads": num_threads})
    changed = config.model_copy(update={"data": data})
    return open_source(changed, dataset, manifest, "train", rank=0, num_ranks=1)


def _measure(
    config: Config,
    dataset: str,
    manifest: Manifest,
    reader: Literal["petastorm", "arrow"],
    num_threads: int,
    *,
    is_copy: bool,
) -> LoaderCase:
    speed = measure_loader(
        lambda: _open(config, dataset, manifest, reader, num_threads), seconds=_SECONDS_OF_A_CASE
    )
    return LoaderCase(
        storage=manifest.storage,
        reader=reader,
        num_threads=num_threads,
        images_per_second=speed.images_per_second,
        first_batch_seconds=speed.first_batch_seconds,
        is_copy=is_copy,
    )


def _measure_model(config: Config, dataset: str, manifest: Manifest) -> float:
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_network(config, manifest).to(device)
    freeze(model, config.transfer.trainable)
    return measure_steps(
        model,
        optimizer_of(config, model),
        LocalCommunicator(),
        _first_batch(config, dataset, manifest),
        precision=choose_precision(config.train.precision, device),
        device=device,
        seconds=_SECONDS_OF_A_CASE,
    ).images_per_second


def _first_batch(config: Config, dataset: str, manifest: Manifest) -> Batch:
    with (
        _open(config, dataset, manifest, config.data.reader, 1) as source,
        closing(source.batches(0)) as batches,
    ):
        return next(batches)


def _choose(cases: Sequence[LoaderCase], model_rate: float) -> str:
    """Return the words for the cheapest case that is enough, the dataset as it is before the other form."""
    enough = [case for case in cases if case.images_per_second >= _ENOUGH * model_rate]
    if enough:
        best = min(enough, key=lambda case: (case.is_copy, case.num_threads, -case.images_per_second))
    else:
        best = max(cases, key=lambda case: case.images_per_second)
    words = f"data.reader={best.reader} data.num_threads={best.num_threads}"
    return f"{words} (after ingest with data.storage={best.storage})" if best.is_copy else words


def _show(result: BenchLoaderResult) -> None:
    console = Console(stderr=True)
    table = Table("storage", "reader", "threads", "images/s", "of the network", "first batch", box=None)
    for case in result.cases:
        table.add_row(
            f"{case.storage}{' (a copy of some rows)' if case.is_copy else ''}",
            case.reader,
            str(case.num_threads),
            f"{case.images_per_second:,.0f}",
            f"{case.images_per_second / result.model_images_per_second:.1f} times",
            f"{case.first_batch_seconds:.2f} s",
        )
    console.print(table)
    rate = f"{result.model_images_per_second:,.0f}"
    _log.info("%s trains %s images/s in one process when it waits for nothing", result.model, rate)
    _log.info("use: %s", result.use)
