"""A CSV or Parquet list of images (path, label, optional group, split and key), read by Spark.

The driver never holds the list. Tasks ask the file system for the length and time of each image, so that a
missing one is known before anything is read. With a key column the key no longer leads to the file: then the
listing itself reads the images when it is asked for content.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from py4j.protocol import Py4JError  # type: ignore[import-untyped]
from pyspark import RDD
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from dlspark import storage
from dlspark.data.sources.columns import (
    SourceColumns,
    optional_column,
    require_column,
    require_sound,
    split_of_text,
    text_or_none,
)
from dlspark.data.sources.files import is_url, measure_file, read_file, require_utf8
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError

_CSV = (".csv", ".csv.gz")
_PARQUET = (".parquet",)
LIST_ENDINGS = _CSV + _PARQUET
"""What the name of a list ends with, in any case; a folder of that name is a list in parts."""


@dataclass(kw_only=True, slots=True)
class ListSource:
    """A list of image files.

    Paths are relative to the folder that holds the list (for a folder of part files whose own name does not
    end like a list's: to that folder), or absolute, or URLs. Keys are the paths as they are written, with /
    and without a leading ./, or the key column.
    """

    url: str
    columns: SourceColumns
    max_image_bytes: int
    """With a key column: longer images are not shipped."""
    ships_content: bool = field(init=False)
    """Whether the keys are no paths, so that only the listing knows where an image lies."""
    lists_other_files: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Make the URL absolute, since tasks run elsewhere."""
        self.url = storage.absolute(self.url)
        self.ships_content = self.columns.key is not None

    @property
    def base(self) -> str:
        """What relative paths start from."""
        return posixpath.dirname(self.url) if is_list(self.url) else self.url

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        """Return the images of the list; see `Source`. Costs one Spark job over the list itself.

        Raises:
            SourceError: the list is missing or malformed, lacks a column, or has rows without a path or with
                an unknown split.
        """
        rows = self._rows(_read(spark, self.url))
        try:
            require_sound(
                rows.select(rows["name"].alias("key"), "split"),
                columns=self.columns,
                key_setting="data.path_column" if self.columns.key is None else "data.key_column",
                where=self.url,
            )
        except (Py4JError, PySparkException) as error:
            raise _unreadable(self.url, error) from error
        num_tasks = 2 * spark.sparkContext.defaultParallelism
        if rows.rdd.getNumPartitions() < num_tasks:
            rows = rows.repartition(num_tasks)
        return rows.rdd.mapPartitions(
            partial(
                _measure,
                base=self.base,
                keyed=self.columns.key is not None,
                max_content_bytes=self.max_image_bytes if with_content and self.ships_content else -1,
            )
        )

    def path_of(self, image: SourceImage) -> str:
        """Return the path or URL of an image, or list#key if there is a key column."""
        return f"{self.url}#{image.key}" if self.ships_content else _locate(self.base, image.key)

    def read(self, image: SourceImage) -> bytes:
        """Return the encoded bytes of an image; see `Source`."""
        if not self.ships_content:
            return read_file(_locate(self.base, image.key))
        if image.content is None:
            raise OSError(f"{self.path_of(image)} was listed without its content")
        return image.content

    def _rows(self, frame: DataFrame) -> DataFrame:
        columns, where = self.columns, self.url
        path = text_or_none(require_column(frame, columns.path, setting="data.path_column", where=where))
        key = optional_column(frame, columns.key, setting="data.key_column", where=where)
        label = require_column(frame, columns.label, setting="data.label_column", where=where)
        split = optional_column(frame, columns.split, setting="data.split_column", where=where)
        group = optional_column(frame, columns.group, setting="data.group_key", where=where)
        return frame.select(
            (path if columns.key is None else key).alias("name"),
            path.alias("path"),
            text_or_none(label).alias("label"),
            split_of_text(split).alias("split"),
            group.alias("group"),
        )


def is_list(url: str) -> bool:
    """Tell whether a name ends like a list's."""
    return url.rstrip("/").lower().endswith(LIST_ENDINGS)


def normalise(path: str) -> str:
    """Return a path as a list writes it in its one form: /, no leading ./, no doubled or trailing /."""
    return path if is_url(path) else posixpath.normpath(path.replace("\\", "/"))


def _locate(base: str, key: str) -> str:
    if is_url(key):
        return storage.absolute(key)
    return storage.join(base, key)


def _measure(rows: Iterable[Any], *, base: str, keyed: bool, max_content_bytes: int) -> Iterator[SourceImage]:
    for name, written, label, split, group in rows:
        if written is None:
            yield SourceImage(name, label, -1, 0, split, group)
            continue
        key = normalise(written)
        require_utf8(key, base)
        path = _locate(base, key)
        num_bytes, version = measure_file(path)
        content = read_file(path) if 0 <= num_bytes <= max_content_bytes else None
        yield SourceImage(name if keyed else key, label, num_bytes, version, split, group, content)


def _read(spark: SparkSession, url: str) -> DataFrame:
    kind = _format_of(url)
    # Spark reads these as a pattern; a folder may have them in its name.
    path = re.sub(r"([\[\]{}*?])", r"\\\1", storage.as_uri(url))
    try:
        if kind == "parquet":
            return spark.read.parquet(path)
        # A row with a comma too many must not become another label, so each row's length is looked at.
        reader = spark.read.option("header", True).option("escape", '"').option("mode", "FAILFAST")
        return reader.option("enforceSchema", False).option("columnPruning", False).csv(path)
    except (Py4JError, PySparkException) as error:
        raise _unreadable(url, error) from error


def _format_of(url: str) -> str:
    filesystem, path = storage.resolve(url)
    if not filesystem.exists(path):
        raise SourceError("the list does not exist", where=url, fix="set source to a list that is there")
    filesystem.invalidate_cache(path)
    names = filesystem.find(path) if filesystem.isdir(path) else [path]
    names = [name for name in names if not posixpath.basename(name).startswith((".", "_"))]
    kinds = {
        "csv" if name.lower().endswith(_CSV) else "parquet"
        for name in names
        if name.lower().endswith(LIST_ENDINGS)
    }
    if len(kinds) != 1:
        raise SourceError(
            "the list is neither CSV nor Parquet" if not kinds else "the list is CSV and Parquet at once",
            got=f"{len(names)} files" + "".join(f", {posixpath.basename(name)}" for name in names[:5]),
            allowed=f"files that end in {', '.join(LIST_ENDINGS)}",
            where=url,
            fix="set source to the list, or give its files their ending",
        )
    return kinds.pop()


def _unreadable(url: str, error: Exception) -> SourceError:
    lines = str(error).split("\n\tat ", maxsplit=1)[0].strip().splitlines()
    cause = next((line for line in lines if "MALFORMED" in line), lines[0] if lines else type(error).__name__)
    return SourceError(
        "the list cannot be read",
        got=cause,
        where=url,
        fix="repair the file; a CSV list has a header and quotes its commas",
    )
