"""Spark tables and DataFrames with the encoded images in a binary column.

Length, version and, where there is no better, the key are made in Spark's SQL, so that a listing ships no
image to Python. With content, an image over the limit stays in the JVM: its length alone is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyspark import RDD
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import BinaryType, StructType

from dlspark.data.sources.columns import (
    SourceColumns,
    optional_column,
    require_column,
    require_sound,
    split_of_text,
    text_or_none,
    to_images,
)
from dlspark.data.sources.files import MAX_VERSION
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError

TABLE_PREFIX = "table:"


class ShippedSource:
    """A source whose listing has the images in it."""

    __slots__ = ()

    url: str
    ships_content: bool

    def path_of(self, image: SourceImage) -> str:
        """Return source#key: there is no file."""
        return f"{self.url}#{image.key}"

    def read(self, image: SourceImage) -> bytes:
        """Return the content that the listing shipped; see `Source`."""
        if image.content is None:
            raise OSError(f"{self.path_of(image)} was listed without its content")
        return image.content


@dataclass(kw_only=True, slots=True)
class TableSource(ShippedSource):
    """A table of the session's catalogs; `url` is table:NAME, such as table:catalog.schema.name."""

    url: str
    columns: SourceColumns
    max_image_bytes: int
    """Longer images are listed without their content."""
    ships_content: bool = True
    lists_other_files: bool = False

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        """Return a row for each row of the table; see `Source`.

        Raises:
            SourceError: there is no such table, or see `images_of_frame`.
        """
        name = self.url.removeprefix(TABLE_PREFIX)
        try:
            frame = spark.table(name)
        except PySparkException as error:
            raise SourceError(
                "the table cannot be opened",
                got=str(error).splitlines()[0],
                where=self.url,
                fix="set source to table: and a name that SELECT * FROM knows in this session",
            ) from error
        return images_of_frame(
            frame,
            self.columns,
            where=self.url,
            max_content_bytes=self.max_image_bytes if with_content else None,
        )


@dataclass(kw_only=True, slots=True)
class DataFrameSource(ShippedSource):
    """A DataFrame that Python code hands over; it must give the same rows each time it is computed.

    The frame itself stays on the driver: a copy that travelled to a task can only read.
    """

    frame: DataFrame | None = field(repr=False, compare=False)
    name: str
    columns: SourceColumns
    max_image_bytes: int
    """Longer images are listed without their content."""
    url: str = field(init=False)
    ships_content: bool = field(init=False, default=True)
    lists_other_files: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Give the source its name as a URL."""
        self.url = f"dataframe:{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the frame behind."""
        return _without_frame, (self.name, self.columns, self.max_image_bytes)

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        """Return a row for each row of the frame; see `Source`.

        Raises:
            SourceError: see `images_of_frame`, or this is a copy in a task.
        """
        if self.frame is None:
            raise SourceError(
                "a DataFrame can be listed on the driver only", where=self.url, fix="list the source there"
            )
        return images_of_frame(
            self.frame,
            self.columns,
            where=self.url,
            max_content_bytes=self.max_image_bytes if with_content else None,
        )


def images_of_frame(
    frame: DataFrame, columns: SourceColumns, *, where: str, max_content_bytes: int | None
) -> RDD[SourceImage]:
    """Return the rows of a frame as images.

    Costs one Spark job over the columns of key and split, if one of them is named.

    Args:
        frame: any that is not a stream.
        columns: see `SourceColumns`. A null image has the length -1, an empty one 0.
        where: name of the source, for messages.
        max_content_bytes: ship the content of images up to this length; None: ship none.

    Raises:
        SourceError: a column is missing, the images are not binary, or rows have no key or an unknown split.
    """
    image = _image_column(frame, columns, where)
    label = require_column(frame, columns.label, setting="data.label_column", where=where)
    split = optional_column(frame, columns.split, setting="data.split_column", where=where)
    group = optional_column(frame, columns.group, setting="data.group_key", where=where)
    num_bytes = F.length(image).cast("long")
    content = F.lit(None).cast("binary")
    if max_content_bytes is not None:
        content = F.when(num_bytes <= max_content_bytes, image)
    rows = frame.select(
        _key_column(frame, columns, image, where).alias("key"),
        text_or_none(label).alias("label"),
        F.coalesce(num_bytes, F.lit(-1)).alias("num_bytes"),
        F.xxhash64(image).bitwiseAND(F.lit(MAX_VERSION)).alias("version"),
        split_of_text(split).alias("split"),
        group.alias("group"),
        content.alias("content"),
    )
    key_name = _key_name(frame, columns)
    if key_name is not None or columns.split is not None:
        setting = "data.key_column" if columns.key is not None else "data.path_column"
        require_sound(rows.select("key", "split"), columns=columns, key_setting=setting, where=where)
    return rows.rdd.mapPartitions(to_images)


def _key_name(frame: DataFrame, columns: SourceColumns) -> str | None:
    if columns.key is not None:
        return columns.key
    return columns.path if columns.path in frame.columns else None


def _key_column(frame: DataFrame, columns: SourceColumns, image: Column, where: str) -> Column:
    name = _key_name(frame, columns)
    if name is None:
        return F.coalesce(F.sha2(image, 256), F.lit("null"))
    return text_or_none(require_column(frame, name, setting="data.key_column", where=where))


def _image_column(frame: DataFrame, columns: SourceColumns, where: str) -> Column:
    name = columns.image
    if name is None:
        name = "content" if "content" in frame.columns and "image" not in frame.columns else "image"
    column = require_column(frame, name, setting="data.image_column", where=where)
    kind = frame.schema[name].dataType
    if isinstance(kind, StructType):
        raise SourceError(
            f"the column {name!r} holds decoded images in Spark's image struct",
            got=kind.simpleString(),
            allowed="a binary column with the encoded image files",
            where=where,
            fix="read the files with spark.read.format('binaryFile') and set data.image_column to content",
        )
    if not isinstance(kind, BinaryType):
        raise SourceError(
            f"the column {name!r} holds no images",
            got=kind.simpleString(),
            allowed="a binary column with the encoded image files",
            where=where,
            fix="set data.image_column to the binary column; for paths of files, use a list",
        )
    return column


def _without_frame(name: str, columns: SourceColumns, max_image_bytes: int) -> DataFrameSource:
    return DataFrameSource(frame=None, name=name, columns=columns, max_image_bytes=max_image_bytes)
