"""How the columns of a list or a table become the fields of an image.

Every kind of source that Spark reads ends in one frame of seven columns with fixed names and types, made in
Spark's SQL; what is wrong in a column is counted there too, so that only the counts reach the driver.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from dlspark.contracts import Split
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError

SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""What a source may call a split, in lower case; folders and columns may write it in any case."""

_NUM_EXAMPLES = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceColumns:
    """Where lists and tables keep what; sources without columns use `group` only."""

    image: str | None = "image"
    """Tables: the encoded images, binary. None: `image`, or `content` where there is no `image`."""
    path: str = "path"
    """Lists: paths or URLs. Tables: the key of an image, where the table has such a column."""
    label: str = "label"
    """Class names, or anything that Spark casts to text."""
    group: str | None = None
    """The group of an image; null is a group of its own. Folders and record files have no columns: there it
    is a regular expression, and its first group, searched in the key, is the name of the image's group."""
    split: str | None = None
    """train, val (valid, validation) or test in any case; null leaves the image to the hash of its key."""
    key: str | None = None
    """The stable name of an image. None: the path, or for tables without one the SHA-256 of the content."""


def require_column(frame: DataFrame, name: str, *, setting: str, where: str) -> Column:
    """Return the column called exactly `name`.

    Raises:
        SourceError: there is none; the message has those that are there, and the setting.
    """
    if name not in frame.columns:
        raise SourceError(
            f"there is no column {name!r}",
            got=f"the columns {', '.join(frame.columns)}",
            where=where,
            fix=f"set {setting} to one of them",
        )
    return F.col("`" + name.replace("`", "``") + "`")


def text_or_none(column: Column) -> Column:
    """Return a column as text, with null for the empty text."""
    text = column.cast("string")
    return F.when(text != "", text)


def optional_column(frame: DataFrame, name: str | None, *, setting: str, where: str) -> Column:
    """Return the column called `name` as text or null; nulls if no name is given.

    Raises:
        SourceError: see `require_column`.
    """
    if name is None:
        return F.lit(None).cast("string")
    return text_or_none(require_column(frame, name, setting=setting, where=where))


def split_of_text(column: Column) -> Column:
    """Return train, val or test for what a split column holds; anything else is returned as it is."""
    text = F.lower(F.trim(column))
    known = column
    for name, split in SPLIT_NAMES.items():
        known = F.when(text == name, F.lit(split)).otherwise(known)
    return F.when(text != "", known)


def require_sound(frame: DataFrame, *, columns: SourceColumns, key_setting: str, where: str) -> None:
    """Refuse rows without a key and rows with an unknown split, in one Spark job.

    Args:
        frame: with the columns key and split; the latter as `split_of_text` returns it.
        columns: the names in the source, for the message.
        key_setting: the setting that names the column of the keys, for the message.
        where: of the source.

    Raises:
        SourceError: the message has the values and how many rows have them.
    """
    unknown = F.col("split").isNotNull() & ~F.col("split").isin(*sorted(set(SPLIT_NAMES.values())))
    problem = F.when(F.col("key").isNull(), F.struct(F.lit(True).alias("no_key"), F.lit(None).alias("value")))
    problem = problem.when(unknown, F.struct(F.lit(False).alias("no_key"), F.col("split").alias("value")))
    found = frame.select(problem.alias("problem")).where(F.col("problem").isNotNull()).groupBy("problem")
    rows = found.count().orderBy(F.desc("count"), F.col("problem.value")).limit(_NUM_EXAMPLES + 1).collect()
    for problem_row, number in rows:
        if problem_row.no_key:
            raise SourceError(
                "rows have no key, since its column is null or empty",
                got=f"{number} such rows",
                where=where,
                fix=f"fill the column, or set {key_setting} to another",
            )
    if rows:
        got = ", ".join(f"{row.problem.value!r} ({row['count']} rows)" for row in rows[:_NUM_EXAMPLES])
        raise SourceError(
            f"the column {columns.split!r} names splits that do not exist",
            got=got + (", and others" if len(rows) > _NUM_EXAMPLES else ""),
            allowed=f"{', '.join(SPLIT_NAMES)}, or null",
            where=where,
            fix="correct the column, or set data.split_column to another or to null",
        )


def to_images(rows: Iterable[Any]) -> Iterator[SourceImage]:
    """Return the images of rows with the columns key, label, num_bytes, version, split, group, content."""
    for key, label, num_bytes, version, split, group, content in rows:
        yield SourceImage(
            key, label, num_bytes, version, split, group, None if content is None else bytes(content)
        )
