from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xxhash

from dlspark.contracts import ImageFormat
from dlspark.data import write_file as write_file_module
from dlspark.data.augment import Augmentation
from dlspark.data.copies import CopyRecipe
from dlspark.data.images import decode_stored, encode_png
from dlspark.data.layout import FilePlace
from dlspark.data.manifest import FileEntry
from dlspark.data.parquet_file import FileReport, npy_header
from dlspark.data.previous import Previous
from dlspark.data.quarantine import read_quarantine
from dlspark.data.write_file import PlacedRow, read_with_retries
from dlspark.errors import SourceError
from tests.datasets import FileSource, place_files, settings_of, write_file

CLASSES = ("cat", "dog")
IMAGE = ImageFormat(height=2, width=3, channels=1, resize="none")
PLACE = FilePlace(split="train", index=7)


@pytest.fixture
def rows(tmp_path: Path) -> list[PlacedRow]:
    images = [np.full((2, 3, 1), value, dtype=np.uint8) for value in (1, 2, 3)]
    placed = place_files(tmp_path / "source", images, classes=CLASSES)
    return [
        row._replace(row_id=row_id, parent_id=row_id)
        for row, row_id in zip(placed, (30, 10, 20), strict=True)
    ]


def hash_of(data: bytes) -> bytes:
    return xxhash.xxh64_digest(data, 0) + xxhash.xxh64_digest(data, 1)


def write(rows: list[PlacedRow], folder: Path, **options: Any) -> FileReport:
    return write_file(rows, PLACE, settings_of(folder, IMAGE, classes=CLASSES, **options))


def table_of(report: FileReport, folder: Path) -> Any:
    return pq.read_table(folder / "dataset" / str(report.path), partitioning=None)


def refused(report: FileReport, folder: Path) -> list[tuple[str, str, str | None]]:
    return [
        (row.key, row.reason, row.sha256)
        for row in read_quarantine(str(folder / "dataset"), report.quarantine_paths)
    ]


def test_the_report_is_true(rows: list[PlacedRow], tmp_path: Path) -> None:
    report = write(rows, tmp_path)
    assert report.path is not None
    assert report.path.startswith("split=train/part-00007-0123456789ab-")
    data = (tmp_path / "dataset" / report.path).read_bytes()
    assert (report.num_bytes, report.checksum) == (len(data), xxhash.xxh3_128_hexdigest(data))
    assert (report.rows, report.min_row_id, report.max_row_id, report.num_decoded) == (3, 10, 30, 3)
    assert report.class_rows == {0: 2, 1: 1}
    assert report.channel_sums == (6 * (1 + 2 + 3),)
    assert report.channel_squares == (6 * (1 + 4 + 9),)
    assert report.sizes == {(2, 2): 3}
    assert (report.num_refused, report.quarantine_paths, report.repeated) == ({}, [], None)


def test_sums_of_colours_are_numpys(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 5, 4, 3), dtype=np.uint8)
    placed = place_files(tmp_path / "source", images, classes=CLASSES)
    image = ImageFormat(height=5, width=4, channels=3, resize="none")
    report = write_file(placed, PLACE, settings_of(tmp_path, image, classes=CLASSES))
    exact = images.astype(np.int64)
    assert report.channel_sums == tuple(exact.sum(axis=(0, 1, 2)).tolist())
    assert report.channel_squares == tuple((exact**2).sum(axis=(0, 1, 2)).tolist())


def test_a_file_is_one_row_group_in_the_order_of_the_row_ids(rows: list[PlacedRow], tmp_path: Path) -> None:
    report = write(rows, tmp_path)
    file = pq.ParquetFile(tmp_path / "dataset" / str(report.path))
    assert file.num_row_groups == 1
    table = file.read()
    assert table["row_id"].to_pylist() == table["parent_id"].to_pylist() == [10, 20, 30]
    column = file.metadata.row_group(0).column(3)
    assert column.path_in_schema == "image"
    assert not column.has_dictionary_page
    assert column.compression == "UNCOMPRESSED"


