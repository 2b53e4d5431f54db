"""Those who give batches in the benchmark of the loader: an array in memory, dlspark, and torchvision."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dlspark.contracts import Preprocessing
from dlspark.data.augment import Augmentation, augment
from dlspark.data.columns import pixels_of
from dlspark.data.loader import open_split
from dlspark.data.manifest import read_manifest
from dlspark.data.normalise import normalise
from dlspark.data.readers import Reader, read_files

AUGMENTATION = Augmentation(crop_padding=2, mirror=True)


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


def read_memory(_: None, dataset: Path, batch_size: int, threads: int, epoch: int) -> None:
    """Gather, augment and normalise every batch of an array in memory."""
    pixels, row_ids, preprocessing = _load(dataset)
    order = np.random.default_rng(epoch).permutation(len(pixels))

    def make(start: int) -> int:
        rows = order[start : start + batch_size]
        changed = augment(pixels[rows], row_ids[rows], AUGMENTATION, seed=0, epoch=epoch)
        return len(normalise(torch.from_numpy(changed), preprocessing))

    with ThreadPoolExecutor(threads) as pool:
        total = sum(pool.map(make, range(0, len(order), batch_size)))
    _require_all(total, len(pixels))


def read_dataset(_: None, dataset: Path, batch_size: int, reader: Reader, epoch: int) -> None:
    """Read an epoch of a dataset as training does."""
    manifest = read_manifest(str(dataset))
    with open_split(
        str(dataset),
        manifest,
        "train",
        global_batch_size=batch_size,
        seed=0,
        rank=0,
        num_ranks=1,
        shuffle=True,
        augmentation=AUGMENTATION,
        reader=reader,
        prefetch_batches=4,
    ) as loader:
        total = sum(len(batch.images) for batch in loader.batches(epoch))
    _require_all(total, manifest.splits["train"].rows)


@functools.cache
def _folder_loader(source: Path, batch_size: int, workers: int) -> torch.utils.data.DataLoader[object]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    changes = v2.Compose(
        [
            v2.Grayscale(),
            v2.RandomCrop(28, padding=2),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.1307], [0.3081]),
        ]
    )
    return torch.utils.data.DataLoader(
        ImageFolder(str(source), changes),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
    )


def read_folder(_: None, source: Path, batch_size: int, workers: int, epoch: int) -> None:
    """Read an epoch of class folders the way that torchvision's documentation shows."""
    loader = _folder_loader(source, batch_size, workers)
    total = sum(len(images) for images, _ in loader)  # type: ignore[misc] # images and labels
    _require_all(total, len(loader.dataset))  # type: ignore[arg-type] # it has a length


def _require_all(total: int, expected: int) -> None:
    if total != expected:
        raise AssertionError(f"{total} of {expected} images came")
