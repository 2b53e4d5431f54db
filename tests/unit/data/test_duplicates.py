from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from dlspark.contracts import ImageFormat
from dlspark.data.augment import Augmentation
from dlspark.data.copies import CopyRecipe
from dlspark.data.duplicates import Drop, drop_rows, find_duplicates, hashes_of
from dlspark.data.layout import FilePlace
from dlspark.data.parquet_file import FileRows, Provenance
from dlspark.data.quarantine import read_quarantine
from tests.datasets import place_files, settings_of, write_file

IMAGE = ImageFormat(height=1, width=1, channels=1, resize="none")
Row = tuple[int, int, int]
"""Content, label, number of copies."""


def file_of(rows: list[tuple[int, Row]]) -> FileRows:
    """Rows with ids 10, 20, ...; the copies of row 10 are 11, 12, ..."""
    written = FileRows(IMAGE, "raw", most=sum(1 + copies for _, (_, _, copies) in rows))
    for index, (content, label, copies) in rows:
        for copy in range(copies + 1):
            parent = 10 * (index + 1)
            origin = Provenance(parent, bytes([content]) * 16, 1, 0, 1, 1)
            pixels = np.array([[[content]]], dtype=np.uint8)
            written.append(parent + copy, f"{index}", label, pixels, origin)
    return written


def find(rows: list[Row], num_files: int, num_reducers: int) -> set[Drop]:
    found: dict[int, list] = {}
    numbered = list(enumerate(rows))
    for file in range(num_files):
        for reducer, batch in hashes_of(file_of(numbered[file::num_files]), file, num_reducers):
            found.setdefault(reducer, []).append(batch)
    return {drop for batches in found.values() for drop in find_duplicates(batches)}


@given(
    rows=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1), st.integers(0, 2)), max_size=20),
    num_files=st.integers(1, 4),
    num_reducers=st.integers(1, 3),
)
def test_one_of_each_content_stays_or_none_if_labels_disagree(
    rows: list[Row], num_files: int, num_reducers: int
) -> None:
    expected = {}
    for index, (content, _, copies) in enumerate(rows):
        same = [(other, row[1]) for other, row in enumerate(rows) if row[0] == content]
        if len({one for _, one in same}) > 1:
            reason = "conflicting_label"
        elif index != same[0][0]:
            reason = "duplicate"
        else:
            continue
        for copy in range(copies + 1):
            expected[10 * (index + 1) + copy] = (index % num_files, reason)
    found = find(rows, num_files, num_reducers)
    assert {drop.row_id: (drop.file, drop.reason) for drop in found} == expected
    assert len(found) == len(expected)


def test_the_message_names_the_image_that_stays() -> None:
    assert find([(1, 0, 0), (2, 0, 0), (1, 0, 0)], 1, 1) == {
        Drop(0, 30, "duplicate", "same bytes as 0, which is kept")
    }


def test_a_file_is_written_again_without_its_duplicates_and_their_copies(tmp_path: Path) -> None:
    images = [np.full((1, 1, 1), value, dtype=np.uint8) for value in (5, 6, 7)]
    rows = place_files(tmp_path / "source", images, classes="ab")
    recipe = CopyRecipe(copies=1, augmentation=Augmentation(colour=0.5), seed=0)
    settings = settings_of(tmp_path, IMAGE, classes="ab", copies=recipe)
    rows = [row._replace(row_id=index + 1, parent_id=index + 1) for index, row in enumerate(rows)]
    rows.append(rows[1]._replace(row_id=9, copy=1))
    place = FilePlace(split="train", index=0)
    report = write_file(rows, place, settings)
    drops = [Drop(0, 2, "duplicate", "same bytes as x"), Drop(0, 9, "duplicate", "same bytes as x")]
    new = drop_rows(drops, report, place, settings)
    table = pq.read_table(tmp_path / "dataset" / str(new.path), partitioning=None)
    assert table["row_id"].to_pylist() == [1, 3]
    assert (new.rows, new.num_copies, new.num_decoded, new.num_refused) == (2, 0, 4, {"duplicate": 1})
    assert new.channel_sums == (12,)
    (refused,) = read_quarantine(str(tmp_path / "dataset"), new.quarantine_paths)
    assert (refused.key, refused.label, refused.reason, len(refused.sha256 or "")) == (
        "001.png",
        "b",
        "duplicate",
        64,
    )
    assert new.path != report.path
