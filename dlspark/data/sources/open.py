"""Which kind of source a URL is: decided once, from what is there, and logged."""

from __future__ import annotations

import logging

from dlspark import storage
from dlspark.data.sources.class_layout import LAYOUT, ClassFrom
from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.files import is_url
from dlspark.data.sources.folders import FolderSource
from dlspark.data.sources.hadoop import HadoopFolderSource
from dlspark.data.sources.lists import ListSource, is_list
from dlspark.data.sources.records import holds_records, open_records
from dlspark.data.sources.source import Source
from dlspark.data.sources.tables import TABLE_PREFIX, TableSource
from dlspark.errors import SourceError

__all__ = ["LIST_PREFIX", "SourceColumns", "open_source"]

logger = logging.getLogger(__name__)

LIST_PREFIX = "list:"

_ALLOWED = "class folders, a list (.csv, .parquet, list:FOLDER), table:NAME, or MNIST's or CIFAR-10's files"


def open_source(
    url: str, *, columns: SourceColumns, class_from: ClassFrom = "first", max_image_bytes: int
) -> Source:
    """Return the source that `url` names.

    Args:
        url: `table:NAME` is a Spark table. `list:PATH`, or a name that ends with .csv, .csv.gz or .parquet,
            is a list of paths. A folder with MNIST's IDX or CIFAR-10's binary files is that. Every other
            folder holds class folders; Spark reads them where fsspec cannot.
        columns: names of columns; `group` alone counts for sources without columns.
        class_from: which folder names the class, for class folders.
        max_image_bytes: longer images are not shipped by sources that ship content.

    Raises:
        SourceError: there is nothing, or nothing of these kinds.
    """
    if url.startswith(TABLE_PREFIX):
        logger.info("source %s: a Spark table", url)
        return TableSource(url=url, columns=columns, max_image_bytes=max_image_bytes)
    named_list = url.startswith(LIST_PREFIX)
    url = url.removeprefix(LIST_PREFIX)
    reason = _why_not_fsspec(url)
    if reason is not None:
        if named_list or is_list(url):
            raise SourceError(
                "lists are read where fsspec reaches the images, and it does not know this file system",
                got=reason,
                where=url,
                fix="install the fsspec package of the file system, or make a table with the images",
            )
        logger.info(
            "source %s: class folders, listed and read by Spark, since fsspec cannot (%s)", url, reason
        )
        return HadoopFolderSource(
            url=url, max_image_bytes=max_image_bytes, class_from=class_from, group=columns.group
        )
    url = storage.absolute(url)
    if not storage.exists(url):
        raise SourceError("the source does not exist", where=url, allowed=_ALLOWED, fix="correct source")
    if named_list or is_list(url):
        logger.info("source %s: a list of paths", url)
        return ListSource(url=url, columns=columns, max_image_bytes=max_image_bytes)
    if not storage.is_folder(url):
        raise SourceError(
            "the source is a file, and no list", where=url, allowed=_ALLOWED, fix=f"set source to {LAYOUT}"
        )
    if holds_records(url):
        records = open_records(url, group=columns.group)
        names = ", ".join(f"{file.key} ({file.num_records})" for file in records.files)
        logger.info("source %s: record files as published: %s", url, names)
        return records
    logger.info("source %s: class folders", url)
    return FolderSource(url=url, class_from=class_from, group=columns.group)


def _why_not_fsspec(url: str) -> str | None:
    """Return why fsspec has no file system for a URL; None if it has one."""
    if not is_url(url):
        return None
    try:
        storage.resolve(url)
    except (ImportError, ValueError, OSError) as error:
        return str(error).splitlines()[0]
    return None
