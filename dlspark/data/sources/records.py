"""A folder with MNIST's or CIFAR-10's files as a source: keys, splits and labels of the records in them.

Train and test are as published. An image leaves as a PNM file (a short header and the pixels), since that is
what an image decoder takes and costs next to nothing to make and to read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pyspark import RDD
from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.contracts import Split
from dlspark.data.sources.files import read_file
from dlspark.data.sources.grouping import compile_group, with_groups
from dlspark.data.sources.record_files import RecordFile, open_cifar, open_idx
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError

logger = logging.getLogger(__name__)

_IDX = re.compile(r"(train|t10k)-(images|labels)[-.]idx([13])-ubyte(\.gz)?")
_CIFAR = re.compile(r"(data_batch_[1-5]|test_batch)\.bin")
_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_NAMES = "batches.meta.txt"
_CIFAR_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR_TEST = "test_batch"
_RECORDS_PER_TASK = 5000


@dataclass(kw_only=True, slots=True)
class RecordSource:
    """MNIST's IDX files or CIFAR-10's binary files; made by `open_records`."""

    url: str
    files: tuple[RecordFile, ...]
    group: str | None = None
    """A regular expression whose first group, searched in the key, names the image's group."""
    ships_content: bool = False
    lists_other_files: bool = False

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        """Return the records of all files; see `Source`.

        Raises:
            SourceError: there are images without a group.
        """
        compile_group(self.group, self.url)
        parts = [
            (file, start, min(start + _RECORDS_PER_TASK, file.num_records))
            for file in self.files
            for start in range(0, file.num_records, _RECORDS_PER_TASK)
        ]
        images = spark.sparkContext.parallelize(parts, len(parts)).flatMap(_list_part)
        return with_groups(images, self.group, where=self.url)

    def path_of(self, image: SourceImage) -> str:
        """Return file#index of an image, from 0."""
        file, index = self._find(image.key)
        return f"{file.path}#{index}"

    def read(self, image: SourceImage) -> bytes:
        """Return an image as a PNM file; see `Source`."""
        file, index = self._find(image.key)
        return file.image(index)

    def _find(self, key: str) -> tuple[RecordFile, int]:
        name, _, index = key.partition("/")
        return next(file for file in self.files if file.key == name), int(index)


def holds_records(url: str) -> bool:
    """Tell whether a folder holds files that are named like MNIST's or CIFAR-10's."""
    return any(_IDX.fullmatch(name) for name in storage.list_names(url)) or _cifar_folder(url) is not None


def open_records(url: str, *, group: str | None = None) -> RecordSource:
    """Return the source of a folder for which `holds_records`; reads headers, and compressed files in full.

    Raises:
        SourceError: a file is missing, truncated, or does not fit the others; the message has the numbers.
    """
    url = storage.absolute(url)
    cifar = _cifar_folder(url)
    files = _open_idx_files(url) if cifar is None else _open_cifar_files(cifar)
    return RecordSource(url=url, files=tuple(files), group=group)


def _list_part(part: tuple[RecordFile, int, int]) -> Iterator[SourceImage]:
    file, start, stop = part
    num_bytes = len(file.header) + file.num_bytes
    for index, label in enumerate(file.labels(start, stop), start):
        yield SourceImage(f"{file.key}/{index:05d}", label, num_bytes, file.version, file.split)


def _cifar_folder(url: str) -> str | None:
    for folder in (url, storage.join(url, _CIFAR_FOLDER)):
        if any(_CIFAR.fullmatch(name) for name in storage.list_names(folder)):
            return folder
    return None


def _open_idx_files(url: str) -> Iterator[RecordFile]:
    found: dict[tuple[str, str], str] = {}
    # A plain file comes before its compressed copy, and is read faster.
    for name in sorted(storage.list_names(url), key=len):
        match = _IDX.fullmatch(name)
        if match:
            found.setdefault((match[1], match[2]), storage.join(url, name))
    published: tuple[tuple[str, Split], ...] = (("train", "train"), ("t10k", "test"))
    for name, split in published:
        paths = [found.get((name, what)) for what in ("images", "labels")]
        if paths == [None, None] and split == "test":
            logger.warning("%s holds no %s files: the source has no test split of its own", url, name)
            continue
        if None in paths:
            missing = [what for what, path in zip(("images", "labels"), paths, strict=True) if path is None]
            _refuse_missing(url, [f"{name}-{what}" for what in missing], "MNIST")
        yield open_idx(split, split, str(paths[0]), str(paths[1]))


def _open_cifar_files(folder: str) -> Iterator[RecordFile]:
    there = set(storage.list_names(folder))
    missing = [f"{name}.bin" for name in _CIFAR_TRAIN if f"{name}.bin" not in there]
    missing += [_CIFAR_NAMES] if _CIFAR_NAMES not in there else []
    if missing:
        _refuse_missing(folder, missing, "CIFAR-10")
    lines = read_file(storage.join(folder, _CIFAR_NAMES)).decode().splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    for name in _CIFAR_TRAIN:
        yield open_cifar(name, "train", storage.join(folder, f"{name}.bin"), names)
    if f"{_CIFAR_TEST}.bin" in there:
        yield open_cifar(_CIFAR_TEST, "test", storage.join(folder, f"{_CIFAR_TEST}.bin"), names)
    else:
        logger.warning("%s holds no %s.bin: the source has no test split of its own", folder, _CIFAR_TEST)


def _refuse_missing(url: str, missing: list[str], what: str) -> None:
    raise SourceError(
        f"files of {what} are missing",
        got=f"no {', no '.join(missing)}",
        where=url,
        fix="put all the files, as they were published, into the folder",
    )
