from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from dlspark.contracts import SPLITS, ImageFormat, Preprocessing, Split
from dlspark.data.manifest import (
    MANIFEST_NAME,
    MARKER_PREFIX,
    Counts,
    FileEntry,
    Manifest,
    SplitEntry,
    channel_statistics,
    read_manifest,
    write_manifest,
)
from dlspark.errors import DatasetError


def manifest_of(
    path: str = "split=train/part-00000-0123.parquet",
    quarantine: str = "_quarantine/part-train-00000.parquet",
) -> Manifest:
    file = FileEntry(path=path, rows=2, num_bytes=100, checksum="ab", min_row_id=3, max_row_id=2**63 - 1)
    entry = SplitEntry(rows=2, class_rows=(1, 1), files=(file,))
    empty = SplitEntry(rows=0, class_rows=(0, 0), files=())
    splits: dict[Split, SplitEntry] = {"train": entry, "val": empty, "test": empty}
    return Manifest(
        fingerprint="0" * 32,
        classes=("cat", "dog"),
        preprocessing=Preprocessing(
            image=ImageFormat(height=8, width=9, channels=1, resize="none"), mean=(0.1,), std=(1 / 3,)
        ),
        storage="raw",
        num_streams=16,
        counts=Counts(listed=3, written=2, quarantined=1, deduplicated=0),
        splits=splits,
        fingerprint_sums={"train": {"0": "f" * 32, "1": "0" * 32}, "val": {}, "test": {}},
        refused={"truncated_body": 1},
        refused_by_class={"cat": 1},
        quarantine_files=(quarantine,),
        sizes=((8, 16, 2),),
        source="/images",
        source_digest="1" * 32,
        settings={"val_share": 0.1, "size": None},
        request={"source": "/images"},
        attempt="0123456789ab",
    )


def test_a_manifest_survives_its_file_exactly(tmp_path: Path) -> None:
    write_manifest(str(tmp_path), manifest_of())
    found = read_manifest(str(tmp_path))
    assert found == manifest_of()
    assert tuple(found.splits) == SPLITS
    assert found.file_paths == ["split=train/part-00000-0123.parquet"]


def test_a_missing_dataset_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no dataset; got an absent folder.*dlspark ingest"):
        read_manifest(str(tmp_path / "absent"))
    with pytest.raises(DatasetError, match="got no manifest in the folder"):
        read_manifest(str(tmp_path))


def test_an_unfinished_dataset_is_half_written(tmp_path: Path) -> None:
    (tmp_path / f"{MARKER_PREFIX}0123.json").write_text("{}")
    with pytest.raises(DatasetError, match=r"half-written.*run it again: it completes the dataset"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("version", [0, 2, None, "3"])
def test_another_version_is_named_with_the_right_one(tmp_path: Path, version: object) -> None:
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**manifest_of().to_json(), "version": version}))
    with pytest.raises(DatasetError, match=rf"another version(; got {version})?; allowed: 3"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("field", ["fingerprint", "splits", "preprocessing", "counts"])
def test_a_manifest_without_a_field_is_damaged(tmp_path: Path, field: str) -> None:
    values = manifest_of().to_json()
    del values[field]
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(values))
    with pytest.raises(DatasetError, match=f"damaged; got KeyError: '{field}'"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text)
    with pytest.raises(DatasetError, match=r"damaged|another version"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize("path", ["/etc/passwd", "../other/part.parquet", "a/../../b", "s3://elsewhere/x"])
def test_a_manifest_reaches_no_file_outside_its_dataset(tmp_path: Path, path: str) -> None:
    for manifest in (manifest_of(path), manifest_of(quarantine=path)):
        write_manifest(str(tmp_path), manifest)
        with pytest.raises(DatasetError, match="outside the dataset"):
            read_manifest(str(tmp_path))


def test_statistics_are_numpys_from_sums_of_any_parts() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 7, 5, 3), dtype=np.uint8)
    parts = np.split(pixels.astype(np.int64), [3, 20])
    sums = [sum(int(part[..., channel].sum()) for part in parts) for channel in range(3)]
    squares = [sum(int((part[..., channel] ** 2).sum()) for part in parts) for channel in range(3)]
    mean, std = channel_statistics(sums, squares, 50 * 7 * 5)
    assert mean == pytest.approx((pixels / 255).mean(axis=(0, 1, 2)), rel=1e-12)
    assert std == pytest.approx((pixels / 255).std(axis=(0, 1, 2)), rel=1e-12)


def test_a_constant_channel_is_only_shifted_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        mean, std = channel_statistics([7 * 1000, 500], [49 * 1000, 1000], 1000)
    assert mean[0] == pytest.approx(7 / 255)
    assert std[0] == 1.0
    assert 0 < std[1] < 1
    assert "channel 0" in caplog.text
    assert "channel 1" not in caplog.text
