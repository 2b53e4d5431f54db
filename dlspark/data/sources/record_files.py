"""MNIST's IDX files and CIFAR-10's binary files as published: what they hold, checked, and single records.

IDX: big-endian header (magic 0x0803 for images: count, rows, columns; 0x0801 for labels: count), then bytes
(http://yann.lecun.com/exdb/mnist). CIFAR-10: no header; a record is one byte of label, then the red, the
green and the blue plane of 32 x 32 (https://www.cs.toronto.edu/~kriz/cifar.html).
Records of plain local files are read by their offset; compressed and remote files are held whole, two of
them in each process, which suits tasks that read a file from its start to its end.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any

import numpy as np

from dlspark import storage
from dlspark.contracts import Split
from dlspark.data.sources.files import is_local, measure_file
from dlspark.errors import SourceError

_IDX_IMAGES = 0x0803
_IDX_LABELS = 0x0801
_IDX_IMAGES_HEADER = 16
_IDX_LABELS_HEADER = 8
_CIFAR_SIDE = 32
_CIFAR_RECORD = 1 + 3 * _CIFAR_SIDE**2
_FIX = "fetch the file again as it was published"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordFile:
    """One file of images, all of one size, with where its labels are."""

    key: str
    """What the keys of its images start with."""
    split: Split
    path: str
    version: int
    num_records: int
    start: int
    """Offset of the first image in bytes."""
    stride: int
    """Bytes from one image to the next."""
    num_bytes: int
    """Bytes of the pixels of one image."""
    header: bytes
    """What makes a PNM file of the pixels."""
    planes: int
    """1: gray; 3: red, green and blue one after another."""
    label_path: str
    label_version: int
    label_start: int
    label_stride: int
    label_names: tuple[str, ...] = ()
    """By label; empty: the label is its number."""

    def image(self, index: int) -> bytes:
        """Return image `index` as a PNM file.

        Raises:
            OSError: the file cannot be read, or has become shorter.
        """
        pixels = _read_at(self.path, self.version, self.start + index * self.stride, self.num_bytes)
        if self.planes > 1:
            pixels = np.frombuffer(pixels, np.uint8).reshape(self.planes, -1).T.tobytes()
        return self.header + pixels

    def labels(self, start: int, stop: int) -> list[str]:
        """Return the class names of the images from `start` to before `stop`.

        Raises:
            OSError: see `image`.
            SourceError: a label has no name.
        """
        offset = self.label_start + start * self.label_stride
        length = (stop - start - 1) * self.label_stride + 1
        values = _read_at(self.label_path, self.label_version, offset, length)[:: self.label_stride]
        if not self.label_names:
            return [str(value) for value in values]
        if max(values) >= len(self.label_names):
            raise SourceError(
                "a label has no name",
                got=max(values),
                allowed=f"0 to {len(self.label_names) - 1}",
                where=self.label_path,
                fix=_FIX,
            )
        return [self.label_names[value] for value in values]


def open_idx(key: str, split: Split, images: str, labels: str) -> RecordFile:
    """Return a pair of MNIST's files; plain, or compressed if their names end with .gz.

    Raises:
        SourceError: a magic number, count or length is wrong.
    """
    num_images, rows, columns = _idx_header(images, _IDX_IMAGES, ">III")
    (num_labels,) = _idx_header(labels, _IDX_LABELS, ">I")
    if num_images != num_labels or not num_images * rows * columns:
        raise SourceError(
            "images and labels do not belong together" if num_images * rows * columns else "no images",
            got=f"{num_images} images of {rows} x {columns} and {num_labels} labels",
            where=f"{images} and {labels}",
            fix=_FIX,
        )
    _require_length(images, _IDX_IMAGES_HEADER + num_images * rows * columns)
    _require_length(labels, _IDX_LABELS_HEADER + num_labels)
    return RecordFile(
        key=key,
        split=split,
        path=images,
        version=measure_file(images)[1],
        num_records=num_images,
        start=_IDX_IMAGES_HEADER,
        stride=rows * columns,
        num_bytes=rows * columns,
        header=b"P5\n%d %d\n255\n" % (columns, rows),
        planes=1,
        label_path=labels,
        label_version=measure_file(labels)[1],
        label_start=_IDX_LABELS_HEADER,
        label_stride=1,
    )


def open_cifar(key: str, split: Split, path: str, names: tuple[str, ...]) -> RecordFile:
    """Return one of CIFAR-10's binary files.

    Raises:
        SourceError: its length is not that of whole records.
    """
    length, version = measure_file(path)
    if length <= 0 or length % _CIFAR_RECORD:
        raise SourceError(
            "the file does not end with a whole record",
            got=f"{length} bytes",
            allowed=f"a multiple of {_CIFAR_RECORD} bytes",
            where=path,
            fix=_FIX,
        )
    return RecordFile(
        key=key,
        split=split,
        path=path,
        version=version,
        num_records=length // _CIFAR_RECORD,
        start=1,
        stride=_CIFAR_RECORD,
        num_bytes=_CIFAR_RECORD - 1,
        header=b"P6\n%d %d\n255\n" % (_CIFAR_SIDE, _CIFAR_SIDE),
        planes=3,
        label_path=path,
        label_version=version,
        label_start=0,
        label_stride=_CIFAR_RECORD,
        label_names=names,
    )


def _idx_header(path: str, magic: int, layout: str) -> tuple[int, ...]:
    length = 4 + struct.calcsize(layout)
    try:
        with _open(path) as file:
            header = file.read(length)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, error) from error
    if len(header) < length:
        raise SourceError(
            "the file is shorter than its header",
            got=f"{len(header)} bytes",
            allowed=f"{length} bytes at least",
            where=path,
            fix=_FIX,
        )
    (found,) = struct.unpack(">I", header[:4])
    if found != magic:
        raise SourceError(
            "the file is not what its name says: its magic number is wrong",
            got=f"0x{found:08x}",
            allowed=f"0x{magic:08x}",
            where=path,
            fix=_FIX,
        )
    return struct.unpack(layout, header[4:])


def _require_length(path: str, expected: int) -> None:
    found = measure_file(path)[0]
    if path.endswith(".gz"):
        try:
            with _open(path) as file:
                found = sum(len(block) for block in iter(lambda: file.read(2**20), b""))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(path, error) from error
    if found != expected:
        raise SourceError(
            "the length of the file is not what its header says",
            got=f"{found} bytes",
            allowed=f"{expected} bytes",
            where=path,
            fix=_FIX,
        )


def _damaged(path: str, error: Exception) -> SourceError:
    return SourceError("the compressed file is truncated or damaged", got=str(error), where=path, fix=_FIX)


def _open(path: str) -> IO[bytes]:
    filesystem, inner = storage.resolve(path)
    file: Any = filesystem.open(inner, "rb", compression="gzip" if path.endswith(".gz") else None)
    return file  # type: ignore[no-any-return]


def _read_at(path: str, version: int, offset: int, length: int) -> bytes:
    if is_local(path) and not path.endswith(".gz"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            data = os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)
    else:
        data = _whole(path, version)[offset : offset + length]
    if len(data) != length:
        raise OSError(f"{path} ends before byte {offset + length}")
    return data


@lru_cache(maxsize=2)
def _whole(path: str, version: int) -> bytes:
    try:
        with _open(path) as file:
            return file.read()
    except (EOFError, zlib.error) as error:
        raise OSError(f"{path} cannot be decompressed: {error}") from error
