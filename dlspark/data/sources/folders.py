"""Class folders as a distributed listing: the driver sees the folder names, Spark tasks see the files.

The root holds class folders, or only split folders (train, val, test) that hold the class folders; files may
lie at any depth inside a class. The key of an image is its path relative to the root, so that a source that
is moved or mounted elsewhere gives the same rows. A folder is listed by one task: there are usually more
classes than task slots, and a folder cannot be listed from its middle.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pyspark import RDD
from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.data.images import IMAGE_EXTENSIONS
from dlspark.data.sources.class_layout import ClassFolder, ClassFrom, class_below, is_hidden, list_folders
from dlspark.data.sources.files import is_local, read_file, require_utf8, version_of_info
from dlspark.data.sources.grouping import compile_group, with_groups
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError


@dataclass(kw_only=True, slots=True)
class FolderSource:
    """Class folders. `images` yields every file, also those that `is_image` denies: who reads it counts them.

    Folders whose names start with . or _ are left out where they would name a class: right below the root or
    split, and at any depth if the last folder is the class.
    """

    url: str
    class_from: ClassFrom = "first"
    group: str | None = None
    """A regular expression whose first group, searched in the key, names the image's group."""
    ships_content: bool = False
    lists_other_files: bool = True

    def __post_init__(self) -> None:
        """Make the URL absolute, since tasks run elsewhere."""
        self.url = storage.absolute(self.url)

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        """Return every file of every class folder; see `Source`.

        Raises:
            SourceError: the source is missing, no folder, empty, has fewer than two classes, or has images
                without a group.
        """
        compile_group(self.group, self.url)
        folders = list_folders(self.url, class_from=self.class_from)
        num_tasks = min(len(folders), 2 * spark.sparkContext.defaultParallelism)
        units = spark.sparkContext.parallelize(folders, num_tasks)
        files = units.flatMap(partial(list_folder, self.url, class_from=self.class_from))
        return with_groups(files, self.group, where=self.url, counts=is_image)

    def path_of(self, image: SourceImage) -> str:
        """Return the path or URL of an image."""
        return storage.join(self.url, image.key)

    def read(self, image: SourceImage) -> bytes:
        """Return the encoded bytes of an image; see `Source`."""
        return read_file(f"{self.url}/{image.key}")


def is_image(key: str) -> bool:
    """Tell whether the name of a file ends like an image's."""
    return posixpath.splitext(key)[1].lower() in IMAGE_EXTENSIONS


def list_folder(root: str, folder: ClassFolder, *, class_from: ClassFrom) -> Iterator[SourceImage]:
    """Yield the files of one class folder, or in one of the folders that hold the class folders.

    Raises:
        SourceError: a name is not UTF-8, or a file's length cannot be told.
    """
    path = storage.join(root, folder.key)
    files = _scan(path, folder, class_from) if is_local(path) else _find(path, folder, class_from)
    for image in files:
        if not image.key.isascii():
            require_utf8(image.key, root)
        yield image


def _scan(path: str, folder: ClassFolder, class_from: ClassFrom) -> Iterator[SourceImage]:
    """Walk a local folder; links are followed."""
    pending = [(path, folder.key, folder.name)]
    while pending:
        path, key, label = pending.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    name = entry.name
                    if entry.is_dir():
                        if class_from == "last" and is_hidden(name):
                            continue
                        if entry.is_symlink():
                            _require_no_loop(entry.path, path)
                        below = name if class_from == "last" else label
                        pending.append((entry.path, f"{key}/{name}", below))
                        continue
                    status = entry.stat()
                    yield SourceImage(
                        f"{key}/{name}", label, status.st_size, status.st_mtime_ns, folder.split
                    )
        except OSError as error:
            raise SourceError(
                "a file or folder of the source cannot be read",
                got=f"{type(error).__name__}: {error.strerror}",
                where=repr(error.filename or path)[1:-1],
                fix="repair it, give the right to read it, or take it away",
            ) from error


def _find(path: str, folder: ClassFolder, class_from: ClassFrom) -> Iterator[SourceImage]:
    """Walk a folder with fsspec."""
    filesystem, inner = storage.resolve(path)
    filesystem.invalidate_cache(inner)
    for found, info in filesystem.find(inner, detail=True).items():
        relative = posixpath.relpath(found, inner)
        label = folder.name if class_from == "first" else class_below(folder.name, relative)
        if label is not None:
            key = posixpath.join(folder.key, relative)
            yield SourceImage(key, label, int(info["size"]), version_of_info(info), folder.split)


def _require_no_loop(link: str, folder: str) -> None:
    target = os.path.realpath(link)
    if (os.path.realpath(folder) + "/").startswith(target.rstrip("/") + "/"):
        raise OSError(errno.ELOOP, "the link leads to a folder above it", link)
