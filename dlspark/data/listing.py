"""The listing of a source as columns, spread over Spark, and what the driver may know of it: numbers.

Rows travel as Arrow batches: pickling 60,000 tuples three times over would cost more than listing them.
"""

from __future__ import annotations

import heapq
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray
from pyspark import RDD
from pyspark.sql import SparkSession

from dlspark.contracts import SPLITS
from dlspark.data.draws import splitmix64
from dlspark.data.layout import NUM_BUCKETS, bucket_of
from dlspark.data.sources.folders import is_image
from dlspark.data.sources.source import Source, SourceImage
from dlspark.data.spark_task import begin_task
from dlspark.data.split import UNDECLARED, SplitRule, copy_id_of, position_of, row_id_of, stratified_borders


class Part(NamedTuple):
    """A few thousand rows of a listing."""

    batch: pa.RecordBatch
    """Of the schema LISTED."""
    ignored: Counter[str]
    """Files between them whose names are no image's, by extension."""


LISTED = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("label", pa.string()),
        pa.field("num_bytes", pa.int64()),
        pa.field("version", pa.int64()),
        pa.field("declared", pa.int8()),
        pa.field("position", pa.float64()),
        pa.field("row_id", pa.int64()),
        pa.field("content", pa.binary()),
    ]
)
"""declared: index into SPLITS or UNDECLARED; position: what decides the split of the others."""

_ROWS_PER_PART = 4096
_BYTES_PER_PART = 16 * 1024**2
_NUM_FIRST = 16
_MODULUS = 2**128


@dataclass(kw_only=True, slots=True)
class Survey:
    """What a listing holds, in numbers that grow with its classes and not with its images."""

    class_rows: Counter[str] = field(default_factory=Counter)
    """Images by class name."""
    num_unlabelled: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    """Files whose names are no image's, by extension."""
    declared_rows: Counter[int] = field(default_factory=Counter)
    """Images by the split that the source names for them."""
    digest: int = 0
    """Sum modulo 2^128 of a hash of each image's key, length, version, label, split and place."""
    first: list[SourceImage] = field(default_factory=list)
    """The first images in the order of their keys, 16 at most."""

    @property
    def num_images(self) -> int:
        """All images that are listed."""
        return self.class_rows.total() + self.num_unlabelled

    def add(self, other: Survey) -> None:
        """Take in the numbers of another part."""
        self.class_rows.update(other.class_rows)
        self.num_unlabelled += other.num_unlabelled
        self.ignored.update(other.ignored)
        self.declared_rows.update(other.declared_rows)
        self.digest = (self.digest + other.digest) % _MODULUS
        self.first = heapq.nsmallest(_NUM_FIRST, [*self.first, *other.first])


def list_images(
    spark: SparkSession, source: Source, *, split_seed: int, with_content: bool = False
) -> RDD[Part]:
    """Return the listing of a source in parts."""
    images = source.images(spark, with_content=with_content)
    only_images = source.lists_other_files
    return images.mapPartitions(partial(_parts, split_seed=split_seed, only_images=only_images))


def survey(listing: RDD[Part]) -> Survey:
    """Count a listing, in one Spark job."""
    total = Survey()
    for part in listing.mapPartitions(_survey).collect():
        total.add(part)
    return total


def count_places(listing: RDD[Part], rule: SplitRule, copies: int) -> NDArray[np.int64]:
    """Count the rows of a dataset by split and bucket of their row ids, in one Spark job.

    Args:
        listing: see `list_images`.
        rule: of the splits.
        copies: augmented copies of each training image.

    Returns:
        int64 [number of SPLITS, NUM_BUCKETS].
    """
    total = np.zeros((len(SPLITS), NUM_BUCKETS), dtype=np.int64)
    for places, rows in listing.mapPartitions(partial(_count_places, rule=rule, copies=copies)).collect():
        total.reshape(-1)[places] += rows
    return total


def borders_by_class(
    listing: RDD[Part], *, val_share: float, test_share: float
) -> dict[str, tuple[float, float]]:
    """Return the borders of stratified splits, class by class; the driver sees two numbers of each."""

    def borders(parts: Iterable[NDArray[np.float64]]) -> tuple[float, float]:
        return stratified_borders(np.concatenate(list(parts)), val_share=val_share, test_share=test_share)

    return dict(listing.flatMap(_positions_by_class).groupByKey().mapValues(borders).collect())


def values_of(batch: pa.RecordBatch, name: str) -> list[Any]:
    """Return a column of LISTED as Python values; several times faster than Arrow's own `to_pylist`."""
    return batch[name].to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]


def splits_of(batch: pa.RecordBatch, rule: SplitRule) -> NDArray[np.int8]:
    """Return the splits of a batch of LISTED: int8 [n], indices into SPLITS."""
    labels = values_of(batch, "label") if rule.borders else []
    positions, declared = batch["position"].to_numpy(), batch["declared"].to_numpy()
    return rule.codes(positions, declared, labels, batch["row_id"].to_numpy())


