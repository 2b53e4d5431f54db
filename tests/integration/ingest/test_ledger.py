"""Every listed image is accounted for: written, deduplicated, or quarantined with its reason."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from dlspark.data.accept import accept
from dlspark.data.quarantine import read_quarantine
from dlspark.data.sources.folders import FolderSource
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError
from tests.integration.ingest.conftest import Make, keys_of, names_in, reasons_of, splits_by_key

pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # pyspark's, in RDD.collect
    pytest.mark.faults(scenario=4),
]


def test_bad_files_are_quarantined_with_their_reason_and_the_ledger_adds_up(
    make: Make, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (images / "cat" / "001.png").read_bytes()
    (images / "cat" / "empty.png").write_bytes(b"")
    (images / "cat" / "deep").mkdir()
    (images / "cat" / "deep" / "cut.PNG").write_bytes(whole[: len(whole) // 2])
    (images / "dog" / "text.jpg").write_text("I am not an image")
    with (images / "dog" / "large.jpg").open("wb") as sparse:
        sparse.truncate(3 * 2**30)
    Image.new("L", (9, 9)).save(images / "dog" / "other.png")
    Image.new("L", (5, 6), 77).save(images / "dog" / "blank.png")
    (images / "dog" / "notes.txt").write_text("notes")
    (images / "README.md").write_text("in no class")
    with caplog.at_level(logging.WARNING):
        manifest = make(images, max_quarantined=0.2).manifest
    counts = manifest.counts
    assert (counts.listed, counts.written, counts.quarantined, counts.deduplicated) == (46, 40, 6, 0)
    rows = {row.key: row for row in read_quarantine(str(tmp_path / "dataset"), manifest.quarantine_files)}
    assert {key: row.reason for key, row in rows.items()} == {
        "cat/deep/cut.PNG": "truncated_body",
        "cat/empty.png": "zero_size",
        "dog/large.jpg": "bomb",
        "dog/other.png": "wrong_size",
        "dog/text.jpg": "unreadable_header",
        "dog/blank.png": "constant_image",
    }
    assert rows["dog/text.jpg"].sha256 == hashlib.sha256(b"I am not an image").hexdigest()
    assert rows["dog/large.jpg"].sha256 is None
    assert rows["dog/text.jpg"].path == str(images / "dog" / "text.jpg")
    assert (manifest.refused.get("bomb"), manifest.refused_by_class) == (1, {"cat": 2, "dog": 4})
    assert "'.txt': 1" in caplog.text
    assert len(splits_by_key(tmp_path / "dataset", manifest)) == 40


def test_too_many_bad_files_publish_nothing_and_say_how_to_go_on(
    make: Make, images: Path, tmp_path: Path
) -> None:
    for index in range(3):
        Image.new("L", (9, 9 + index)).save(images / "dog" / f"x{index}.png")
    with pytest.raises(SourceError) as caught:
        make(images, max_quarantined=0.05)
    message = str(caught.value)
    for part in ("3 of 43", "3 wrong_size", "dog/x0.png", "set image.size", "0.05"):
        assert part in message
    assert not (tmp_path / "dataset").exists()


def test_images_with_the_same_bytes_are_written_once(make: Make, images: Path, tmp_path: Path) -> None:
    for index in range(5):
        (images / "cat" / f"again{index}.png").write_bytes((images / "cat" / "003.png").read_bytes())
    manifest = make(images).manifest
    counts = manifest.counts
    assert (counts.listed, counts.written, counts.quarantined, counts.deduplicated) == (45, 40, 0, 5)
    same = {f"cat/again{index}.png" for index in range(5)} | {"cat/003.png"}
    kept = same & set(splits_by_key(tmp_path / "dataset", manifest))
    assert len(kept) == 1
    left_out = {row.key: row for row in read_quarantine(str(tmp_path / "dataset"), manifest.quarantine_files)}
    assert set(left_out) == same - kept
    assert all(kept.copy().pop() in row.message for row in left_out.values())
    everything = make(images, "everything", duplicates="keep").manifest
    assert everything.counts.written == 45


def test_images_with_the_same_bytes_and_two_classes_are_both_quarantined(
    make: Make, images: Path, tmp_path: Path
) -> None:
    (images / "dog" / "cat.png").write_bytes((images / "cat" / "003.png").read_bytes())
    manifest = make(images, max_quarantined=0.1).manifest
    assert manifest.counts.quarantined == 2
    assert reasons_of(tmp_path / "dataset", manifest) == dict.fromkeys(
        ("cat/003.png", "dog/cat.png"), "conflicting_label"
    )


def test_classes_that_the_user_names_decide_labels_and_refuse_others(
    make: Make, images: Path, tmp_path: Path
) -> None:
    (images / "fish").mkdir()
    (images / "fish" / "a.png").write_bytes((images / "cat" / "003.png").read_bytes() + b"x")
    manifest = make(images, classes=("dog", "cat"), max_quarantined=0.1).manifest
    assert manifest.classes == ("dog", "cat")
    assert reasons_of(tmp_path / "dataset", manifest) == {"fish/a.png": "unknown_label"}
    assert manifest.refused_by_class == {"": 1}


def test_settled_images_no_longer_count_and_repaired_ones_come_in(
    make: Make, images: Path, tmp_path: Path
) -> None:
    for name in ("x.png", "y.png"):
        (images / "dog" / name).write_bytes(b"bad")
    dataset = tmp_path / "dataset"
    manifest = make(images, max_quarantined=0.1).manifest
    accept(str(dataset), read_quarantine(str(dataset), manifest.quarantine_files))
    manifest = make(images, overwrite=True, max_quarantined=0.0).manifest
    assert manifest.counts.quarantined == 2
    good = np.random.default_rng(5).integers(0, 256, (6, 5), dtype=np.uint8)
    Image.fromarray(good).save(images / "dog" / "x.png")
    done = make(images, overwrite=True, max_quarantined=0.0)
    assert (done.manifest.counts.quarantined, done.manifest.counts.written) == (1, 41)
    assert "dog/x.png" in splits_by_key(dataset, done.manifest)


@dataclass(kw_only=True, slots=True)
class FirstReadFails(FolderSource):
    """Refuses the first read of five of its images, on whatever worker."""

    def read(self, image: SourceImage) -> bytes:
        if image.key.endswith(("cat/003.png", "cat/011.png", "dog/001.png", "dog/012.png", "dog/019.png")):
            failed = Path(f"{self.path_of(image)}.failed")
            if not failed.exists():
                failed.touch()
                raise OSError(5, "Input/output error")
        return FolderSource.read(self, image)


def test_a_transient_read_error_loses_no_row(make: Make, images: Path, tmp_path: Path) -> None:
    manifest = make(FirstReadFails(url=str(images))).manifest
    assert (manifest.counts.written, manifest.counts.quarantined) == (40, 0)
    assert len([name for name in names_in(images) if name.endswith(".failed")]) == 5


def test_a_file_that_cannot_be_read_fails_the_ingest_and_is_no_corrupt_image(
    make: Make, images: Path, tmp_path: Path
) -> None:
    (images / "dog" / "loop.png").symlink_to(images / "dog" / "loop.png")
    with pytest.raises(SourceError, match=r"loop\.png"):
        make(images, max_quarantined=1.0)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("name", ["spark.sql.files.ignoreCorruptFiles", "spark.sql.files.ignoreMissingFiles"])
def test_a_session_that_drops_unreadable_files_is_refused(
    make: Make, images: Path, tmp_path: Path, spark: SparkSession, name: str
) -> None:
    spark.conf.set(name, "true")
    try:
        with pytest.raises(SourceError, match=f"{name}=true"):
            make(images)
    finally:
        spark.conf.unset(name)
    assert not (tmp_path / "dataset").exists()


def test_a_list_that_names_an_image_twice_is_refused(make: Make, images: Path, tmp_path: Path) -> None:
    lines = ["path,label", *(f"cat/{index:03d}.png,cat" for index in range(20))]
    lines += [f"dog/{index:03d}.png,dog" for index in range(20)]
    (images / "list.csv").write_text("\n".join([*lines, "cat/003.png,cat"]))
    with pytest.raises(SourceError, match=r"names an image twice; got cat/003\.png"):
        make(images / "list.csv")
    (images / "list.csv").write_text("\n".join([*lines, "cat/gone.png,cat", "dog/nolabel.png,"]))
    Image.new("L", (5, 6), 3).save(images / "dog" / "nolabel.png")
    manifest = make(images / "list.csv", max_quarantined=0.1).manifest
    assert reasons_of(tmp_path / "dataset", manifest) == {
        "cat/gone.png": "missing",
        "dog/nolabel.png": "unknown_label",
    }
    assert keys_of(tmp_path / "dataset", manifest, "train") < {
        f"{name}/{i:03d}.png" for name in ("cat", "dog") for i in range(20)
    }
