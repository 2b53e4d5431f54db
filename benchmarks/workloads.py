"""The images that the benchmarks work on."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from dlspark.contracts import ImageFormat

SMALL = ImageFormat(height=28, width=28, channels=1, resize="none")
SMALL_COLOUR = ImageFormat(height=32, width=32, channels=3, resize="none")
PHOTO = ImageFormat(height=256, width=256, channels=3, resize="shorter")


def unpack_mnist(archive: Path, folder: Path) -> Path:
    """Unpack the 60,000 training images of MNIST as class folders."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "mnist", filter="data")
    return next(path for path in (folder / "mnist").rglob("train") if path.is_dir())


def make_photos(archive: Path, folder: Path, *, copies: int) -> Path:
    """Unpack the photographs into ten class folders, several times, each file with its own bytes at its end.

    Bytes after a JPEG's end change its hash and nothing of its decoding.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "as-they-came", filter="data")
    names = sorted(path for path in (folder / "as-they-came").rglob("*") if path.suffix.lower() == ".jpeg")
    for index, path in enumerate(names):
        data = path.read_bytes()
        target = folder / "classes" / str(index % 10)
        target.mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            (target / f"{index:04d}-{copy}.jpeg").write_bytes(data + copy.to_bytes(4, "big"))
    return folder / "classes"


def make_large(archive: Path, folder: Path, number: int) -> Path:
    """Make JPEG files of 4,000 x 3,000 pixels out of ten photographs."""
    photos = make_photos(archive, folder / "photos", copies=1)
    large = []
    for path in sorted(photos.rglob("*.jpeg"))[:10]:
        target = folder / f"{path.stem}.jpeg"
        Image.open(path).convert("RGB").resize((4000, 3000)).save(target, quality=90)
        large.append(target.read_bytes())
    for index in range(number):
        target = folder / "classes" / str(index % 2) / f"{index:05d}.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(large[index % len(large)] + index.to_bytes(4, "big"))
    return folder / "classes"


def make_small(archive: Path, folder: Path, number: int) -> Path:
    """Make JPEG files of 32 x 32 pixels, the size of CIFAR's, out of parts of the photographs."""
    photos = [
        Image.open(path).convert("RGB")
        for path in sorted(make_photos(archive, folder, copies=1).rglob("*.jpeg"))
    ]
    random = np.random.default_rng(0)
    for index in range(number):
        photo = photos[index % len(photos)]
        side = int(random.integers(64, min(photo.size) + 1)) if min(photo.size) > 64 else min(photo.size)
        left, top = (int(random.integers(0, extent - side + 1)) for extent in photo.size)
        target = folder / "small" / str(index % 10) / f"{index:05d}.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = photo.resize((32, 32), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        part.save(target, quality=95)
    return folder / "small"


def make_resized(photos: Path, folder: Path) -> Path:
    """Make JPEG files whose shorter side is 256 pixels out of class folders of photographs."""
    for path in sorted(photos.rglob("*.jpeg")):
        photo = Image.open(path).convert("RGB")
        scale = 256 / min(photo.size)
        target = folder / "resized" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        size = (round(photo.width * scale), round(photo.height * scale))
        photo.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0).save(target, quality=90)
    return folder / "resized"
