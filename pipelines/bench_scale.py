"""The stage `bench-scale`: images per second on 1 to N workers of this cluster, by backend, and a verdict.

Each worker has train.global_batch_size rows of its own and as many threads on 1 worker as on N, so that the
rate of N workers is N times that of one where communication is free.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from dlspark import storage
from dlspark.cluster.backends import Backend, choose_backend
from dlspark.cluster.launch import launch
from dlspark.config import Config
from dlspark.contracts import WorkerTask
from dlspark.data.manifest import read_manifest
from dlspark.errors import ClusterError
from dlspark.progress import show_progress
from dlspark.training.step_speed import StepSpeed
from dlspark.worker_speed import run_steps
from pipelines.stage import required

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_log = logging.getLogger(__name__)
_WORTH_IT = 0.7
"""A worker that adds less than this share of its own rate is mostly paid for waiting."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleCase:
    """One number of workers on one backend."""

    backend: Backend
    workers: int
    images_per_second: float
    """Of all workers together."""
    efficiency: float
    """The rate over `workers` times the rate of one worker."""
    communication_share: float
    """Share of the workers' time in the all-reduce, the wait for the slowest one included, in [0, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchScaleResult:
    """All that was measured, and what follows."""

    model: str
    rows_per_worker: int
    threads_per_worker: int
    cases: tuple[ScaleCase, ...]
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def run(config: Config, spark: SparkSession | None) -> BenchScaleResult:
    """Measure each backend on 1, 2, 4 ... and cluster.workers workers, some 10 s each.

    Args:
        config: dataset is required; model, optimizer and train say what is trained; cluster.backend=auto
            measures both backends.
        spark: the session whose executors train.

    Raises:
        DlsparkError: there is no dataset, the network does not fit its images, or slots are missing.
    """
    dataset = storage.absolute(required(config.dataset, "dataset", "bench-scale"))
    manifest = read_manifest(dataset)
    threads = config.cluster.threads_per_worker or 1
    numbers = _numbers(config.cluster.workers)
    backends = _backends(config)
    cases: list[ScaleCase] = []
    with (
        show_progress("bench-scale", "cases") as progress,
        tempfile.TemporaryDirectory(prefix="dlspark-bench-") as folder,
    ):
        task = WorkerTask(
            dataset=dataset,
            fingerprint=manifest.fingerprint,
            run_dir=folder,
            config=config.model_dump(mode="json"),
        )
        for backend in backends:
            for number in numbers:
                progress.update(len(cases), len(numbers) * len(backends))
                speeds: list[StepSpeed] = launch(
                    run_steps,
                    task,
                    backend=backend,
                    num_workers=number,
                    spark=spark,
                    start_timeout_seconds=config.cluster.start_timeout_seconds,
                    threads_per_worker=threads,
                    ports=config.cluster.ports,
                    interface=config.cluster.network_interface,
                )
                cases.append(_case(backend, number, speeds, cases))
        progress.update(len(cases), len(cases))
    result = BenchScaleResult(
        model=config.model.name,
        rows_per_worker=config.train.global_batch_size,
        threads_per_worker=threads,
        cases=tuple(cases),
        verdict=judge(cases),
    )
    _show(result)
    return result


def judge(cases: Sequence[ScaleCase]) -> str:
    """Return which backend to use, how many workers are worth it, and what to change if few are."""
    fastest = max(cases, key=lambda case: case.images_per_second)
    mine = [case for case in cases if case.backend == fastest.backend]
    worth = max(
        (case for case in mine if case.efficiency >= _WORTH_IT),
        key=lambda case: case.workers,
        default=mine[0],
    )
    words = f"cluster.backend={worth.backend} cluster.workers={worth.workers}"
    last = max(mine, key=lambda case: case.workers)
    if worth.workers == last.workers:
        return f"{words}: each worker adds {last.efficiency:.0%} of its own rate"
    return (
        f"{words}: on {last.workers} workers each adds {last.efficiency:.0%} of its own rate, and "
        f"{last.communication_share:.0%} of the time goes into communication; a larger "
        "train.global_batch_size makes it less"
    )


def _numbers(workers: int) -> list[int]:
    return sorted({*(2**power for power in range(workers.bit_length()) if 2**power <= workers), workers})


def _backends(config: Config) -> list[Backend]:
    if config.cluster.backend == "local":
        raise ClusterError(
            "one process does not scale",
            got="cluster.backend=local",
            allowed="horovod, torch, auto (both)",
            where="cluster.backend",
        )
    if config.cluster.backend != "auto":
        return [choose_backend(config.cluster.backend)]
    return ["horovod", "torch"] if choose_backend("auto") == "horovod" else ["torch"]


def _case(
    backend: Backend, workers: int, speeds: Sequence[StepSpeed], earlier: Sequence[ScaleCase]
) -> ScaleCase:
    rate = min(speed.images_per_second for speed in speeds)
    alone = next((case for case in earlier if (case.backend, case.workers) == (backend, 1)), None)
    return ScaleCase(
        backend=backend,
        workers=workers,
        images_per_second=rate,
        efficiency=rate / (workers * alone.images_per_second) if alone is not None else 1.0,
        communication_share=statistics.fmean(speed.communication_share for speed in speeds),
    )


def _show(result: BenchScaleResult) -> None:
    table = Table("backend", "workers", "images/s", "of N times one", "communication", box=None)
    for case in result.cases:
        table.add_row(
            case.backend,
            str(case.workers),
            f"{case.images_per_second:,.0f}",
            f"{case.efficiency:.2f}",
            f"{case.communication_share:.0%}",
        )
    Console(stderr=True).print(table)
    _log.info(
        "%s, %d rows and %d threads a worker; use: %s",
        *(result.model, result.rows_per_worker, result.threads_per_worker, result.verdict),
    )
