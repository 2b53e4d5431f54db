"""The audit: twins among all originals of a dataset, in one Spark job of four stages.

Each file is described (describe); rows with the same pixels meet and are paired (exact); one row of each
such group goes to the buckets of its bands and is compared there (bands); the candidates of two blocks of
files meet with the descriptions of these files and are checked (confirm). The driver gets counts and a few
examples.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.contracts import SPLITS, Progress, Split
from dlspark.data.audit.bands import compare, probes_of
from dlspark.data.audit.clusters import Clusters, find_clusters, pairs_url, read_pairs, write_moves
from dlspark.data.audit.confirm import Confirmed, confirm
from dlspark.data.audit.describe import AUDIT_FOLDER, describe, read_reference
from dlspark.data.audit.exact import exact_pairs
from dlspark.data.audit.records import KINDS, PAIR, parts_of
from dlspark.data.audit.report import AuditReport
from dlspark.data.manifest import FileEntry, Manifest
from dlspark.data.spark_job import run_job
from dlspark.data.spark_task import begin_task
from dlspark.errors import ConfigError, DatasetError, SourceError

MAX_DISTANCE = 8
"""Of 63 bits, by default: 9 bands of 7 bits. A picture shifted by 2% of its side differs in 2 to 9 bits."""

_DISTANCES = range(2, 17)
_TASKS_PER_CORE = 4
_ROWS_PER_TASK = 50_000
_BLOCK_ROWS = 100_000

_log = logging.getLogger(__name__)

Item = tuple[int, Any]
"""What a stage hands to a task of the next: its number, and records or counts."""


class _Plan(NamedTuple):
    dataset: str
    manifest: Manifest
    files: tuple[FileEntry, ...]
    splits: tuple[Split, ...]
    """By file."""
    blocks: tuple[int, ...]
    """By file."""
    num_tasks: int
    max_distance: int
    max_bucket_rows: int
    max_examples: int


def audit(
    spark: SparkSession,
    dataset: str,
    manifest: Manifest,
    *,
    progress: Progress,
    max_distance: int = MAX_DISTANCE,
    max_bucket_rows: int = 50_000,
    max_examples: int = 40,
) -> AuditReport:
    """Find the twins among the originals of a dataset; write the tables of pairs and of moves.

    Args:
        spark: the session that runs it.
        dataset: URL. `_audit/` in it is replaced; two audits of one dataset must not run at once.
        manifest: of the dataset.
        progress: is told the tasks of the longest stage, the comparison, that are done.
        max_distance: bits in which the perceptual hashes of near twins differ at most, in [2, 16].
        max_bucket_rows: rows with the same value in a band that are compared with each other.
        max_examples: pairs in the report.

    Raises:
        ConfigError: max_distance is out of its range.
        DatasetError: a file is damaged, or there are too many twins.
    """
    if max_distance not in _DISTANCES:
        raise ConfigError("max_distance is out of range", got=max_distance, allowed="2 to 16")
    started = time.monotonic()
    dataset = storage.absolute(dataset)
    storage.remove_tree(storage.join(dataset, AUDIT_FOLDER))
    plan = _plan(
        spark,
        dataset,
        manifest,
        distance=max_distance,
        bucket_rows=max_bucket_rows,
        examples=max_examples,
    )
    parts = _run(spark, plan, progress) if plan.files else []
    counts = sum((part.counts for part in parts), Counter())
    storage.remove_tree(storage.join(dataset, AUDIT_FOLDER, "rows"))
    names = ["row_id_a", "row_id_b", "key_a", "key_b", "split_a", "split_b"]
    clusters = find_clusters(read_pairs(dataset, names))
    write_moves(dataset, clusters.moves)
    examples = sorted(
        (example for part in parts for example in part.examples),
        key=lambda pair: (-2 * pair["leak"] - pair["label_conflict"], pair["row_id_a"], pair["row_id_b"]),
    )
    report = _report(plan, counts, clusters, examples[:max_examples], time.monotonic() - started)
    _tell(report)
    return report


def _plan(
    spark: SparkSession, dataset: str, manifest: Manifest, *, distance: int, bucket_rows: int, examples: int
) -> _Plan:
    files = [(split, entry) for split in SPLITS for entry in manifest.splits[split].files]
    rows = np.array([entry.rows for _, entry in files], dtype=np.int64)
    before = np.cumsum(rows) - rows
    cores = spark.sparkContext.defaultParallelism
    return _Plan(
        dataset,
        manifest,
        tuple(entry for _, entry in files),
        tuple(split for split, _ in files),
        tuple((before // _BLOCK_ROWS).tolist()),
        max(_TASKS_PER_CORE * cores, int(rows.sum()) // _ROWS_PER_TASK),
        distance,
        bucket_rows,
        examples,
    )


def _run(spark: SparkSession, plan: _Plan, progress: Progress) -> list[Confirmed]:
    context = spark.sparkContext
    numbers = context.parallelize([*range(len(plan.files))], min(len(plan.files), plan.num_tasks))
    described = numbers.mapPartitions(partial(_describe, plan))
    exact = described.partitionBy(plan.num_tasks, int).mapPartitions(partial(_pair_exact, plan))
    # One task more than the other stages: so run_job tells this one, the longest, from them.
    near = exact.partitionBy(plan.num_tasks + 1, int).mapPartitions(partial(_pair_near, plan))
    confirmed = near.partitionBy(plan.num_tasks, int).mapPartitionsWithIndex(partial(_confirm, plan))
    try:
        return run_job(
            context,
            confirmed.collect,
            description="find twins",
            num_tasks=plan.num_tasks + 1,
            num_units=plan.num_tasks + 1,
            progress=progress,
        )
    except SourceError as error:
        raise DatasetError(
            "a task of the audit failed",
            got=error.got,
            where=plan.dataset,
            fix="prove the dataset with dlspark data verify, repair the cause and audit it again",
        ) from error


def _describe(plan: _Plan, numbers: Iterable[int]) -> Iterator[Item]:
    begin_task()
    reference = read_reference(plan.dataset, plan.manifest)
    for number in numbers:
        rows = describe(plan.dataset, plan.manifest, plan.files[number], number, reference)
        yield 0, Counter({("rows",): len(rows), ("flat",): int(rows["is_flat"].sum())})
        targets = (rows["pixel_hash"][:, 0] % np.uint64(plan.num_tasks)).astype(np.int64)
        yield from parts_of(rows, targets)


def _pair_exact(plan: _Plan, items: Iterable[Item]) -> Iterator[Item]:
    parts, passed = _sort_out(items)
    yield from passed
    if not parts:
        return
    pairs, first = exact_pairs(np.concatenate(parts))
    yield 0, pairs
    first = first[~first["is_flat"]]
    image = plan.manifest.preprocessing.image
    side = min(image.height, image.width)
    probes = probes_of(first["hash"], first["address"], side=side, max_distance=plan.max_distance)
    # Values of a band are not even: neighbours go to different tasks.
    scattered = probes["bucket"].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    yield from parts_of(probes, (scattered % np.uint64(plan.num_tasks)).astype(np.int64))


def _pair_near(plan: _Plan, items: Iterable[Item]) -> Iterator[Item]:
    parts, passed = _sort_out(items)
    for target, payload in passed:
        if isinstance(payload, Counter):
            yield target, payload
        else:
            yield from _to_blocks(plan, payload)
    if not parts:
        return
    num_capped = 0
    for pairs, num_left_out in compare(
        np.concatenate(parts), max_distance=plan.max_distance, max_bucket_rows=plan.max_bucket_rows
    ):
        num_capped += num_left_out
        yield from _to_blocks(plan, pairs)
    yield 0, Counter({("capped",): num_capped})


def _to_blocks(plan: _Plan, pairs: NDArray[np.void]) -> Iterator[Item]:
    """Send pairs to the task of their two blocks of files; a block is read by few tasks."""
    if not len(pairs):
        return
    blocks = np.array(plan.blocks)
    one, other = blocks[pairs["a"] >> 32], blocks[pairs["b"] >> 32]
    # A few tasks share a pair of blocks, by one of the rows: all candidates of two rows stay together.
    slices = max(1, plan.num_tasks // (int(blocks.max()) + 1) ** 2)
    target = ((one * (int(blocks.max()) + 1) + other) * slices + pairs["a"] % slices) % plan.num_tasks
    yield from parts_of(pairs, target)


def _confirm(plan: _Plan, part: int, items: Iterable[Item]) -> Iterator[Confirmed]:
    begin_task()
    counts: Counter[tuple[str, ...]] = Counter()
    by_blocks: defaultdict[int, list[NDArray[np.void]]] = defaultdict(list)
    blocks = np.array(plan.blocks)
    for _, payload in items:
        if isinstance(payload, Counter):
            counts += payload
        else:
            keys = blocks[payload["a"] >> 32] * len(blocks) + blocks[payload["b"] >> 32]
            for key, chosen in parts_of(payload, keys):
                by_blocks[key].append(chosen)
    for place, key in enumerate(sorted(by_blocks)):
        pairs = np.concatenate(by_blocks.pop(key))
        number = part + place * plan.num_tasks
        yield confirm(plan.dataset, plan.splits, pairs, number, plan.max_examples)
    yield Confirmed(counts, [])


def _sort_out(items: Iterable[Item]) -> tuple[list[NDArray[np.void]], list[Item]]:
    """Return the records that a stage works on, and the pairs and counts that it passes on."""
    begin_task()
    parts, passed = [], []
    for target, payload in items:
        if isinstance(payload, Counter) or payload.dtype == PAIR:
            passed.append((target, payload))
        else:
            parts.append(payload)
    return parts, passed


def _report(
    plan: _Plan, counts: Counter[Any], clusters: Clusters, examples: Sequence[dict[str, Any]], seconds: float
) -> AuditReport:
    splits = [(one, other) for place, one in enumerate(SPLITS) for other in SPLITS[place + 1 :]]
    return AuditReport(
        num_rows=counts["rows",],
        num_flat=counts["flat",],
        num_candidates=counts["candidates",],
        num_pairs={kind: counts["kind", kind] for kind in KINDS},
        num_leaks={kind: counts["leak", kind] for kind in KINDS},
        num_leaks_between={f"{one}-{other}": counts["leak splits", one, other] for one, other in splits},
        num_conflicts={kind: counts["conflict", kind] for kind in KINDS},
        num_clusters=clusters.number,
        num_spanning_clusters=clusters.num_spanning,
        largest_cluster=clusters.largest,
        num_moves=clusters.moves.num_rows,
        num_capped=counts["capped",],
        max_distance=plan.max_distance,
        seconds=seconds,
        pairs_path=pairs_url(plan.dataset),
        examples=tuple(examples),
    )


def _tell(report: AuditReport) -> None:
    if report.num_capped:
        _log.warning(
            "%d rows were left out of overfull buckets of the audit (pictures that look the same to the hash,"
            " such as blank ones); near twins among them may be missing. Fix: raise max_bucket_rows",
            report.num_capped,
        )
    if report.num_flat:
        _log.warning("%d flat pictures were compared by their pixels only", report.num_flat)
