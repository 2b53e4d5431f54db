"""Features are read as the images are: the same rows in the same steps, bit for bit, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from dlspark.contracts import Batch, ImageFormat
from dlspark.data.feature_files import (
    INDEX_NAME,
    FeatureIndex,
    as_dataset,
    read_index,
    store_features,
    whole_files,
    write_index,
)
from dlspark.data.loader import open_split
from dlspark.data.manifest import Manifest
from dlspark.data.parquet_file import read_table
from dlspark.errors import DatasetError
from tests.datasets import place_files, settings_of, write_splits

NUM_FEATURES = 5


class Silent:
    """A progress display that shows nothing."""

    def update(self, completed: int, total: int, fields: Any = None) -> None:
        pass


def features_of(row_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Numbers that only a row has, among them those that a careless copy would not keep."""
    draws = np.stack([np.random.default_rng(row_id).normal(size=NUM_FEATURES) for row_id in row_ids.tolist()])
    values = draws.astype(np.float32)
    values[:, 0] = np.float32(1e-42)
    return values


@pytest.fixture
def folders(tmp_path: Path) -> tuple[str, Manifest, str]:
    """A dataset, its manifest, and the features of it."""
    images = np.random.default_rng(0).integers(0, 256, (47, 4, 4, 1), dtype=np.uint8)
    rows = place_files(tmp_path / "source", images, classes="abc")
    image = ImageFormat(height=4, width=4, channels=1, resize="none")
    settings = settings_of(tmp_path, image, classes="abc", storage="raw")
    manifest = write_splits({"train": rows[:40], "val": rows[40:]}, settings, num_files=3)
    folder, files = str(tmp_path / "features"), {}
    for split, entry in manifest.splits.items():
        for index, file in enumerate(entry.files):
            table = read_table((tmp_path / "dataset" / file.path).read_bytes(), ["row_id", "label"])
            ids, labels = table["row_id"].to_numpy(), table["label"].to_numpy()
            files[split, index] = store_features(
                folder, (split, index), row_ids=ids, labels=labels, features=features_of(ids)
            )
    write_index(folder, FeatureIndex(num_features=NUM_FEATURES, files=files, used=0.0))
    return str(tmp_path / "dataset"), manifest, folder


def batches(dataset: str, manifest: Manifest, **options: Any) -> list[Batch]:
    values = {"global_batch_size": 8, "seed": 3, "rank": 0, "num_ranks": 1, "shuffle": True} | options
    with open_split(dataset, manifest, "train", **values) as source:
        return [batch for epoch in (0, 1) for batch in source.batches(epoch, 2 * epoch)]


@pytest.mark.parametrize("reader", ["arrow", "petastorm"])
@pytest.mark.parametrize("memory_bytes", [12_000, 2**30])
@pytest.mark.parametrize("rank", [0, 1])
def test_the_steps_have_the_rows_of_those_of_images(
    folders: tuple[str, Manifest, str], reader: str, memory_bytes: int, rank: int
) -> None:
    dataset, manifest, folder = folders
    options = {"reader": reader, "rank": rank, "num_ranks": 2}
    images = batches(dataset, manifest, **options)
    found = batches(folder, as_dataset(folder, manifest), memory_bytes=memory_bytes, **options)
    assert len(found) == len(images) == 2 * 5 - 2
    for batch, of_images in zip(found, images, strict=True):
        assert (batch.step, batch.global_rows) == (of_images.step, of_images.global_rows)
        assert batch.row_ids.tolist() == of_images.row_ids.tolist()
        assert torch.equal(batch.labels, of_images.labels)
        assert batch.images.dtype == torch.float32
        assert np.array_equal(batch.images.numpy(), features_of(batch.row_ids))


def test_a_file_says_what_is_in_it(folders: tuple[str, Manifest, str]) -> None:
    _, manifest, folder = folders
    index = read_index(folder)
    assert index is not None
    assert set(index.files) == {(split, number) for split in ("train", "val") for number in range(3)}
    entry = index.files["train", 1]
    table = pq.read_table(f"{folder}/{entry.path}", partitioning=None)
    assert table.schema.names == ["row_id", "label", "features"]
    ids = table["row_id"].to_numpy()
    read = np.stack([np.frombuffer(row, "<f4") for row in table["features"].to_pylist()])
    assert np.array_equal(read, features_of(ids))
    assert (entry.rows, entry.min_row_id, entry.max_row_id) == (len(ids), ids.min(), ids.max())
    assert entry.checksum in entry.path
    assert as_dataset(folder, manifest).fingerprint == manifest.fingerprint


def test_damaged_and_lost_files_are_named_and_the_others_are_whole(
    folders: tuple[str, Manifest, str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = folders[2]
    index = read_index(folder)
    assert index is not None
    assert whole_files(folder, index, Silent()) == dict(index.files)
    damaged, lost = (Path(folder) / index.files["train", number].path for number in (0, 2))
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    lost.unlink()
    whole = whole_files(folder, index, Silent())
    assert set(index.files) - set(whole) == {("train", 0), ("train", 2)}
    assert f"{damaged} is damaged" in caplog.text
    assert f"{lost} is missing" in caplog.text


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"version": 3}', '{"version": 2, "num_features": 2, "files": 0}']
)
def test_an_index_that_says_nothing_is_as_if_it_were_not_there(
    folders: tuple[str, Manifest, str], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = Path(folders[2]) / INDEX_NAME
    file.write_text(text)
    assert read_index(folders[2]) is None
    assert f"{file} is damaged" in caplog.text
    file.unlink()
    caplog.clear()
    assert read_index(folders[2]) is None
    assert not caplog.text


def test_features_of_other_rows_are_refused(folders: tuple[str, Manifest, str]) -> None:
    _, manifest, folder = folders
    entry = manifest.splits["train"]
    fewer = dataclasses.replace(entry.files[1], rows=entry.files[1].rows - 1)
    split = dataclasses.replace(entry, files=(entry.files[0], fewer, entry.files[2]))
    other = dataclasses.replace(manifest, splits={**manifest.splits, "train": split})
    with pytest.raises(DatasetError, match=rf"{fewer.path} are of other rows"):
        as_dataset(folder, other)
    file = Path(folder) / INDEX_NAME
    values = json.loads(file.read_text())
    values["files"]["val"].pop()
    file.write_text(json.dumps(values))
    with pytest.raises(DatasetError, match="of other rows"):
        as_dataset(folder, manifest)
    file.unlink()
    with pytest.raises(DatasetError, match="there are no features"):
        as_dataset(folder, manifest)
