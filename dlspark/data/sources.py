"""Class folders as a distributed listing: the driver sees the class names, Spark tasks see the files.

A source is a folder with one sub-folder for each class; files may lie at any depth inside it. The key of an
image is its path relative to the source, so that a source that is moved or mounted elsewhere gives the same
rows.
"""

from __future__ import annotations

import heapq
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from pyspark import RDD, SparkContext

from dlspark import storage
from dlspark.contracts import SPLITS, Split
from dlspark.data.images import IMAGE_EXTENSIONS
from dlspark.errors import SourceError

_LAYOUT = "a folder with one sub-folder of images for each class, two classes at least"
_NUM_FIRST = 16


class SourceFile(NamedTuple):
    """One file in a class folder."""

    key: str
    """Path relative to the source, with /."""
    path: str
    """URL."""
    label: int
    """Index of the class in the sorted class names."""
    num_bytes: int


@dataclass(kw_only=True, slots=True)
class Listing:
    """What a listing holds, in numbers that do not grow with the files."""

    split_rows: Counter[Split] = field(default_factory=Counter)
    class_rows: Counter[int] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    """Files that are not images, by extension."""
    first: list[SourceFile] = field(default_factory=list)
    """The first images in the order of their keys, 16 at most."""

    @property
    def num_images(self) -> int:
        """Images in all classes."""
        return self.class_rows.total()


def list_classes(source: str) -> list[str]:
    """Return the class names: the sub-folders of `source`, sorted, but those that start with . or _.

    Raises:
        SourceError: `source` is missing, no folder, empty, or has fewer than two classes.
    """
    where = storage.absolute(source)
    filesystem, path = storage.resolve(source)
    if not filesystem.exists(path):
        raise SourceError("the source does not exist", where=where, fix=f"set source to {_LAYOUT}")
    if not filesystem.isdir(path):
        raise SourceError("the source is a file", where=where, fix=f"set source to {_LAYOUT}")
    filesystem.invalidate_cache(path)
    entries = filesystem.ls(path, detail=True)
    if not entries:
        raise SourceError("the source is an empty folder", where=where, fix=f"set source to {_LAYOUT}")
    folders = [_name(entry["name"]) for entry in entries if _is_folder(filesystem, entry)]
    classes = sorted(name for name in folders if not name.startswith((".", "_")))
    if not classes:
        raise SourceError(
            "the source has no class folders",
            got=f"{len(entries)} files",
            allowed=_LAYOUT,
            where=where,
            fix="put the images of each class into a folder of its own",
        )
    if len(classes) == 1:
        raise SourceError(
            "the source has only one class",
            got=classes[0],
            allowed=_LAYOUT,
            where=where,
            fix="add a class, or point source at the folder above if this is one of the classes",
        )
    return classes


def list_files(context: SparkContext, source: str, classes: Sequence[str]) -> RDD[SourceFile]:
    """Return every file of every class folder, images or not, listed by Spark tasks."""
    root = storage.absolute(source)
    num_tasks = min(len(classes), 2 * context.defaultParallelism)
    return context.parallelize(list(enumerate(classes)), num_tasks).flatMap(partial(_list_class, root))


def is_image(file: SourceFile) -> bool:
    """Tell whether the name of a file ends like an image's."""
    return posixpath.splitext(file.key)[1].lower() in IMAGE_EXTENSIONS


def summarise(files: RDD[SourceFile], split: Callable[[str], Split]) -> Listing:
    """Count a listing by split and class, in one Spark job.

    Args:
        files: as `list_files` returns it.
        split: the split of a key; picklable.
    """
    total = Listing()
    for part in files.mapPartitions(partial(_count, split=split)).collect():
        total.split_rows.update(part.split_rows)
        total.class_rows.update(part.class_rows)
        total.ignored.update(part.ignored)
        total.first.extend(part.first)
    total.first = sorted(total.first)[:_NUM_FIRST]
    return total


def require_enough(listing: Listing, source: str, classes: Sequence[str]) -> None:
    """Refuse a source without images, with a class of fewer than two, or without any for training.

    Raises:
        SourceError: see above.
    """
    where = storage.absolute(source)
    if not listing.num_images:
        got = ", ".join(f"{number} {extension}" for extension, number in listing.ignored.most_common(5))
        raise SourceError(
            "the class folders of the source hold no images",
            got=got or "no files",
            where=where,
            allowed=f"files that end in {', '.join(sorted(IMAGE_EXTENSIONS))}",
            fix="point source at the folder above the class folders",
        )
    small = [name for label, name in enumerate(classes) if listing.class_rows[label] < 2]  # noqa: PLR2004
    if small:
        label = classes.index(small[0])
        more = f" (and {len(small) - 1} more classes: {', '.join(small[1:6])})" if len(small) > 1 else ""
        raise SourceError(
            f"class {small[0]} has too few images{more}",
            got=listing.class_rows[label],
            allowed="2 at least",
            where=where,
            fix="add images to the class or take its folder away",
        )
    if not listing.split_rows["train"]:
        counts = {split: listing.split_rows[split] for split in SPLITS}
        raise SourceError(
            "no image falls into the train split",
            got=counts,
            where=where,
            fix="add images, lower data.val_share and data.test_share, or set another data.split_seed",
        )


def _list_class(root: str, labelled: tuple[int, str]) -> Iterator[SourceFile]:
    label, name = labelled
    filesystem, path = storage.resolve(storage.join(root, name))
    for found, info in filesystem.find(path, detail=True).items():
        key = posixpath.join(name, posixpath.relpath(found, path))
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise SourceError(
                "the name of a file is not valid UTF-8", got=repr(key), where=root, fix="rename the file"
            ) from error
        yield SourceFile(key, storage.join(root, key), label, int(info["size"]))


def _count(files: Iterable[SourceFile], split: Callable[[str], Split]) -> Iterator[Listing]:
    part = Listing()
    for file in files:
        if not is_image(file):
            part.ignored[posixpath.splitext(file.key)[1].lower() or "no extension"] += 1
            continue
        part.split_rows[split(file.key)] += 1
        part.class_rows[file.label] += 1
        part.first.append(file)
        if len(part.first) > 64 * _NUM_FIRST:
            part.first = heapq.nsmallest(_NUM_FIRST, part.first)
    part.first = heapq.nsmallest(_NUM_FIRST, part.first)
    yield part


def _name(path: str) -> str:
    return posixpath.basename(path.rstrip("/"))


def _is_folder(filesystem: AbstractFileSystem, entry: dict[str, Any]) -> bool:
    if entry["type"] in ("file", "directory"):
        return bool(entry["type"] == "directory")
    return bool(filesystem.isdir(entry["name"]))  # a link: only isdir follows it
