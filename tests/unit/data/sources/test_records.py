from __future__ import annotations

import gzip
import io
import logging
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dlspark.data.sources import record_files
from dlspark.data.sources.records import RecordSource, holds_records, open_records
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError


def idx_images(pixels: NDArray[np.uint8]) -> bytes:
    return b"\x00\x00\x08\x03" + struct.pack(">III", *pixels.shape) + pixels.tobytes()


def idx_labels(labels: list[int]) -> bytes:
    return b"\x00\x00\x08\x01" + struct.pack(">I", len(labels)) + bytes(labels)


PIXELS = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def put_mnist(root: Path, dot: str = "-", *, packed: bool = False) -> Path:
    files = {
        f"train-images{dot}idx3-ubyte": idx_images(PIXELS),
        f"train-labels{dot}idx1-ubyte": idx_labels([7, 0, 9]),
        f"t10k-images{dot}idx3-ubyte": idx_images(PIXELS[:1] + 100),
        f"t10k-labels{dot}idx1-ubyte": idx_labels([3]),
    }
    root.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (root / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return root


def put_cifar(root: Path) -> Path:
    root.mkdir(parents=True)
    (root / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    for number, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        planes = b"".join(bytes([number + 10 * plane]) * 1024 for plane in range(3))
        marked = (
            bytes([201]) + planes[1:1024] + bytes([202]) + planes[1025:2048] + bytes([203]) + planes[2049:]
        )
        (root / f"{name}.bin").write_bytes(b"\x00" + planes + b"\x02" + marked)
    return root


def pixels_of(source: RecordSource, key: str) -> NDArray[np.uint8]:
    data = source.read(SourceImage(key, None, 0, 0))
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize(("dot", "packed"), [("-", False), (".", False), ("-", True), (".", True)])
def test_mnist_golden_pixels_and_labels(tmp_path: Path, dot: str, packed: bool) -> None:
    assert holds_records(str(put_mnist(tmp_path, dot, packed=packed)))
    source = pickle.loads(pickle.dumps(open_records(str(tmp_path))))  # noqa: S301
    for index in range(3):
        assert np.array_equal(pixels_of(source, f"train/{index:05d}"), PIXELS[index])
    assert np.array_equal(pixels_of(source, "test/00000"), PIXELS[0] + 100)
    train, test = source.files
    assert (train.labels(0, 3), train.labels(1, 2), test.labels(0, 1)) == (["7", "0", "9"], ["0"], ["3"])
    assert (train.split, test.split) == ("train", "test")
    image = SourceImage("train/00002", None, 0, 0)
    assert len(source.read(image)) == len(train.header) + train.num_bytes
    assert source.path_of(image).endswith("ubyte.gz#2" if packed else "ubyte#2")


@pytest.mark.parametrize("below", [".", "cifar-10-batches-bin"])
def test_cifar_golden_pixels_and_labels(tmp_path: Path, below: str) -> None:
    put_cifar(tmp_path / "root" / below)
    assert holds_records(str(tmp_path / "root"))
    source = open_records(str(tmp_path / "root"))
    assert [file.key for file in source.files][-2:] == ["data_batch_5", "test_batch"]
    assert [file.split for file in source.files] == ["train"] * 5 + ["test"]
    assert source.files[2].labels(0, 2) == ["airplane", "bird"]
    pixels = pixels_of(source, "data_batch_3/00001")
    assert pixels.shape == (32, 32, 3)
    assert pixels[0, 0].tolist() == [201, 202, 203]
    assert (pixels.reshape(-1, 3)[1:] == [2, 12, 22]).all()


def test_plain_files_come_before_their_compressed_copies(tmp_path: Path) -> None:
    put_mnist(put_mnist(tmp_path, "."), "-", packed=True)
    assert open_records(str(tmp_path)).files[0].path.endswith("train-images.idx3-ubyte")


def test_a_changed_file_is_another_version_and_is_read_anew(tmp_path: Path) -> None:
    put_mnist(tmp_path, packed=True)
    before = open_records(str(tmp_path))
    assert pixels_of(before, "train/00000")[0, 0] == 0
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_images(PIXELS + 50)))
    os.utime(path, ns=(1, 1))
    after = open_records(str(tmp_path))
    assert after.files[0].version == 1 != before.files[0].version
    assert pixels_of(after, "train/00000")[0, 0] == 50


def test_decompressed_files_are_bounded(tmp_path: Path) -> None:
    for name in "abc":
        source = open_records(str(put_mnist(tmp_path / name, packed=True)))
        source.read(SourceImage("train/00000", None, 0, 0))
    assert record_files._whole.cache_info().currsize <= 2


def test_a_missing_test_pair_is_said_and_a_missing_half_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(SourceError, match="got no t10k-images"):
        open_records(str(tmp_path))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with caplog.at_level(logging.WARNING):
        assert len(open_records(str(tmp_path)).files) == 1
    assert "no test split" in caplog.text


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train-images-idx3-ubyte", idx_images(PIXELS)[:-1], "got 75 bytes; allowed: 76 bytes"),
        ("train-images-idx3-ubyte", idx_images(PIXELS) + b"x", "got 77 bytes; allowed: 76 bytes"),
        ("train-images-idx3-ubyte", b"\x00\x00\x08", "got 3 bytes"),
        ("train-images-idx3-ubyte", idx_labels([1] * 20), "got 0x00000801; allowed: 0x00000803"),
        ("train-labels-idx1-ubyte", idx_labels([1, 2]), "got 3 images of 4 x 5 and 2 labels"),
        ("train-labels-idx1-ubyte", idx_labels([1, 2, 3])[:-1], "got 10 bytes; allowed: 11 bytes"),
    ],
)
def test_damaged_mnist_files_are_refused_with_the_numbers(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    (put_mnist(tmp_path) / name).write_bytes(data)
    with pytest.raises(SourceError, match=message):
        open_records(str(tmp_path))


def test_truncated_gzip_files_are_refused(tmp_path: Path) -> None:
    path = put_mnist(tmp_path, packed=True) / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SourceError, match="truncated or damaged"):
        open_records(str(tmp_path))


def test_damaged_cifar_files_are_refused_with_the_numbers(tmp_path: Path) -> None:
    root = put_cifar(tmp_path / "root")
    batch = root / "data_batch_2.bin"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-1])
    with pytest.raises(SourceError, match="got 6145 bytes; allowed: a multiple of 3073"):
        open_records(str(root))
    batch.write_bytes(b"\x03" + whole[1:])
    with pytest.raises(SourceError, match="got 3; allowed: 0 to 2"):
        open_records(str(root)).files[1].labels(0, 2)
    batch.unlink()
    with pytest.raises(SourceError, match=r"no data_batch_2\.bin"):
        open_records(str(root))


def test_a_file_that_becomes_shorter_is_an_os_error(tmp_path: Path) -> None:
    source = open_records(str(put_mnist(tmp_path)))
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(OSError, match="ends before byte"):
        source.read(SourceImage("train/00000", None, 0, 0))
