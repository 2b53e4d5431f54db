"""What an ingest refuses before it reads an image: what cannot give an honest dataset."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import SparkSession

from dlspark import storage
from dlspark.data.images import IMAGE_EXTENSIONS
from dlspark.data.listing import Survey
from dlspark.data.sources.source import Source
from dlspark.errors import SourceError

_MIN_CLASS_ROWS = 2
_LOSES_DATA = (
    "spark.sql.files.ignoreCorruptFiles",
    "spark.sql.files.ignoreMissingFiles",
    "spark.files.ignoreCorruptFiles",
    "spark.files.ignoreMissingFiles",
)


def require_outside(dataset: str, source: str) -> None:
    """Refuse a dataset inside its own source.

    Raises:
        SourceError: see above.
    """
    if f"{dataset}/".startswith(f"{source}/"):
        raise SourceError(
            "the dataset lies inside its source", got=dataset, where=source, fix="move it outside"
        )


def require_no_ignored_errors(spark: SparkSession) -> None:
    """Refuse a session that leaves out files it cannot read: it would lose good images, and count as done.

    Raises:
        SourceError: one of Spark's settings ignoreCorruptFiles and ignoreMissingFiles is on.
    """
    conf = spark.sparkContext.getConf()
    for name in _LOSES_DATA:
        value = spark.conf.get(name, None) if name.startswith("spark.sql") else conf.get(name, None)
        if str(value).lower() == "true":
            raise SourceError(
                "the Spark session drops files that it cannot read, for a moment or for good (SPARK-40591)",
                got=f"{name}=true",
                allowed="false",
                fix=f"unset {name}; ingest quarantines bad images with their reason",
            )


def require_enough(seen: Survey, source: Source, classes: Sequence[str]) -> None:
    """Refuse a source without images, or with a class of fewer than two.

    Raises:
        SourceError: see above.
    """
    if not seen.num_images:
        got = ", ".join(f"{number} {extension}" for extension, number in seen.ignored.most_common(5))
        raise SourceError(
            "the source holds no images",
            got=got or "no files",
            where=storage.absolute(source.url),
            allowed=f"files that end in {', '.join(sorted(IMAGE_EXTENSIONS))}",
            fix="point source at the folder above the class folders",
        )
    if len(classes) < _MIN_CLASS_ROWS:
        raise SourceError(
            "the source has only one class" if classes else "no image of the source has a class",
            got=", ".join(classes) or f"{seen.num_images} images without one",
            allowed="two classes at least",
            where=source.url,
            fix="add a class, or point source at the folder above if this is one of the classes",
        )
    small = [name for name in classes if seen.class_rows[name] < _MIN_CLASS_ROWS]
    if small:
        more = f" (and {len(small) - 1} more classes: {', '.join(small[1:6])})" if len(small) > 1 else ""
        raise SourceError(
            f"class {small[0]} has too few images{more}",
            got=seen.class_rows[small[0]],
            allowed="2 at least",
            where=source.url,
            fix="add images to the class or take it away",
        )
