"""Parquet files through pyarrow alone, for runtimes whose pyarrow is too new for Petastorm."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dlspark import storage
from dlspark.data.columns import COLUMNS, FileColumns


def read_with_arrow(urls: Sequence[str]) -> Generator[FileColumns, None, None]:
    """Yield the columns of each file, in the order given."""
    for url in urls:
        table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(url))).read(columns=list(COLUMNS))
        images = table["image"]
        yield FileColumns(
            row_ids=table["row_id"].to_numpy(),
            labels=table["label"].to_numpy().astype(np.int64),
            images=images.chunk(0) if images.num_chunks == 1 else images.combine_chunks(),
        )
