"""The command on a thousand files of which seven are bad: it ends well, and says of each what is wrong."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from dlspark.cli import main
from dlspark.data.manifest import read_manifest

pytestmark = [pytest.mark.spark, pytest.mark.faults(scenario=4)]

GOLDEN = Path(__file__).parents[2] / "unit" / "data" / "golden"
NUM_GOOD = 993


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """993 images of two classes, and 7 files that are none."""
    folder = tmp_path / "files"
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
    for index in range(NUM_GOOD):
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("cat", "dog")[index % 2] / f"{index:04d}.png")
    whole = (folder / "cat" / "0000.png").read_bytes()
    (folder / "cat" / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "cat" / "cut.jpg")
    (folder / "cat" / "cut.jpg").write_bytes((folder / "cat" / "cut.jpg").read_bytes()[:-200])
    (folder / "cat" / "empty.png").write_bytes(b"")
    (folder / "dog" / "text.jpg").write_text("I am not an image")
    (folder / "dog" / "cmyk.jpg").write_bytes((GOLDEN / "cmyk_adobe.jpg").read_bytes()[:-60])
    (folder / "dog" / "bomb.png").write_bytes(_png_that_declares(50_000))
    with (folder / "dog" / "large.jpg").open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    return folder


def _png_that_declares(side: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def _ingest(source: Path, dataset: Path, *words: str) -> int:
    return main(["ingest", f"source={source}", f"dataset={dataset}", "image.size=8", *words])


def test_seven_bad_files_of_a_thousand(
    files: Path, tmp_path: Path, spark: SparkSession, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "dataset"
    assert _ingest(files, dataset) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    ledger = {name: result[name] for name in ("listed", "written", "quarantined", "deduplicated")}
    assert ledger == {"listed": 1000, "written": NUM_GOOD, "quarantined": 7, "deduplicated": 0}
    manifest = read_manifest(str(dataset))
    rows = sum(pq.read_metadata(dataset / path).num_rows for path in manifest.file_paths)
    assert rows == NUM_GOOD
    refused = [row for path in manifest.quarantine_files for row in pq.read_table(dataset / path).to_pylist()]
    assert {(row["path"], row["reason"]) for row in refused} == {
        (str(files / name), reason)
        for name, reason in (
            ("cat/cut.png", "truncated_body"),
            ("cat/cut.jpg", "truncated_body"),
            ("cat/empty.png", "zero_size"),
            ("dog/text.jpg", "unreadable_header"),
            ("dog/cmyk.jpg", "truncated_body"),
            ("dog/bomb.png", "bomb"),
            ("dog/large.jpg", "bomb"),
        )
    }
    assert len(refused) == 7


def test_a_share_that_allows_fewer_ends_with_2_and_publishes_nothing(
    files: Path, tmp_path: Path, spark: SparkSession, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "dataset"
    assert _ingest(files, dataset, "data.max_quarantined=0.005") == 2
    output = capfd.readouterr()
    assert output.out == ""
    assert "7 of 1000" in output.err
    assert not dataset.exists()
