"""Petastorm's thread pool loses row groups in silence; dlspark's way of driving Petastorm does not.

    python -m benchmarks.petastorm_thread_pool

50,000 rows in 50 files of one row group each are read by fresh readers, by Petastorm's thread pool with one
and with two workers, and by dlspark's reader. Printed: how many readers came short, and the fewest rows of
one.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from petastorm import make_batch_reader

from benchmarks.runs import say
from dlspark.data.petastorm_reader import read_with_petastorm

NUM_FILES, ROWS_OF_A_FILE = 50, 1000


def main() -> None:
    """Write the files and count rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--readers", type=int, default=100)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="dlspark-benchmark-") as folder:
        urls = write_files(Path(folder))
        ways: dict[str, Callable[[], int]] = {
            "thread pool, 1 worker": partial(count_with_thread_pool, urls, 1),
            "thread pool, 2 workers": partial(count_with_thread_pool, urls, 2),
            "dlspark": partial(count_with_dlspark, urls),
        }
        for name, count in ways.items():
            counts = [count() for _ in range(options.readers)]
            short = [rows for rows in counts if rows != NUM_FILES * ROWS_OF_A_FILE]
            fewest = f", the fewest rows {min(short):,}" if short else ""
            say(f"{name}: {len(short)} of {len(counts)} readers came short{fewest}")


def write_files(folder: Path) -> list[str]:
    """Write 50 files with the columns that training reads; return their URLs."""
    urls = []
    for index in range(NUM_FILES):
        ids = np.arange(index * ROWS_OF_A_FILE, (index + 1) * ROWS_OF_A_FILE)
        columns = {"row_id": ids, "label": np.zeros_like(ids), "image": [b"0"] * ROWS_OF_A_FILE}
        pq.write_table(pa.table(columns), folder / f"part-{index:05d}.parquet")
        urls.append(f"file://{folder}/part-{index:05d}.parquet")
    return urls


def count_with_thread_pool(urls: Sequence[str], num_workers: int) -> int:
    """Read as Petastorm's documentation shows; return the number of rows that came."""
    with make_batch_reader(
        list(urls),
        schema_fields=["row_id"],
        reader_pool_type="thread",
        workers_count=num_workers,
        shuffle_row_groups=False,
        num_epochs=1,
    ) as reader:
        return sum(len(batch.row_id) for batch in reader)


def count_with_dlspark(urls: Sequence[str]) -> int:
    """Read as dlspark does; return the number of rows that came."""
    return sum(len(columns.row_ids) for columns in read_with_petastorm(urls))


if __name__ == "__main__":
    main()
