"""A loader's threads, memory and errors, on real Parquet files."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dlspark.contracts import BatchSource, ImageFormat
from dlspark.data import loader
from dlspark.data.augment import Augmentation
from dlspark.data.columns import FileColumns
from dlspark.data.loader import Loader, open_split
from dlspark.data.manifest import FileEntry, Manifest
from dlspark.data.readers import Reader, read_files
from dlspark.errors import DatasetError
from tests.datasets import place_files, settings_of, write_splits

NUM_ROWS = 997
READERS: tuple[Literal["petastorm", "arrow"], ...] = ("petastorm", "arrow")
Dataset = tuple[str, Manifest]


def write_dataset(folder: Path, form: Literal["raw", "encoded"], *, side: int, num_files: int) -> Dataset:
    """997 random gray images in the train split, listed class by class, ten classes."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, side, side, 1), dtype=np.uint8)
    rows = [
        row._replace(image=row.image._replace(label=str(index * 10 // NUM_ROWS)))
        for index, row in enumerate(place_files(folder / "source", images, classes="0"))
    ]
    image = ImageFormat(height=side, width=side, channels=1, resize="none")
    settings = settings_of(folder, image, classes="0123456789", storage=form)
    manifest = write_splits({"train": rows}, settings, num_files=num_files)
    return str(folder / "dataset"), manifest


@pytest.fixture(scope="module", params=["raw", "encoded"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp(request.param), request.param, side=8, num_files=40)


def opened(dataset: Dataset, **options: Any) -> Loader:
    values = {
        "global_batch_size": 64,
        "seed": 5,
        "rank": 0,
        "num_ranks": 1,
        "shuffle": True,
        "augmentation": Augmentation(mirror=True, crop_padding=1),
        "reader": "arrow",
    } | options
    return open_split(*dataset, "train", **values)


def digest(source: BatchSource, epoch: int) -> str:
    """Hash what an epoch gives, in its order."""
    total = hashlib.sha256()
    for batch in source.batches(epoch):
        for part in (batch.row_ids, batch.images.numpy(), batch.labels.numpy()):
            total.update(part.tobytes())
    return total.hexdigest()


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dlspark-loader")]


def test_readers_and_threads_give_the_same_bytes_in_the_same_order(dataset: Dataset) -> None:
    digests = set()
    for reader, num_threads in itertools.product(READERS, (1, 2, 5)):
        source = opened(dataset, reader=reader, num_threads=num_threads)
        digests.add(tuple(digest(source, epoch) for epoch in range(3)))
    (epochs,) = digests
    assert len(set(epochs)) == 3


def test_the_next_epoch_begins_while_the_last_batch_is_used(dataset: Dataset) -> None:
    expected = digest(opened(dataset), 1)
    with opened(dataset, num_epochs=2) as source:
        for batch in source.batches(0):
            begun = any(name.startswith("dlspark-loader-1") for name in loader_threads())
            assert begun == (batch.step == source.num_steps - 1)
        assert digest(source, 1) == expected
        assert not loader_threads()
        digest(source, 0)
        assert loader_threads()
    assert not loader_threads()


@pytest.mark.parametrize("reader", READERS)
def test_closing_at_any_moment_takes_no_time(dataset: Dataset, reader: str) -> None:
    for step in (0, 1, 7, 15):
        source = opened(dataset, reader=reader, num_threads=3, num_epochs=2)
        batches = source.batches(0)
        for _ in range(step + 1):
            next(batches)
        started = time.monotonic()
        source.close()
        assert time.monotonic() - started < 2
        assert not loader_threads()


def test_memory_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, "raw", side=32, num_files=8)
    common: dict[str, Any] = {"num_epochs": 11, "reader": "petastorm"}
    process = psutil.Process()
    used = {}
    with opened(dataset, **common) as train, opened(dataset, **common, shuffle=False) as evaluation:
        for epoch in range(11):
            digest(train, epoch)
            digest(evaluation, epoch)
            used[epoch] = process.memory_info().rss
    assert used[10] <= 1.05 * used[2]


def test_files_are_read_once_as_far_as_there_is_room_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path, "raw", side=32, num_files=16)
    sizes = {file.path: file.num_bytes for file in dataset[1].splits["train"].files}
    read: list[str] = []

    def recorded(
        url: str, files: Sequence[FileEntry], *, reader: Reader, content: str
    ) -> Generator[FileColumns, None, None]:
        read.extend(file.path for file in files)
        yield from read_files(url, files, reader=reader, content=content)

    monkeypatch.setattr(loader, "read_files", recorded)
    with pytest.raises(DatasetError, match="at least") as told:
        opened(dataset, memory_bytes=1)
    least = int(str(told.value).split("at least ")[1].split(":")[0])
    digests = set()
    for room_bytes, num_kept in ((0, 0), (5 * max(sizes.values()), 5), (sum(sizes.values()), 16)):
        read.clear()
        with opened(dataset, memory_bytes=least + room_bytes, prefetch_batches=1) as source:
            digests.add(tuple(digest(source, epoch) for epoch in range(3)))
        assert sorted(read[:16]) == sorted(sizes)
        assert len(read) == 16 + 2 * (16 - num_kept)
        assert len(set(read[16:])) == 16 - num_kept
    assert len(digests) == 1


def test_fewer_batches_are_made_ahead_where_memory_asks_for_it_and_too_little_is_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_dataset(tmp_path, "raw", side=16, num_files=4)
    caplog.set_level(logging.WARNING)
    opened(dataset, prefetch_batches=50, num_threads=2, memory_bytes=3_000_000)
    (record,) = (one for one in caplog.records if one.name.startswith("dlspark."))
    assert "batches are prepared ahead instead of 50" in record.message
    with pytest.raises(DatasetError, match=r"got data\.memory_bytes=100000; allowed: at least \d+"):
        opened(dataset, memory_bytes=100_000)


@pytest.mark.faults(scenario=4)
def test_an_image_that_cannot_be_decoded_is_named_with_its_file_and_row(tmp_path: Path) -> None:
    url, manifest = write_dataset(tmp_path, "encoded", side=8, num_files=4)
    entries = list(manifest.splits["train"].files)
    entries[2] = _break_image(Path(url), entries[2], row=17)
    split = dataclasses.replace(manifest.splits["train"], files=tuple(entries))
    broken = dataclasses.replace(manifest, splits={**manifest.splits, "train": split})
    with opened((url, broken)) as source, pytest.raises(DatasetError, match=r"row 17 \(row id \d+\)") as told:
        digest(source, 0)
    assert entries[2].path in str(told.value)
    assert not loader_threads()


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("label", pa.array([str(row) for row in range(250)]), "column label .*allowed: integers"),
        ("image", pa.array([[row] for row in range(250)]), "column image .*allowed: bytes"),
        ("row_id", None, "column row_id .*no such column.*allowed: integers"),
    ],
)
def test_a_column_of_another_kind_is_named(
    tmp_path: Path, reader: str, column: str, values: pa.Array | None, told: str
) -> None:
    url, manifest = write_dataset(tmp_path, "raw", side=4, num_files=4)
    entries = []
    for entry in manifest.splits["train"].files:
        path = Path(url) / entry.path
        table = pq.ParquetFile(path).read()
        place = table.schema.get_field_index(column)
        table = table.remove_column(place)
        if values is not None:
            table = table.add_column(place, column, values[: table.num_rows])
        pq.write_table(table.replace_schema_metadata(), path)
        entries.append(dataclasses.replace(entry, num_bytes=path.stat().st_size))
    split = dataclasses.replace(manifest.splits["train"], files=tuple(entries))
    changed = dataclasses.replace(manifest, splits={**manifest.splits, "train": split})
    with opened((url, changed), reader=reader) as source, pytest.raises(DatasetError, match=told):
        digest(source, 0)


