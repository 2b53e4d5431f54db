"""Parquet files through Petastorm's `make_batch_reader`, driven so that nothing is lost, moved or executed.

It is given a list of file URLs, never a folder: opening a folder unpickles what it finds there. Its thread
pool can lose row groups in silence, so the dummy pool reads in this thread (the loader has one of its own),
in natural order; exactly one batch is asked for each file, and the caller checks each against the manifest.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from petastorm import make_batch_reader

from dlspark import storage
from dlspark.data.columns import IMAGE_COLUMN, FileColumns, columns_read, require_columns
from dlspark.data.legacy_filesystem import LegacyFileSystem


def read_with_petastorm(
    urls: Sequence[str], content: str = IMAGE_COLUMN
) -> Generator[FileColumns, None, None]:
    """Yield the columns of each file, in the order given.

    Args:
        urls: of files with one row group each.
        content: name of the column of bytes.
    """
    if not urls:
        return
    # pyarrow's, of its legacy dataset. A filter is safe in a thread, catch_warnings is not.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\.")
    reader = make_batch_reader(
        [storage.as_uri(url) for url in urls],
        schema_fields=list(columns_read(content)),
        reader_pool_type="dummy",
        shuffle_row_groups=False,
        shuffle_rows=False,
        num_epochs=1,
        filesystem=LegacyFileSystem(storage.resolve(urls[0])[0]),
    )
    try:
        for url in urls:
            batch = next(reader)
            found = {name: _kind_of(values) for name, values in batch._asdict().items()}
            require_columns(found, content, where=url)
            yield FileColumns(
                row_ids=batch.row_id,
                labels=batch.label.astype(np.int64),
                images=pa.array(getattr(batch, content), pa.binary()),
            )
    finally:
        # Not as a context manager: that prints to stdout, where a stage puts its result.
        reader.stop()
        reader.join()


def _kind_of(values: NDArray[Any]) -> str:
    if np.issubdtype(values.dtype, np.integer):
        return "integers"
    first = values[0] if len(values) else b""
    return "bytes" if isinstance(first, bytes) else f"{type(first).__name__} ({values.dtype})"
