"""Mixed rows on real Parquet files: the same for any ranks, reader, threads, storage and memory."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import pytest
import torch

from dlspark.contracts import ImageFormat
from dlspark.data.augment import Augmentation
from dlspark.data.loader import open_split
from dlspark.data.manifest import Manifest
from dlspark.data.mix import NO_MIXING, Mixing
from dlspark.errors import DatasetError
from tests.datasets import place_files, settings_of, write_splits

NUM_ROWS, SIDE, NUM_FILES = 203, 8, 9
MIXING = Mixing(mixup_alpha=0.5, cutmix_alpha=1.0)
FORMS: tuple[Literal["raw", "encoded"], ...] = ("raw", "encoded")
Dataset = tuple[str, Manifest]
Rows = dict[int, tuple[bytes, int, int, float]]
"""Row id to image, label, other label and share."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    images = np.random.default_rng(0).integers(0, 256, (NUM_ROWS, SIDE, SIDE, 1), dtype=np.uint8)
    made = {}
    for form in FORMS:
        folder = tmp_path_factory.mktemp(form)
        rows = place_files(folder / "source", images, classes="0123456789")
        image = ImageFormat(height=SIDE, width=SIDE, channels=1, resize="none")
        settings = settings_of(folder, image, classes="0123456789", storage=form)
        made[form] = (str(folder / "dataset"), write_splits({"train": rows}, settings, num_files=NUM_FILES))
    return made


def read(dataset: Dataset, *, num_ranks: int = 1, epoch: int = 1, **options: Any) -> list[Rows]:
    """The rows of each step of an epoch over all ranks."""
    values = {
        "global_batch_size": 32,
        "seed": 5,
        "shuffle": True,
        "augmentation": Augmentation(mirror=True, crop_padding=1),
        "mixing": MIXING,
        "reader": "arrow",
        "num_epochs": 3,
    } | options
    steps: list[Rows] = []
    for rank in range(num_ranks):
        with open_split(*dataset, "train", rank=rank, num_ranks=num_ranks, **values) as source:  # type: ignore[arg-type]
            for earlier in range(epoch):
                for _ in source.batches(earlier):
                    pass
            for batch in source.batches(epoch):
                others = [-1] * len(batch.row_ids) if batch.other_labels is None else batch.other_labels
                share = [1.0] * len(batch.row_ids) if batch.label_share is None else batch.label_share
                columns = (batch.images, batch.labels, others, share)
                steps.extend({} for _ in range(batch.step + 1 - len(steps)))
                for row_id, image, *rest in zip(batch.row_ids.tolist(), *columns, strict=True):
                    assert row_id not in steps[batch.step]
                    label, other, part = (float(value) for value in rest)
                    steps[batch.step][row_id] = (image.numpy().tobytes(), int(label), int(other), part)
    return steps


def smallest_memory(dataset: Dataset) -> int:
    """With which no file stays in memory."""
    with pytest.raises(DatasetError, match="at least") as caught:
        read(dataset, memory_bytes=1)
    return int(str(caught.value).partition("at least ")[2].partition(":")[0])


def test_ranks_readers_threads_storage_and_memory_give_the_same_rows(datasets: dict[str, Dataset]) -> None:
    expected = read(datasets["raw"])
    assert sum(map(len, expected)) == NUM_ROWS
    for form, num_ranks in itertools.product(FORMS, (1, 2, 3, 7)):
        assert read(datasets[form], num_ranks=num_ranks) == expected
    for options in (
        {"reader": "petastorm"},
        {"num_threads": 3, "num_ranks": 2},
        {"reader": "petastorm", "num_ranks": 2},
    ):
        for form, smallest in itertools.product(FORMS, (False, True)):
            room = {"memory_bytes": smallest_memory(datasets[form])} if smallest else {}
            assert read(datasets[form], **options, **room) == expected, (form, options, room)  # type: ignore[arg-type]
    assert read(datasets["raw"], epoch=2) != expected


def test_another_batch_size_gives_other_steps_of_the_same_rows(datasets: dict[str, Dataset]) -> None:
    rows = {row_id: row for step in read(datasets["raw"]) for row_id, row in step.items()}
    other = {
        row_id: row
        for step in read(datasets["raw"], global_batch_size=50, num_ranks=2)
        for row_id, row in step.items()
    }
    assert other == rows


def test_a_row_is_mixed_with_a_row_of_its_file_as_that_one_is_changed_in_the_epoch(
    datasets: dict[str, Dataset],
) -> None:
    plain, mixed = (
        {row_id: row for step in read(datasets["raw"], mixing=mixing) for row_id, row in step.items()}
        for mixing in (NO_MIXING, Mixing(mixup_alpha=1.0))
    )
    ids = np.sort(np.fromiter(plain, dtype=np.int64))
    preprocessing = datasets["raw"][1].preprocessing
    mean, std = preprocessing.mean[0], preprocessing.std[0]

    def levels(row_ids: np.ndarray, rows: Rows) -> np.ndarray:
        images = np.stack([np.frombuffer(rows[row_id][0], dtype=np.float32) for row_id in row_ids.tolist()])
        return (images.astype(np.float64) * std + mean) * 255

    found = []
    for file in np.array_split(ids, NUM_FILES):
        own, after = levels(file, plain), levels(file, mixed)
        for place, row_id in enumerate(file.tolist()):
            _, label, other, share = mixed[row_id]
            assert label == plain[row_id][1]
            distance = np.abs(share * own[place] + (1 - share) * own - after[place]).max(axis=1)
            fits = np.flatnonzero(distance < 0.51)
            # Close to a share of 1 any partner fits.
            if share < 0.95:
                assert len(fits) == 1
                assert plain[int(file[fits[0]])][1] == other
                found.append(fits[0] != place)
    assert len(found) > 0.8 * NUM_ROWS
    assert all(found)


def test_a_rank_without_rows_in_a_step_has_an_empty_batch(datasets: dict[str, Dataset]) -> None:
    with open_split(
        *datasets["raw"],
        "train",
        global_batch_size=2,
        seed=0,
        rank=0,
        num_ranks=3,
        shuffle=True,
        mixing=MIXING,
        reader="arrow",
    ) as source:
        sizes = set()
        for batch in source.batches(0):
            assert batch.label_share is not None
            assert len(batch.images) == len(batch.labels) == len(batch.label_share) == len(batch.row_ids)
            sizes.add(len(batch.labels))
            assert batch.images.dtype == torch.float32
    assert 0 in sizes
