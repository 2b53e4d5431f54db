"""Membership: a function of key and seed alone, with groups, strata and copies on its side."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark import RDD
from pyspark.sql import SparkSession

from dlspark.contracts import SPLITS
from dlspark.data.augment import Augmentation
from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.folders import FolderSource
from dlspark.data.sources.source import SourceImage
from tests.integration.ingest.conftest import Make, keys_of, make_images, rows_of, splits_by_key

pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # pyspark's, in RDD.collect
]


@dataclass(kw_only=True, slots=True)
class Partitioned(FolderSource):
    """Class folders listed in a given number of partitions, in another order for each number."""

    num_partitions: int

    def images(self, spark: SparkSession, *, with_content: bool = False) -> RDD[SourceImage]:
        return FolderSource.images(self, spark).repartition(self.num_partitions)


def test_membership_order_and_pixels_are_the_same_for_4_and_37_partitions(
    make: Make, images: Path, tmp_path: Path
) -> None:
    options = {"copies": 2, "augmentation": Augmentation(rotate_degrees=30.0, colour=0.3, erase=0.5)}
    few = make(Partitioned(url=str(images), num_partitions=4), "few", **options).manifest
    many = make(Partitioned(url=str(images), num_partitions=37), "many", **options).manifest
    assert few.fingerprint == many.fingerprint
    for split in SPLITS:
        assert rows_of(tmp_path / "few", few, split) == rows_of(tmp_path / "many", many, split)


def test_no_image_is_in_two_splits_and_added_files_move_none(
    make: Make, images: Path, tmp_path: Path
) -> None:
    before = splits_by_key(tmp_path / "before", make(images, "before").manifest)
    make_images(images, per_class=10, first=100)
    after = splits_by_key(tmp_path / "after", make(images, "after", num_streams=3, file_bytes=60).manifest)
    assert len(after) == len(before) + 20 == 60
    assert before.items() <= after.items()


def test_a_group_is_never_divided(make: Make, images: Path, tmp_path: Path) -> None:
    # Ten patients with four images each, two of each class.
    columns = SourceColumns(group=r"/(\d\d)\d")
    for path in sorted(images.rglob("*.png")):
        path.rename(path.with_name(f"{int(path.stem) % 10:02d}{int(path.stem) // 10}.png"))
    manifest = make(images, columns=columns, val_share=0.3, test_share=0.3).manifest
    found = splits_by_key(tmp_path / "dataset", manifest)
    splits_of_group: dict[str, set[str]] = {}
    for key, split in found.items():
        splits_of_group.setdefault(key.split("/")[1][:2], set()).add(split)
    assert len(splits_of_group) == 10
    assert all(len(splits) == 1 for splits in splits_of_group.values())
    assert len(set(found.values())) == 3


def test_stratified_splits_meet_the_shares_in_each_class(make: Make, images: Path, tmp_path: Path) -> None:
    manifest = make(images, stratify=True).manifest
    assert {split: manifest.splits[split].class_rows for split in SPLITS} == {
        "train": (12, 12),
        "val": (4, 4),
        "test": (4, 4),
    }


def test_splits_of_the_source_are_kept_and_validation_is_drawn_from_train(
    make: Make, images: Path, tmp_path: Path
) -> None:
    for split, first in (("train", 0), ("test", 100)):
        make_images(tmp_path / "presplit" / split, first=first)
    manifest = make(tmp_path / "presplit").manifest
    assert manifest.splits["test"].rows == 40
    assert all(key.startswith("test/") for key in keys_of(tmp_path / "dataset", manifest, "test"))
    assert 0 < manifest.splits["val"].rows < 20
    assert all(key.startswith("train/") for key in keys_of(tmp_path / "dataset", manifest, "val"))


def test_copies_are_of_training_images_only_and_carry_their_parent(
    make: Make, images: Path, tmp_path: Path
) -> None:
    plain = make(images, "plain").manifest
    manifest = make(images, copies=3, augmentation=Augmentation(mirror=True, crop_padding=2)).manifest
    train = rows_of(tmp_path / "dataset", manifest, "train")
    originals = {row["row_id"]: row for row in train if row["row_id"] == row["parent_id"]}
    copies = [row for row in train if row["row_id"] != row["parent_id"]]
    assert set(originals) == {row["row_id"] for row in rows_of(tmp_path / "plain", plain, "train")}
    assert Counter(row["parent_id"] for row in copies) == dict.fromkeys(originals, 3)
    assert all(row["label"] == originals[row["parent_id"]]["label"] for row in copies)
    assert sum(row["image"] != originals[row["parent_id"]]["image"] for row in copies) > len(copies) / 2
    for split in ("val", "test"):
        assert rows_of(tmp_path / "dataset", manifest, split) == rows_of(tmp_path / "plain", plain, split)
    counts = manifest.counts
    assert (counts.written, counts.copies) == (40, len(copies))
    assert counts.listed == counts.written + counts.quarantined + counts.deduplicated


def test_the_copies_of_a_duplicate_go_with_it(make: Make, images: Path, tmp_path: Path) -> None:
    for index in range(20):
        (images / "cat" / f"again{index}.png").write_bytes((images / "cat" / f"{index:03d}.png").read_bytes())
    manifest = make(images, copies=1, augmentation=Augmentation(mirror=True)).manifest
    assert (manifest.counts.written, manifest.counts.deduplicated) == (40, 20)
    train = rows_of(tmp_path / "dataset", manifest, "train")
    originals = {row["row_id"] for row in train if row["row_id"] == row["parent_id"]}
    assert {row["parent_id"] for row in train} == originals
    assert manifest.counts.copies == len(originals)
