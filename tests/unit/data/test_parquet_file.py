from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data import parquet_file
from dlspark.data.images import encode_png
from dlspark.data.layout import FilePlace
from dlspark.data.parquet_file import FileReport, Row, WriteSettings, npy_header, read_source, write_file
from dlspark.data.sources import SourceFile
from dlspark.errors import SourceError


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    rows = []
    for index, row_id in enumerate((30, 10, 20)):
        path = tmp_path / f"{index}.png"
        path.write_bytes(encode_png(np.full((2, 3, 1), index + 1, dtype=np.uint8)))
        rows.append(Row(row_id, SourceFile(f"a/{index}.png", str(path), index % 2, path.stat().st_size)))
    return rows


def write(rows: list[Row], folder: Path, form: str = "raw") -> FileReport:
    settings = WriteSettings(
        dataset=str(folder / "dataset"),
        image=ImageFormat(height=2, width=3, channels=1, resize="none"),
        storage=form,  # type: ignore[arg-type]
        max_image_bytes=1000,
        max_image_pixels=1000,
    )
    return write_file(rows, FilePlace(split="train", index=7), settings)


def test_the_report_is_true(rows: list[Row], tmp_path: Path) -> None:
    report = write(rows, tmp_path)
    assert report.path is not None
    assert report.path.startswith("split=train/part-00007-")
    data = (tmp_path / "dataset" / report.path).read_bytes()
    assert (report.num_bytes, report.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (report.rows, report.min_row_id, report.max_row_id) == (3, 10, 30)
    assert report.class_rows == {0: 2, 1: 1}
    assert report.channel_sums == (6 * (1 + 2 + 3),)
    assert report.channel_squares == (6 * (1 + 4 + 9),)
    assert report.quarantined == report.repeated == []


def test_a_file_is_one_row_group_in_the_order_of_the_row_ids(rows: list[Row], tmp_path: Path) -> None:
    report = write(rows, tmp_path)
    file = pq.ParquetFile(tmp_path / "dataset" / str(report.path))
    assert file.num_row_groups == 1
    assert file.read()["row_id"].to_pylist() == [10, 20, 30]
    column = file.metadata.row_group(0).column(3)
    assert column.path_in_schema == "image"
    assert not column.has_dictionary_page
    assert column.compression == "UNCOMPRESSED"


def test_raw_is_numpys_format_with_a_header_of_128_bytes(rows: list[Row], tmp_path: Path) -> None:
    report = write(rows, tmp_path)
    image = pq.read_table(tmp_path / "dataset" / str(report.path))["image"][0].as_py()
    assert len(npy_header((2, 3, 1))) == len(npy_header((1024, 1024, 3))) == 128
    assert image == npy_header((2, 3, 1)) + bytes([2] * 6)


def test_two_attempts_write_two_files_with_the_same_bytes(rows: list[Row], tmp_path: Path) -> None:
    first, second = write(rows, tmp_path), write(rows[::-1], tmp_path)
    assert first.path != second.path
    assert first.sha256 == second.sha256


def test_both_forms_have_one_fingerprint(rows: list[Row], tmp_path: Path) -> None:
    assert write(rows, tmp_path, "raw").class_sums == write(rows, tmp_path, "encoded").class_sums


def test_a_row_id_that_is_there_twice_is_reported(rows: list[Row], tmp_path: Path) -> None:
    report = write([*rows, rows[0]._replace(file=rows[1].file)], tmp_path)
    assert report.repeated == [("a/0.png", "a/1.png")]


def test_nothing_is_written_where_every_image_is_refused(rows: list[Row], tmp_path: Path) -> None:
    for row in rows:
        Path(row.file.path).write_bytes(b"no image")
    report = write(rows, tmp_path)
    assert (report.path, report.rows, len(report.quarantined)) == (None, 0, 3)
    assert not (tmp_path / "dataset").exists()


def test_a_file_over_the_limit_is_refused_unread(rows: list[Row], tmp_path: Path) -> None:
    Path(rows[0].file.path).unlink()
    report = write([rows[0]._replace(file=rows[0].file._replace(num_bytes=1001))], tmp_path)
    assert [(row.reason, row.num_bytes) for row in report.quarantined] == [("bomb", 1001)]


def test_a_read_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"data")
    failures = [OSError("reset"), TimeoutError("slow"), OSError("reset")]
    read = storage.read_bytes

    def flaky(url: str) -> bytes:
        if failures:
            raise failures.pop()
        return read(url)

    monkeypatch.setattr(parquet_file, "_FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(storage, "read_bytes", flaky)
    assert read_source(str(path)) == b"data"
    assert not failures


def test_a_read_that_goes_on_failing_is_an_error_and_no_bad_image(
    rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_file, "_FIRST_WAIT_SECONDS", 0.0)
    Path(rows[1].file.path).unlink()
    with pytest.raises(SourceError, match=r"cannot be read; got FileNotFoundError.*1\.png"):
        write(rows, tmp_path)
