"""Memory of pages is handed on from one file to the next, and never to two at once."""

from __future__ import annotations

import threading

import pyarrow as pa
import pytest

from dlspark.data.pages import borrow_pages
from dlspark.data.parquet_file import read_table, table_bytes


def test_the_next_file_has_the_memory_of_the_one_before() -> None:
    with borrow_pages(5000) as first:
        first[:3] = b"abc"
    with borrow_pages(4000) as second:
        assert second is first


def test_a_larger_file_has_enough() -> None:
    with borrow_pages(1000) as small:
        pass
    with borrow_pages(len(small) + 1) as large:
        assert len(large) > len(small)


def test_two_at_once_have_memory_of_their_own() -> None:
    with borrow_pages(1000) as first, borrow_pages(1000) as second:
        assert first is not second
        taken = []

        def take() -> None:
            with borrow_pages(1000) as third:
                taken.append(third)

        thread = threading.Thread(target=take)
        thread.start()
        thread.join()
    assert taken[0] is not first
    assert taken[0] is not second


@pytest.mark.parametrize("num_rows", [0, 1, 3000])
def test_a_parquet_file_in_pages_is_the_one_in_memory_of_its_own(num_rows: int) -> None:
    table = pa.table({"key": [str(row) * 7 for row in range(num_rows)], "row_id": [*range(num_rows)]})
    own = bytes(table_bytes(table))
    with borrow_pages(2 * table.nbytes + 2**20) as pages:
        assert bytes(table_bytes(table, pages=pages)) == own
    assert read_table(own).to_pylist() == table.to_pylist()
