"""Parquet files through pyarrow alone, for runtimes whose pyarrow is too new for Petastorm."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import pyarrow as pa

from dlspark import storage
from dlspark.data.columns import IMAGE_COLUMN, FileColumns, columns_read, require_columns
from dlspark.data.parquet_file import read_table


def read_with_arrow(urls: Sequence[str], content: str = IMAGE_COLUMN) -> Generator[FileColumns, None, None]:
    """Yield the columns of each file, in the order given; `content` is the name of the column of bytes."""
    for url in urls:
        table = read_table(storage.read_bytes(url), columns_read(content))
        require_columns({field.name: _kind_of(field.type) for field in table.schema}, content, where=url)
        images = table[content]
        yield FileColumns(
            row_ids=table["row_id"].to_numpy(),
            labels=table["label"].to_numpy().astype(np.int64),
            images=images.chunk(0) if images.num_chunks == 1 else images.combine_chunks(),
        )


def _kind_of(found: pa.DataType) -> str:
    if pa.types.is_integer(found):
        return "integers"
    return "bytes" if pa.types.is_binary(found) else str(found)