def _break_image(folder: Path, entry: FileEntry, *, row: int) -> FileEntry:
    """Cut an image short in its file; return the entry of a file that is like that."""
    path = folder / entry.path
    table = pq.ParquetFile(path).read()
    images = table["image"].to_pylist()
    images[row] = images[row][:40]
    column = pa.array(images, pa.binary())
    place = table.schema.get_field_index("image")
    pq.write_table(table.set_column(place, table.schema.field(place), column), path)
    return dataclasses.replace(entry, num_bytes=path.stat().st_size)


@pytest.mark.faults(scenario=3)
def test_the_batches_of_a_source_sorted_by_label_are_as_mixed_as_a_true_shuffle(dataset: Dataset) -> None:
    batches = [batch.labels.numpy() for batch in opened(dataset).batches(0)]
    labels = np.concatenate(batches)
    shuffled = np.random.default_rng(0).permutation(labels)
    true = [shuffled[start : start + 64] for start in range(0, NUM_ROWS, 64)]
    assert _mean_entropy(batches) >= 0.95 * _mean_entropy(true)


def _mean_entropy(batches: list[np.ndarray]) -> float:
    shares = [np.bincount(batch, minlength=10) / len(batch) for batch in batches]
    return float(np.mean([-(share[share > 0] * np.log(share[share > 0])).sum() for share in shares]))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_fresh_readers_lose_no_row(tmp_path: Path) -> None:
    images = np.zeros((50_000, 2, 2, 1), dtype=np.uint8)
    rows = place_files(tmp_path / "source", images, classes="01")
    image = ImageFormat(height=2, width=2, channels=1, resize="none")
    settings = settings_of(tmp_path, image, classes="01")
    manifest = write_splits({"train": rows}, settings, num_files=64, num_streams=16)
    dataset = (str(tmp_path / "dataset"), manifest)
    for epoch in range(200):
        with opened(dataset, reader="petastorm", global_batch_size=1000) as source:
            ids = np.concatenate([batch.row_ids for batch in source.batches(epoch)])
        assert len(np.unique(ids)) == len(ids) == 50_000
