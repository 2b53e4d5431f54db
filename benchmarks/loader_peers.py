"""Those who give batches in the benchmark of the loader: memory, dlspark, and Petastorm itself."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.foreign_peers import BATCH_SIZES, WORKERS, pillow_changes
from benchmarks.foreign_peers import SIZES as FOREIGN_SIZES
from dlspark.contracts import Preprocessing
from dlspark.data.augment import Augmentation, augment
from dlspark.data.columns import pixels_of
from dlspark.data.loader import Loader, open_split
from dlspark.data.manifest import read_manifest
from dlspark.data.normalise import normalise
from dlspark.data.readers import Reader, read_files

AUGMENTATIONS = {
    "mnist": Augmentation(crop_padding=2, mirror=True),
    "small": Augmentation(crop_padding=4, mirror=True),
    "photo": Augmentation(crop_size=224, crop_min_area=0.08, mirror=True),
}
SIZES = {"mnist": 28, **FOREIGN_SIZES}
BATCHES = {"mnist": 128, **BATCH_SIZES}


@contextmanager
def unprepared() -> Iterator[None]:
    """Give nothing: what a peer keeps, it makes in its first run."""
    torch.set_num_threads(1)
    yield


@functools.cache
def _load(dataset: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], Preprocessing]:
    manifest = read_manifest(str(dataset))
    files = manifest.splits["train"].files
    parts = list(read_files(str(dataset), files, reader="arrow"))
    image = manifest.preprocessing.image
    pixels = np.concatenate([pixels_of(part, image, "raw", where="") for part in parts])
    return pixels, np.concatenate([part.row_ids for part in parts]), manifest.preprocessing


def read_memory(_: None, dataset: Path, setting: str, epoch: int) -> None:
    """Gather, augment and normalise every batch of an array in memory."""
    pixels, row_ids, preprocessing = _load(dataset)
    order = np.random.default_rng(epoch).permutation(len(pixels))

    def make(start: int) -> int:
        rows = order[start : start + BATCHES[setting]]
        changed = augment(pixels[rows], row_ids[rows], AUGMENTATIONS[setting], seed=0, epoch=epoch)
        return _count(normalise(torch.from_numpy(changed), _cropped(preprocessing, setting)), setting)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        total = sum(pool.map(make, range(0, len(order), BATCHES[setting])))
    _require_all(total, len(pixels))


def _cropped(preprocessing: Preprocessing, setting: str) -> Preprocessing:
    return Preprocessing(
        image=preprocessing.image,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop=AUGMENTATIONS[setting].crop_size,
    )


def open_loader(dataset: Path, setting: str, reader: Reader) -> Loader:
    """Open a dataset as training does, on both cores."""
    manifest = read_manifest(str(dataset))
    return open_split(
        str(dataset),
        dataclasses.replace(manifest, preprocessing=_cropped(manifest.preprocessing, setting)),
        "train",
        global_batch_size=BATCHES[setting],
        seed=0,
        rank=0,
        num_ranks=1,
        shuffle=True,
        augmentation=AUGMENTATIONS[setting],
        reader=reader,
        num_threads=os.cpu_count(),
    )


_open_once = functools.cache(open_loader)


def read_first_epoch(_: None, dataset: Path, setting: str, reader: Reader, epoch: int) -> None:
    """Read an epoch of a dataset as the first of a training: every file from storage."""
    with open_loader(dataset, setting, reader) as loader:
        _read(loader, setting, epoch)


def read_later_epoch(_: None, dataset: Path, setting: str, reader: Reader, epoch: int) -> None:
    """Read an epoch of a dataset as one of a training after its first."""
    _read(_open_once(dataset, setting, reader), setting, epoch)


def _read(loader: Loader, setting: str, epoch: int) -> None:
    total = sum(_count(batch.images, setting) for batch in loader.batches(epoch))
    _require_all(total, loader.num_rows)


def read_petastorm(_: None, dataset: Path, setting: str, num_rows: int, epoch: int) -> None:
    """Read an epoch of encoded images by TransformSpec and BatchedDataLoader, as Petastorm documents it."""
    from petastorm import TransformSpec, make_batch_reader
    from petastorm.pytorch import BatchedDataLoader

    size = AUGMENTATIONS[setting].crop_size or 32
    spec = TransformSpec(
        functools.partial(_transform, pillow_changes(setting)),
        edit_fields=[("image", np.float32, (3, size, size), False)],
        selected_fields=["image", "label"],
    )
    files = [f"file://{path}" for path in sorted((dataset / "split=train").rglob("*.parquet"))]
    reader = make_batch_reader(
        files, schema_fields=["image", "label"], transform_spec=spec, num_epochs=1, seed=epoch,
        reader_pool_type="process", workers_count=WORKERS, shuffle_rows=True,
    )  # fmt: skip
    with BatchedDataLoader(
        reader, batch_size=BATCHES[setting], shuffling_queue_capacity=5000 if setting == "small" else 500
    ) as loader:
        total = sum(_count(batch["image"], setting) for batch in loader)
    _require_all(total, num_rows)


def _transform(changes: Any, frame: Any) -> Any:
    frame["image"] = frame["image"].map(lambda data: changes(Image.open(io.BytesIO(data))).numpy())
    return frame


def _count(images: torch.Tensor, setting: str) -> int:
    """Return the number of images, each of the size that a network would get."""
    if images.shape[-1] != SIZES[setting] or images.shape[-2] != SIZES[setting]:
        raise AssertionError(f"images of shape {tuple(images.shape[1:])}")
    return len(images)


def _require_all(total: int, expected: int) -> None:
    if total != expected:
        raise AssertionError(f"{total} of {expected} images came")
