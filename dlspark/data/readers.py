"""The files of a dataset, one after the other, through Petastorm or pyarrow: the same rows, order and bytes.

Each file is checked against the manifest before a row of it is used, so that a file that was lost, cut short,
exchanged or skipped by a reader is an error at once and never a shorter epoch.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from dlspark import storage
from dlspark.data.columns import IMAGE_COLUMN, FileColumns
from dlspark.data.manifest import FileEntry
from dlspark.errors import DatasetError

Reader = Literal["petastorm", "arrow"]

_FILES_TOGETHER = 32
"""Files that are looked at and opened before the first of them is read: the first batch must not wait for a
thousand others, as it would for Petastorm, which reads the footers of all that it is given."""
_FIX = "restore the file, or run ingest again with overwrite=true"


def read_files(
    dataset: str, files: Sequence[FileEntry], *, reader: Reader, content: str = IMAGE_COLUMN
) -> Generator[FileColumns, None, None]:
    """Yield row ids, labels and images of each file, in the order given.

    Args:
        dataset: URL of the dataset.
        files: entries of its manifest.
        reader: who reads the Parquet files.
        content: name of the column of bytes: that of the images, or another one that is read as they are.

    Raises:
        DatasetError: a file is missing, cannot be read, or is not what the manifest says.
    """
    for start in range(0, len(files), _FILES_TOGETHER):
        yield from _read_together(dataset, files[start : start + _FILES_TOGETHER], reader, content)


def _read_together(
    dataset: str, files: Sequence[FileEntry], reader: Reader, content: str
) -> Generator[FileColumns, None, None]:
    """Yield the columns of a few files; see `read_files`."""
    urls = [storage.join(dataset, file.path) for file in files]
    for url, file in zip(urls, files, strict=True):
        _require_file(url, file)
    with closing(_open(urls, reader, content)) as columns:
        for index, (url, file) in enumerate(zip(urls, files, strict=True)):
            try:
                found = next(columns)
            except (OSError, pa.ArrowException) as error:
                raise DatasetError(
                    "a file of the dataset cannot be read",
                    got=error,
                    where=_first_unreadable(urls[index:]),
                    fix=_FIX,
                ) from error
            except StopIteration:
                raise DatasetError(f"the {reader} reader lost a file of the dataset", where=url) from None
            _require_rows(found, file, url)
            yield found


def _first_unreadable(urls: Sequence[str]) -> str:
    """Return the file that a reader failed on; Petastorm opens all of them before it yields the first."""
    for url in urls:
        try:
            pq.read_metadata(pa.BufferReader(storage.read_bytes(url)))
        except (OSError, pa.ArrowException):
            return url
    return urls[0]


def _open(urls: Sequence[str], reader: Reader, content: str) -> Generator[FileColumns, None, None]:
    # Imported here: each reader must work where the other one's library does not.
    if reader == "petastorm":
        from dlspark.data.petastorm_reader import read_with_petastorm

        return read_with_petastorm(urls, content)
    from dlspark.data.arrow_reader import read_with_arrow

    return read_with_arrow(urls, content)


def _require_file(url: str, file: FileEntry) -> None:
    filesystem, path = storage.resolve(url)
    try:
        info = filesystem.info(path)
    except FileNotFoundError as error:
        raise DatasetError("a file of the dataset is missing", where=url, fix=_FIX) from error
    # A folder in the place of a file would be unpickled by Petastorm.
    if info["type"] != "file" or info["size"] != file.num_bytes:
        raise DatasetError(
            "a file of the dataset is not the one that was published",
            got=f"a {info['type']} of {info['size']} bytes",
            allowed=f"a file of {file.num_bytes} bytes",
            where=url,
            fix=_FIX,
        )


def _require_rows(found: FileColumns, file: FileEntry, url: str) -> None:
    ids = found.row_ids
    got = (len(ids), int(ids.min()) if len(ids) else None, int(ids.max()) if len(ids) else None)
    allowed = (file.rows, file.min_row_id, file.max_row_id)
    if got != allowed:
        raise DatasetError(
            "the rows of a file are not the manifest's (rows, smallest and largest row id)",
            got=got,
            allowed=allowed,
            where=url,
            fix=_FIX,
        )