def test_a_row_says_where_it_comes_from(rows: list[PlacedRow], tmp_path: Path) -> None:
    row = table_of(write(rows, tmp_path), tmp_path).to_pylist()[0]
    data = (tmp_path / "source" / "001.png").read_bytes()
    assert (row["key"], row["source_bytes"], row["source_version"]) == ("001.png", len(data), 1)
    assert (row["source_height"], row["source_width"]) == (2, 3)
    assert row["source_hash"] == hash_of(data)
    assert row["pixel_hash"] == hash_of(bytes([2] * 6))


def test_raw_is_numpys_format_with_a_header_of_128_bytes(rows: list[PlacedRow], tmp_path: Path) -> None:
    image = table_of(write(rows, tmp_path), tmp_path)["image"][0].as_py()
    assert len(npy_header((2, 3, 1))) == len(npy_header((1024, 1024, 3))) == 128
    assert image == npy_header((2, 3, 1)) + bytes([2] * 6)


def test_encoded_keeps_files_as_they_came_and_makes_png_of_others(
    rows: list[PlacedRow], tmp_path: Path
) -> None:
    report = write(rows, tmp_path, storage="encoded")
    assert table_of(report, tmp_path)["image"][0].as_py() == (tmp_path / "source" / "001.png").read_bytes()
    larger = ImageFormat(height=4, width=6, channels=1, resize="exact")
    settings = settings_of(tmp_path, larger, classes=CLASSES, storage="encoded")
    report = write_file(rows, PLACE, settings)
    assert (decode_stored(table_of(report, tmp_path)["image"][0].as_py()) == np.full((4, 6, 1), 2)).all()


def test_a_jpeg_that_is_made_is_described_by_the_pixels_that_it_holds(
    rows: list[PlacedRow], tmp_path: Path
) -> None:
    ramp = np.add.outer(np.arange(24), np.arange(36)).astype(np.uint8)[..., np.newaxis] * 4
    (tmp_path / "source" / rows[0].image.key).write_bytes(encode_png(ramp))
    larger = ImageFormat(height=32, width=48, channels=1, resize="exact")
    settings = settings_of(tmp_path, larger, classes=CLASSES, storage="encoded", jpeg_quality=40)
    row = table_of(write_file(rows[:1], PLACE, settings), tmp_path).to_pylist()[0]
    assert row["image"].startswith(b"\xff\xd8")
    pixels = decode_stored(row["image"])
    assert row["pixel_hash"] == hash_of(pixels.tobytes())
    exact = write_file(rows[:1], PLACE, replace(settings, jpeg_quality=None))
    lossless = decode_stored(table_of(exact, tmp_path)["image"][0].as_py())
    difference = np.abs(pixels.astype(int) - lossless)
    assert 0 < difference.mean() < 10


def test_two_attempts_write_two_files_with_the_same_bytes(rows: list[PlacedRow], tmp_path: Path) -> None:
    first, second = write(rows, tmp_path), write(rows[::-1], tmp_path)
    assert first.path != second.path
    assert first.checksum == second.checksum


def test_both_forms_have_one_fingerprint(rows: list[PlacedRow], tmp_path: Path) -> None:
    raw, encoded = write(rows, tmp_path), write(rows, tmp_path, storage="encoded")
    assert raw.class_sums == encoded.class_sums
    assert raw.channel_sums == encoded.channel_sums


def test_a_row_id_that_is_there_twice_is_reported(rows: list[PlacedRow], tmp_path: Path) -> None:
    report = write([*rows, rows[1]._replace(row_id=30, parent_id=30)], tmp_path)
    assert report.repeated == ("000.png", "001.png")


def test_refused_images_have_a_reason_and_the_hash_of_what_was_read(
    rows: list[PlacedRow], tmp_path: Path
) -> None:
    (tmp_path / "source" / "000.png").write_bytes(b"no image")
    named = rows[1].image._replace(label="fish")
    gone = rows[2].image._replace(num_bytes=-1)
    report = write([rows[0], rows[1]._replace(image=named), rows[2]._replace(image=gone)], tmp_path)
    assert (report.path, report.rows) == (None, 0)
    assert refused(report, tmp_path) == [
        ("000.png", "unreadable_header", hashlib.sha256(b"no image").hexdigest()),
        ("001.png", "unknown_label", None),
        ("002.png", "missing", None),
    ]
    assert report.class_refused == {0: 2, -1: 1}
    assert not (tmp_path / "dataset" / "split=train").exists()