def copy_ids(batch: pa.RecordBatch, splits: NDArray[np.int8], copies: int) -> list[list[int]]:
    """Return for each copy number from 1 the row ids of the copies of the batch's training images."""
    if not copies:
        return []
    keys = [batch["key"][int(row)].as_py() for row in np.flatnonzero(splits == SPLITS.index("train"))]
    return [[copy_id_of(key, copy) for key in keys] for copy in range(1, copies + 1)]


def _parts(images: Iterable[SourceImage], *, split_seed: int, only_images: bool) -> Iterator[Part]:
    begin_task()
    chunk: list[SourceImage] = []
    ignored: Counter[str] = Counter()
    num_bytes = 0
    for image in images:
        if only_images and not is_image(image.key):
            ignored[posixpath.splitext(image.key)[1].lower() or "no extension"] += 1
            continue
        chunk.append(image)
        num_bytes += len(image.content or b"")
        if len(chunk) >= _ROWS_PER_PART or num_bytes >= _BYTES_PER_PART:
            yield Part(_batch(chunk, split_seed), ignored)
            chunk, ignored, num_bytes = [], Counter(), 0
    if chunk or ignored:
        yield Part(_batch(chunk, split_seed), ignored)


def _batch(chunk: Sequence[SourceImage], split_seed: int) -> pa.RecordBatch:
    if not chunk:
        return pa.record_batch([[]] * len(LISTED), schema=LISTED)
    keys, labels, lengths, versions, declared, groups, contents = zip(*chunk, strict=True)
    places = [
        position_of(key if group is None else f"group/{group}", seed=split_seed)
        for key, group in zip(keys, groups, strict=True)
    ]
    codes = [UNDECLARED if split is None else SPLITS.index(split) for split in declared]
    row_ids = [row_id_of(key) for key in keys]
    columns = [keys, labels, lengths, versions, codes, places, row_ids, contents]
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, LISTED, strict=True)]
    return pa.record_batch(arrays, schema=LISTED)


def _survey(parts: Iterable[Part]) -> Iterator[Survey]:
    begin_task()
    part = Survey()
    for batch, ignored in parts:
        part.ignored.update(ignored)
        labels = values_of(batch, "label")
        part.class_rows.update(label for label in labels if label is not None)
        part.num_unlabelled += batch["label"].null_count
        codes, rows = np.unique(batch["declared"].to_numpy(), return_counts=True)
        part.declared_rows.update(dict(zip(codes.tolist(), rows.tolist(), strict=True)))
        part.digest += _digest(batch, labels)
        part.add(Survey(first=_first(batch)))
    part.digest %= _MODULUS
    yield part


def _digest(batch: pa.RecordBatch, labels: Sequence[str | None]) -> int:
    """Return the sum modulo 2^128 of two 64-bit hashes of each row."""
    codes = {label: xxhash.xxh3_64_intdigest(repr(label).encode()) for label in set(labels)}
    columns = [np.array([codes[label] for label in labels], dtype=np.uint64)]
    for name in ("row_id", "num_bytes", "version", "declared"):
        columns.append(batch[name].to_numpy().astype(np.int64).view(np.uint64))
    columns.append(batch["position"].to_numpy().view(np.uint64))
    high, low = (_mix_rows(columns, seed) for seed in (1, 2))
    return (int(high.sum(dtype=np.uint64)) << 64) + int(low.sum(dtype=np.uint64))


def _mix_rows(columns: Sequence[NDArray[np.uint64]], seed: int) -> NDArray[np.uint64]:
    mixed = np.full(len(columns[0]), seed, dtype=np.uint64)
    for column in columns:
        mixed = splitmix64(mixed ^ column)
    return mixed


def _first(batch: pa.RecordBatch) -> list[SourceImage]:
    rows = heapq.nsmallest(_NUM_FIRST, range(batch.num_rows), key=values_of(batch, "key").__getitem__)
    return [
        SourceImage(
            batch["key"][row].as_py(),
            batch["label"][row].as_py(),
            batch["num_bytes"][row].as_py(),
            batch["version"][row].as_py(),
            content=batch["content"][row].as_py(),
        )
        for row in rows
    ]


def _count_places(
    parts: Iterable[Part], *, rule: SplitRule, copies: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    begin_task()
    places = []
    for batch, _ in parts:
        splits = splits_of(batch, rule)
        places.append(splits.astype(np.int64) * NUM_BUCKETS + bucket_of(batch["row_id"].to_numpy()))
        places += [
            SPLITS.index("train") * NUM_BUCKETS + bucket_of(np.array(ids, dtype=np.int64))
            for ids in copy_ids(batch, splits, copies)
        ]
    if places:
        yield np.unique(np.concatenate(places), return_counts=True)


def _positions_by_class(part: Part) -> Iterator[tuple[str, NDArray[np.float64]]]:
    batch = part.batch
    labels = np.array([label or "" for label in values_of(batch, "label")])
    free = batch["declared"].to_numpy() == UNDECLARED
    for label in np.unique(labels[free]):
        yield str(label), batch["position"].to_numpy()[free & (labels == label)]
