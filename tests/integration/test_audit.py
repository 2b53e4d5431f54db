from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import SparkSession
from sklearn.datasets import load_digits

from dlspark.contracts import Split
from dlspark.data.audit.audit import AuditReport, audit
from dlspark.data.audit.clusters import read_moves, read_pairs
from dlspark.data.audit.pixels import pixels_of_pairs
from dlspark.errors import ConfigError, DatasetError
from tests.unit.data.audit.planted import NEAR_KINDS, Planted, near_twin, png_of, row_id, write_dataset

pytestmark = pytest.mark.spark

PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "imagenet-sample.tar"
EXACT_KINDS = ("same_bytes", "same_pixels")
SPLITS: tuple[Split, ...] = ("train", "test", "val")


class Shown:
    """A progress display that remembers what it was told."""

    def __init__(self) -> None:
        self.last = (0, 0)

    def update(self, completed: int, total: int, fields: object = None) -> None:
        self.last = (completed, total)


def photographs(side: int) -> list[np.ndarray]:
    if not PHOTOGRAPHS.exists():
        pytest.skip("the photographs are not here: ../shared/data/imagenet-sample.tar")
    found = []
    with tarfile.open(PHOTOGRAPHS) as tar:
        for member in tar:
            data = tar.extractfile(member)
            if data is not None:
                picture = Image.open(io.BytesIO(data.read())).convert("RGB")
                found.append(np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS)))
    return found


def with_twins(pictures: list[np.ndarray], *, conflict_every: int) -> tuple[list[Planted], dict]:
    """A row of each picture, and a twin of another split; the kind of each planted pair by its keys."""
    rng = np.random.default_rng(3)
    kinds = (*EXACT_KINDS, *NEAR_KINDS)
    rows, planted = [], {}
    for index, pixels in enumerate(pictures):
        kind = kinds[index % len(kinds)]
        label = index % 5
        source = png_of(pixels, 0)
        rows.append(Planted(f"{index}", label, SPLITS[index % 3], pixels, source))
        twin = pixels if kind in EXACT_KINDS else near_twin(pixels, kind, rng)
        twin_source = source if kind == "same_bytes" else png_of(twin, 1)
        if index % conflict_every == 0:
            label = (label + 1) % 5
        rows.append(Planted(f"{index} {kind}", label, SPLITS[(index + 1) % 3], twin, twin_source))
        planted[frozenset((f"{index}", f"{index} {kind}"))] = (kind, index % conflict_every == 0)
    return rows, planted


def run(spark: SparkSession, folder: Path, rows: list[Planted], **options: int) -> AuditReport:
    manifest = write_dataset(str(folder), rows, classes=list("abcde"), file_rows=60)
    return audit(spark, str(folder), manifest, progress=Shown(), **options)


def test_twins_planted_among_photographs_are_found(spark: SparkSession, tmp_path: Path) -> None:
    rows, planted = with_twins(photographs(96), conflict_every=7)
    report = run(spark, tmp_path, rows)
    pairs = {
        frozenset((pair["key_a"], pair["key_b"])): pair for pair in read_pairs(str(tmp_path)).to_pylist()
    }
    found = Counter(kind for keys, (kind, _) in planted.items() if keys in pairs)
    wanted = Counter(kind for kind, _ in planted.values())
    false = [pair for keys, pair in pairs.items() if keys not in planted]
    print("found", dict(found), "of", dict(wanted), "false", len(false))  # noqa: T201
    assert all(found[kind] == wanted[kind] for kind in EXACT_KINDS)
    assert sum(found[kind] for kind in NEAR_KINDS) >= 0.95 * sum(wanted[kind] for kind in NEAR_KINDS)
    assert len(false) <= 2
    for keys, pair in pairs.items():
        if keys in planted:
            kind, conflict = planted[keys]
            assert pair["leak"]
            assert pair["label_conflict"] == conflict
            assert pair["kind"] == (kind if kind in EXACT_KINDS else "near")
            if "rotate" not in kind:
                assert pair["transform"] == (kind if kind in NEAR_KINDS[:7] else "identity")
    assert report.num_rows == len(rows)
    assert sum(report.num_leaks_between.values()) == sum(report.num_leaks.values())
    assert sum(report.num_pairs.values()) == len(pairs)
    assert report.num_candidates >= report.num_pairs["near"]
    assert report.num_spanning_clusters == report.num_clusters - sum(not pair["leak"] for pair in false)
    moves = read_moves(str(tmp_path)).to_pylist()
    splits = {row_id(row.key): row.split for row in rows}
    assert all(splits[move["row_id"]] == move["from_split"] != "train" for move in moves)
    assert len(moves) == report.num_moves
    assert not (tmp_path / "_audit" / "rows").exists()


def test_digits_of_eight_pixels_have_their_exact_twins(spark: SparkSession, tmp_path: Path) -> None:
    digits = np.rint(load_digits().images[:300] * 15.9).astype(np.uint8)[..., None]
    rows = [Planted(f"{i}", i % 5, "train", pixels, png_of(pixels, 0)) for i, pixels in enumerate(digits)]
    rows += [Planted(f"twin {i}", i % 5, "val", digits[i], png_of(digits[i], i % 2)) for i in range(40)]
    copy_of = row_id("0")
    rows.append(Planted("copy", 0, "train", digits[0], b"copy", copy_of))
    blanks = [Planted(f"blank {i}", 0, SPLITS[i % 3], np.zeros((8, 8, 1), np.uint8), b"") for i in range(30)]
    report = run(spark, tmp_path, rows + blanks)
    assert report.num_rows == 370
    assert report.num_flat == 30
    assert report.num_pairs["same_bytes"] == 20 + 29
    assert report.num_pairs["same_pixels"] == 20
    assert report.num_leaks["same_bytes"] == 20 + 20
    keys = set(read_pairs(str(tmp_path), ["key_b"])["key_b"].to_pylist())
    assert "copy" not in keys


def test_examples_have_their_pixels(spark: SparkSession, tmp_path: Path) -> None:
    digits = np.rint(load_digits().images[:20] * 15.9).astype(np.uint8)[..., None]
    rows = [Planted(f"{i}", 0, "train", pixels, bytes([i])) for i, pixels in enumerate(digits)]
    rows.append(Planted("twin", 1, "test", digits[4], b"twin"))
    manifest = write_dataset(str(tmp_path), rows, classes=["a", "b"], file_rows=7)
    shown = Shown()
    report = audit(spark, str(tmp_path), manifest, progress=shown, max_examples=1)
    assert shown.last[0] == shown.last[1] > 0
    (example,) = report.examples
    assert (example["key_a"], example["key_b"], example["label_conflict"]) == ("4", "twin", True)
    ((one, other),) = pixels_of_pairs(str(tmp_path), manifest, report.examples)
    np.testing.assert_array_equal(one, digits[4])
    np.testing.assert_array_equal(other, digits[4])


def test_bad_input_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    rows = [Planted("0", 0, "train", np.zeros((8, 8, 1), np.uint8), b"")]
    manifest = write_dataset(str(tmp_path), rows, classes=["a"], file_rows=7)
    with pytest.raises(ConfigError, match="max_distance"):
        audit(spark, str(tmp_path), manifest, progress=Shown(), max_distance=40)
    (tmp_path / manifest.file_paths[0]).unlink()
    with pytest.raises(DatasetError, match=r"a task of the audit failed.*missing"):
        audit(spark, str(tmp_path), manifest, progress=Shown())