def test_constant_and_small_images_are_refused_where_asked(rows: list[PlacedRow], tmp_path: Path) -> None:
    assert write(rows, tmp_path, refuse_constant=True).num_refused == {"constant_image": 3}
    assert write(rows, tmp_path, min_image_size=3).num_refused == {"below_minimum_size": 3}


def test_a_file_over_the_limit_is_refused_unread(rows: list[PlacedRow], tmp_path: Path) -> None:
    (tmp_path / "source" / "000.png").unlink()
    large = rows[0]._replace(image=rows[0].image._replace(num_bytes=1001))
    report = write([large], tmp_path, max_image_bytes=1000)
    assert refused(report, tmp_path) == [("000.png", "bomb", None)]


def test_settled_images_are_counted_apart(rows: list[PlacedRow], tmp_path: Path) -> None:
    for name in ("000.png", "001.png"):
        (tmp_path / "source" / name).write_bytes(b"bad")
    settled = frozenset({("000.png", rows[0].image.num_bytes, "unreadable_header")})
    report = write(rows, tmp_path, accepted=settled)
    assert (report.num_refused.total(), report.num_accepted) == (2, 1)


def test_copies_are_changed_and_carry_their_parent(rows: list[PlacedRow], tmp_path: Path) -> None:
    recipe = CopyRecipe(copies=1, augmentation=Augmentation(erase=1.0), seed=3)
    copy = rows[0]._replace(row_id=99, copy=1)
    report = write([*rows, copy], tmp_path, copies=recipe)
    last = table_of(report, tmp_path).to_pylist()[-1]
    assert (last["row_id"], last["parent_id"], last["key"]) == (99, 30, "000.png")
    assert last["image"] != table_of(report, tmp_path).to_pylist()[-2]["image"]
    assert (report.rows, report.num_copies, report.sizes.total()) == (4, 1, 3)


def test_unchanged_rows_are_taken_over_without_their_source(rows: list[PlacedRow], tmp_path: Path) -> None:
    first = write(rows, tmp_path)
    changed = rows[0]._replace(image=rows[0].image._replace(version=77))
    for name in ("001.png", "002.png"):
        (tmp_path / "source" / name).unlink()
    again = write([changed, *rows[1:]], tmp_path, previous=previous_of(first, tmp_path))
    assert (again.num_decoded, again.rows) == (1, 3)
    assert again.class_sums == first.class_sums


def test_a_damaged_old_file_is_decoded_again(rows: list[PlacedRow], tmp_path: Path) -> None:
    first = write(rows, tmp_path)
    path = tmp_path / "dataset" / str(first.path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    again = write(rows, tmp_path, previous=previous_of(first, tmp_path))
    assert (again.num_decoded, again.class_sums) == (3, first.class_sums)


def previous_of(report: FileReport, folder: Path) -> Previous:
    entry = FileEntry(
        path=str(report.path),
        rows=report.rows,
        num_bytes=report.num_bytes,
        checksum=report.checksum,
        min_row_id=report.min_row_id,
        max_row_id=report.max_row_id,
    )
    return Previous(dataset=str(folder / "dataset"), image=IMAGE, storage="raw", files=(entry,))


class FlakySource(FileSource):
    """Fails the first reads of each image."""

    failures = 3

    def read(self, image: Any) -> bytes:
        if self.failures:
            self.failures -= 1
            raise OSError("connection reset")
        return super().read(image)


@pytest.mark.faults(scenario=4)
def test_a_read_that_fails_is_tried_again(
    rows: list[PlacedRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_file_module, "_FIRST_WAIT_SECONDS", 0.0)
    source = FlakySource(url=str(tmp_path / "source"))
    assert read_with_retries(source, rows[0].image).startswith(b"\x89PNG")
    assert source.failures == 0


@pytest.mark.faults(scenario=4)
def test_a_read_that_goes_on_failing_is_an_error_and_no_bad_image(
    rows: list[PlacedRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_file_module, "_FIRST_WAIT_SECONDS", 0.0)
    (tmp_path / "source" / "001.png").unlink()
    with pytest.raises(SourceError, match=r"cannot be read; got FileNotFoundError.*001\.png"):
        write(rows, tmp_path)
