"""Real Parquet files, written by the same code as at ingest but without Spark, read back by every reader."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from dlspark.contracts import Batch, BatchSource, ImageFormat, Preprocessing
from dlspark.data.augment import Augmentation
from dlspark.data.loader import Loader, open_split
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.data.readers import read_files
from dlspark.data.split import row_id_of
from dlspark.errors import DatasetError
from tests.datasets import place_files, settings_of, write_splits

READERS: tuple[Literal["petastorm", "arrow"], ...] = ("petastorm", "arrow")
NUM_ROWS = 83
NUM_FILES = 6
SHAPE = (5, 4, 3)


def write_dataset(
    folder: Path, form: Literal["raw", "encoded"], shape: tuple[int, int, int] = SHAPE
) -> Manifest:
    """83 random images in six files, all of the train split; val and test are empty."""
    images = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, *shape), dtype=np.uint8)
    rows = place_files(folder / "source", images, classes="abc")
    image = ImageFormat(height=shape[0], width=shape[1], channels=shape[2], resize="none")  # type: ignore[arg-type]
    settings = settings_of(folder, image, classes="abc", storage=form)
    return write_splits({"train": rows}, settings, num_files=NUM_FILES)


@pytest.fixture(scope="module", params=["raw", "encoded"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = tmp_path_factory.mktemp(request.param)
    manifest = write_dataset(folder, request.param)
    return str(folder / "dataset"), manifest


@pytest.fixture
def raw(tmp_path: Path) -> tuple[str, Manifest]:
    """A dataset that a test may damage."""
    manifest = write_dataset(tmp_path, "raw")
    return str(tmp_path / "dataset"), manifest


def loader(dataset: tuple[str, Manifest], rank: int = 0, num_ranks: int = 1, **options: object) -> Loader:
    values = {
        "global_batch_size": 16,
        "seed": 5,
        "shuffle": True,
        "augmentation": Augmentation(mirror=True, crop_padding=1),
        "reader": "arrow",
        "prefetch_batches": 2,
    } | options
    return open_split(*dataset, "train", rank=rank, num_ranks=num_ranks, **values)  # type: ignore[arg-type]


def read_all(source: BatchSource, epoch: int = 0, start_step: int = 0) -> list[Batch]:
    return list(source.batches(epoch, start_step))


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("dlspark-loader")]


def test_the_manifest_survives_its_file(dataset: tuple[str, Manifest]) -> None:
    assert read_manifest(dataset[0]) == dataset[1]


def test_the_stored_pixels_are_the_images(dataset: tuple[str, Manifest]) -> None:
    # In [0, 1] and unshuffled, each image is what was drawn for its key.
    images = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, *SHAPE), dtype=np.uint8)
    expected = {row_id_of(f"{index:03d}.png"): (index % 3, image) for index, image in enumerate(images)}
    plain = Preprocessing(image=dataset[1].preprocessing.image, mean=(0.0,) * 3, std=(1.0,) * 3)
    unnormalised = (dataset[0], dataclasses.replace(dataset[1], preprocessing=plain))
    seen = 0
    for batch in read_all(loader(unnormalised, shuffle=False, augmentation=Augmentation())):
        for row_id, image, label in zip(
            batch.row_ids.tolist(), batch.images, batch.labels.tolist(), strict=True
        ):
            pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            assert label == expected[row_id][0]
            assert (pixels == expected[row_id][1]).all()
            seen += 1
    assert seen == NUM_ROWS


@pytest.mark.faults(scenario=3)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_every_row_once_and_the_same_rows_in_each_step_for_any_number_of_ranks(
    dataset: tuple[str, Manifest], num_ranks: int
) -> None:
    for epoch in (0, 1):
        alone = read_all(loader(dataset), epoch)
        whole = {
            row_id: image
            for batch in alone
            for row_id, image in zip(batch.row_ids.tolist(), batch.images, strict=True)
        }
        assert len(whole) == NUM_ROWS == sum(len(batch.row_ids) for batch in alone)
        for reader in READERS:
            ranks = [
                read_all(loader(dataset, rank, num_ranks, reader=reader), epoch) for rank in range(num_ranks)
            ]
            for step, parts in enumerate(zip(*ranks, strict=True)):
                ids = np.concatenate([part.row_ids for part in parts])
                assert sorted(ids.tolist()) == sorted(alone[step].row_ids.tolist())
                assert {part.global_rows for part in parts} == {len(ids)}
                assert {part.step for part in parts} == {step}
                for part in parts:
                    for row_id, image in zip(part.row_ids.tolist(), part.images, strict=True):
                        assert torch.equal(image, whole[row_id])


def test_both_readers_give_the_same_batches_bit_for_bit(dataset: tuple[str, Manifest]) -> None:
    for epoch in range(3):
        arrow, petastorm = (
            read_all(loader(dataset, reader=reader), epoch) for reader in ("arrow", "petastorm")
        )
        assert len(arrow) == 6
        for one, other in zip(arrow, petastorm, strict=True):
            assert (one.row_ids == other.row_ids).all()
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)
            assert one.images.dtype == torch.float32
            assert one.labels.dtype == torch.int64
            assert one.row_ids.dtype == np.int64


def test_raw_and_encoded_give_the_same_batches(tmp_path: Path) -> None:
    forms: tuple[Literal["raw", "encoded"], ...] = ("raw", "encoded")
    for shape in (SHAPE, (3, 7, 1)):
        folders = {form: tmp_path / f"{form}{shape[2]}" for form in forms}
        manifests = {form: write_dataset(folders[form], form, shape) for form in forms}
        assert manifests["raw"].fingerprint == manifests["encoded"].fingerprint
        raw, encoded = (read_all(loader((str(folders[form] / "dataset"), manifests[form]))) for form in forms)
        assert all(torch.equal(a.images, b.images) for a, b in zip(raw, encoded, strict=True))


def test_epochs_differ_and_an_evaluation_does_not(dataset: tuple[str, Manifest]) -> None:
    orders = [
        np.concatenate([batch.row_ids for batch in read_all(loader(dataset), epoch)]) for epoch in (0, 1)
    ]
    assert (orders[0] != orders[1]).any()
    fixed = [
        np.concatenate([batch.row_ids for batch in read_all(loader(dataset, shuffle=False), epoch)])
        for epoch in (0, 1)
    ]
    assert (fixed[0] == fixed[1]).all()


@pytest.mark.faults(scenario=7)
@pytest.mark.parametrize("start_step", range(7))
def test_an_epoch_goes_on_at_any_step(dataset: tuple[str, Manifest], start_step: int) -> None:
    for rank, reader in itertools.product(range(2), READERS):
        source = loader(dataset, rank, 2, reader=reader)
        whole, rest = read_all(source, 3), read_all(source, 3, start_step)
        assert len(rest) == 6 - start_step
        for expected, got in zip(whole[start_step:], rest, strict=True):
            assert expected.step == got.step
            assert torch.equal(expected.images, got.images)


@pytest.mark.faults(scenario=3)
def test_a_rank_may_hold_no_row_and_still_gets_every_step(dataset: tuple[str, Manifest]) -> None:
    batches = read_all(loader(dataset, rank=0, num_ranks=7, global_batch_size=6))
    assert len(batches) == 14
    assert {len(batch.row_ids) for batch in batches} == {0}
    assert batches[0].images.shape == (0, 3, 5, 4)


def test_the_batches_of_the_ranks_together_are_the_batch_of_one(dataset: tuple[str, Manifest]) -> None:
    alone = read_all(loader(dataset))
    ranks = [read_all(loader(dataset, rank=rank, num_ranks=9)) for rank in range(9)]
    for step, batch in enumerate(alone):
        parts = [batches[step] for batches in ranks]
        assert max(len(part.row_ids) for part in parts) - min(len(part.row_ids) for part in parts) <= 1
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)


@pytest.mark.parametrize("reader", READERS)
def test_breaking_out_leaves_no_thread(dataset: tuple[str, Manifest], reader: str) -> None:
    before = threading.active_count()
    with loader(dataset, reader=reader, global_batch_size=4, prefetch_batches=1) as source:
        for epoch in range(20):
            for batch in source.batches(epoch):
                assert batch.step == 0
                break
            assert not loader_threads()
        unfinished = source.batches(0)
        next(unfinished)
        assert loader_threads()
    assert not loader_threads()
    assert list(unfinished) == []
    assert threading.active_count() == before


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", ["missing", "short", "other rows", "folder", "not parquet"])
def test_a_file_that_is_not_the_manifests_is_an_error_at_once(
    raw: tuple[str, Manifest], reader: str, damage: str
) -> None:
    url, manifest = raw
    entries = list(manifest.splits["train"].files)
    victim = Path(url) / entries[2].path
    if damage == "missing":
        victim.unlink()
    elif damage == "short":
        victim.write_bytes(victim.read_bytes()[:-10])
    elif damage == "folder":
        victim.unlink()
        victim.mkdir()
    elif damage == "not parquet":
        victim.write_bytes(b"x" * entries[2].num_bytes)
    else:
        entries[2] = dataclasses.replace(entries[2], path=entries[3].path, num_bytes=entries[3].num_bytes)
    split = dataclasses.replace(manifest.splits["train"], files=tuple(entries))
    manifest = dataclasses.replace(manifest, splits={**manifest.splits, "train": split})
    with (
        loader((url, manifest), reader=reader) as source,
        pytest.raises(DatasetError, match=r"part-0000[23]"),
    ):
        read_all(source)
    assert not loader_threads()


def test_a_reader_that_skips_a_file_is_noticed(
    raw: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlspark.data import arrow_reader

    whole = arrow_reader.read_with_arrow

    def skip_one(urls: list[str], content: str) -> Iterator[object]:
        found = zip(urls, whole(urls, content), strict=True)
        return (columns for url, columns in found if "part-00001" not in url)

    monkeypatch.setattr(arrow_reader, "read_with_arrow", skip_one)
    files = raw[1].splits["train"].files
    with pytest.raises(DatasetError, match=r"rows of a file are not the manifest's"):
        list(read_files(raw[0], files, reader="arrow"))
    with pytest.raises(DatasetError, match="lost a file"):
        list(read_files(raw[0], files[:2], reader="arrow"))


def test_a_pickle_beside_the_files_is_never_opened(raw: tuple[str, Manifest]) -> None:
    (Path(raw[0]) / "_common_metadata").write_bytes(b"not even Parquet")
    (Path(raw[0]) / "split=train" / "_common_metadata").write_bytes(b"not even Parquet")
    assert sum(len(batch.row_ids) for batch in read_all(loader(raw, reader="petastorm"))) == NUM_ROWS


@pytest.mark.faults(scenario=3)
def test_more_ranks_than_rows_or_no_rows_is_an_error(dataset: tuple[str, Manifest]) -> None:
    with pytest.raises(DatasetError, match="83 rows and 84 ranks"):
        loader(dataset, num_ranks=84)
    with pytest.raises(DatasetError, match="the val split has no rows"):
        open_split(
            *dataset,
            "val",
            global_batch_size=4,
            seed=0,
            rank=0,
            num_ranks=1,
            shuffle=False,
            prefetch_batches=1,
        )


def test_arrow_needs_no_petastorm(dataset: tuple[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "petastorm", None)
    monkeypatch.delitem(sys.modules, "dlspark.data.petastorm_reader", raising=False)
    assert len(read_all(loader(dataset, reader="arrow"))) == 6
    with pytest.raises(ImportError):
        read_all(loader(dataset, reader="petastorm"))
