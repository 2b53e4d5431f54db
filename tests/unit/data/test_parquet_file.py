"""Reading a Parquet file whole leaves nothing behind that could stop a process from ending well."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dlspark.data.parquet_file import read_table, write_table

if TYPE_CHECKING:
    from pathlib import Path

_READ_AND_END = """
import sys
from pathlib import Path
from dlspark.data.parquet_file import read_table
data = Path(sys.argv[1]).read_bytes()
for _ in range(3):
    read_table(data, ["row_id", "key"])
"""
_NUM_ROWS = 3000


def test_a_process_may_end_right_after_it_read(tmp_path: Path) -> None:
    """With Arrow's threads four of ten such processes were aborted."""
    path = tmp_path / "rows.parquet"
    keys = [str(row) for row in range(_NUM_ROWS)]
    table = pa.table({"row_id": np.arange(_NUM_ROWS), "key": keys, "image": [b"x" * 3000] * _NUM_ROWS})
    write_table(table, str(path))
    assert read_table(path.read_bytes(), ["key", "row_id"]).to_pydict() == {
        "key": keys,
        "row_id": list(range(_NUM_ROWS)),
    }
    for _ in range(4):
        command = [sys.executable, "-c", _READ_AND_END, str(path)]
        several = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
        for process in several:
            _, said = process.communicate(timeout=120)
            assert (process.returncode, said) == (0, b"")
