from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dlspark.data.audit import clusters
from dlspark.data.audit.clusters import find_clusters, read_moves, read_pairs, write_moves
from dlspark.errors import DatasetError

SPLIT = {1: "train", 2: "test", 3: "val", 4: "train", 5: "train", 6: "val", 7: "test"}


def table_of(*pairs: tuple[int, int]) -> pa.Table:
    columns = {}
    for side, rows in zip(("a", "b"), zip(*pairs, strict=True), strict=True):
        columns[f"row_id_{side}"] = list(rows)
        columns[f"key_{side}"] = [f"{row}.png" for row in rows]
        columns[f"split_{side}"] = [SPLIT[row] for row in rows]
    return pa.table(columns)


def test_of_each_cluster_in_two_splits_all_rows_outside_train_move(tmp_path: Path) -> None:
    found = find_clusters(table_of((1, 2), (3, 2), (4, 5), (7, 6)))
    assert (found.number, found.num_spanning, found.largest) == (3, 2, 3)
    write_moves(str(tmp_path), found.moves)
    moves = read_moves(str(tmp_path))
    assert moves["row_id"].to_pylist() == [2, 3, 6, 7]
    assert moves["key"].to_pylist() == ["2.png", "3.png", "6.png", "7.png"]
    assert moves["from_split"].to_pylist() == ["test", "val", "val", "test"]


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "MAX_PAIRS", 1)
    with pytest.raises(DatasetError, match="too many twins"):
        find_clusters(table_of((1, 2), (3, 2)))


def test_a_dataset_that_was_not_audited_has_no_moves(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not audited"):
        read_moves(str(tmp_path))
    assert read_pairs(str(tmp_path)).num_rows == 0
