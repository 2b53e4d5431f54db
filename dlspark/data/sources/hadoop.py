"""Class folders on a file system that only Hadoop reaches (hdfs, abfss, viewfs), by Spark's binaryFile.

Spark lists and reads; Python sees no file system at all. The price: Spark leaves out whatever starts with .
or _ at any depth, and images come through the JVM. Files that are no images, and images over the limit, are
listed without being read: the limit is pushed down to Spark's reader.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from py4j.protocol import Py4JError, Py4JJavaError  # type: ignore[import-untyped]
from pyspark import RDD
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from dlspark.contracts import Split
from dlspark.data.images import IMAGE_EXTENSIONS
from dlspark.data.sources.class_layout import (
    LAYOUT,
    ClassFrom,
    class_below,
    is_hidden,
    require_folders,
    require_two,
    split_folders,
)
from dlspark.data.sources.files import MAX_VERSION
from dlspark.data.sources.folders import is_image
from dlspark.data.sources.grouping import compile_group, with_groups
from dlspark.data.sources.source import SourceImage
from dlspark.data.sources.tables import ShippedSource
from dlspark.errors import SourceError


@dataclass(kw_only=True, slots=True)
class HadoopFolderSource(ShippedSource):
    """Class folders that Spark lists and reads; layout and keys are those of `FolderSource`."""

    url: str
    max_image_bytes: int
    """Longer images are listed without their content."""
    class_from: ClassFrom = "first"
    group: str | None = None
    """A regular expression whose first group, searched in the key, names the image's group."""
    ships_content: bool = True
    lists_other_files: bool = True

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        """Return every file of every class folder; see `Source`.

        Raises:
            SourceError: the source is missing, no folder, empty, has fewer than two classes, or has images
                without a group.
        """
        compile_group(self.group, self.url)
        try:
            root, splits = self._layout(spark)
            frame = self._frame(spark, root, with_content=with_content)
        except (Py4JError, PySparkException) as error:
            raise _unreachable(self.url, error) from error
        # binaryFile makes a partition of every 32 small files.
        rows = frame.coalesce(4 * spark.sparkContext.defaultParallelism).rdd
        files = rows.mapPartitions(partial(_place, splits=splits, class_from=self.class_from))
        return with_groups(files, self.group, where=self.url, counts=is_image)

    def path_of(self, image: SourceImage) -> str:
        """Return the URL of an image."""
        return posixpath.join(self.url, image.key)

    def _layout(self, spark: SparkSession) -> tuple[str, dict[str, Split]]:
        """Return the root as Hadoop writes it, and the splits of its folders if these are split folders."""
        context = spark.sparkContext
        java: Any = context._jvm
        path = java.org.apache.hadoop.fs.Path(self.url)
        filesystem = path.getFileSystem(context._jsc.hadoopConfiguration())
        root = filesystem.makeQualified(path)
        names = _folder_names(filesystem, root, self.url)
        splits = split_folders(names, self.url)
        if self.class_from == "first":
            below = [
                _folder_names(filesystem, java.org.apache.hadoop.fs.Path(root, s), self.url) for s in splits
            ]
            require_two({name for folder in below for name in folder} or set(names), self.url)
        return str(root.toString()), splits

    def _frame(self, spark: SparkSession, root: str, *, with_content: bool) -> DataFrame:
        reader = spark.read.format("binaryFile").option("recursiveFileLookup", True)
        pattern = re.sub(r"([\[\]{}*?])", r"\\\1", root)  # no pattern, but the name of a folder
        key = F.substring("path", len(root.rstrip("/")) + 2, 2**31 - 1)
        columns = [
            key.alias("key"),
            F.col("length").alias("num_bytes"),
            F.xxhash64("modificationTime", "length").bitwiseAND(F.lit(MAX_VERSION)).alias("version"),
        ]
        listed = reader.load(pattern)
        nothing = F.lit(None).cast("binary").alias("content")
        if not with_content:
            return listed.select(*columns, nothing)
        read = reader.option("pathGlobFilter", _image_names()).load(pattern)
        wanted = F.lower("path").rlike(_image_endings()) & (F.col("length") <= self.max_image_bytes)
        return (
            read.where(F.col("length") <= self.max_image_bytes)
            .select(*columns, "content")
            .union(listed.where(~wanted).select(*columns, nothing))
        )


def _place(
    rows: Iterable[Any], *, splits: Mapping[str, Split], class_from: ClassFrom
) -> Iterator[SourceImage]:
    for key, num_bytes, version, content in rows:
        head, _, rest = key.partition("/")
        split = splits.get(head)
        if split is not None:
            head, _, rest = rest.partition("/")
        if not rest or is_hidden(head):
            continue
        label = head if class_from == "first" else class_below(head, rest)
        if label is not None:
            shipped = None if content is None else bytes(content)
            yield SourceImage(key, label, num_bytes, version, split, None, shipped)


def _folder_names(filesystem: Any, path: Any, where: str) -> list[str]:
    if not filesystem.exists(path):
        raise SourceError("the source does not exist", where=where, fix=f"set source to {LAYOUT}")
    if not filesystem.getFileStatus(path).isDirectory():
        raise SourceError("the source is a file", where=where, fix=f"set source to {LAYOUT}")
    entries = list(filesystem.listStatus(path))
    folders = [entry.getPath().getName() for entry in entries if entry.isDirectory()]
    names = sorted(name for name in folders if not is_hidden(name))
    require_folders(names, len(entries), where)
    return names


def _image_names() -> str:
    """Return Hadoop's pattern for names of images; Hadoop looks at the case of letters."""
    endings = sorted(ending.removeprefix(".") for ending in IMAGE_EXTENSIONS)
    either = ["".join(f"[{c.lower()}{c.upper()}]" for c in ending) for ending in endings]
    return "*.{" + ",".join(either) + "}"


def _image_endings() -> str:
    return r"\.(" + "|".join(sorted(ending.removeprefix(".") for ending in IMAGE_EXTENSIONS)) + ")$"


def _unreachable(url: str, error: Exception) -> SourceError:
    got = str(error)
    if isinstance(error, Py4JJavaError):
        got = str(error.java_exception.toString())
    return SourceError(
        "Spark's file systems cannot list the source",
        got=got.splitlines()[0],
        where=url,
        fix="check the URL, and that Spark has the file system's package and the rights to read it",
    )
