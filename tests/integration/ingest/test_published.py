"""What a published dataset is: the digits, with every row, and readable by everyone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dlspark.contracts import SPLITS
from dlspark.data.card import card
from dlspark.data.diff import diff
from dlspark.data.digits import write_digits
from dlspark.data.ingest import ingest
from dlspark.data.manifest import Manifest, read_manifest
from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.open import open_source
from dlspark.data.split import row_id_of, split_of
from dlspark.data.verify import verify
from dlspark.errors import DatasetError
from tests.integration.ingest.conftest import OPTIONS, Make, Steps, names_in, rows_of, splits_by_key

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # pyspark's, in RDD.collect
]

Digits = tuple[Path, Manifest, Steps]


@pytest.fixture(scope="module")
def digits(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(str(folder / "source"))
    steps = Steps()
    done = ingest(
        spark,
        source=open_source(str(folder / "source"), columns=SourceColumns(), max_image_bytes=2**20),
        dataset=str(folder / "dataset"),
        overwrite=False,
        options=OPTIONS,
        request={},
        progress=steps,
    )
    return folder / "dataset", done.manifest, steps


def test_the_digits_become_a_dataset(digits: Digits) -> None:
    dataset, manifest, steps = digits
    assert read_manifest(str(dataset)) == manifest
    assert manifest.classes == tuple("0123456789")
    assert manifest.counts.listed == manifest.counts.written == 1797
    assert sum(manifest.splits[split].rows for split in SPLITS) == 1797
    assert manifest.storage == "raw"
    assert manifest.sizes == ((8, 8, 1797),)
    assert {split: len(manifest.splits[split].files) for split in SPLITS} == dict.fromkeys(SPLITS, 4)
    for split in SPLITS:
        rows = [file.rows for file in manifest.splits[split].files]
        assert max(rows) - min(rows) <= 3
        assert sum(manifest.splits[split].class_rows) == sum(rows) == manifest.splits[split].rows
    assert steps.seen[0] == (0, 12)
    assert steps.seen[-1] == (12, 12)
    assert {name.split("/")[0] for name in names_in(dataset)} == {
        "_common_metadata",
        "_dlspark_manifest.json",
        "split=train",
        "split=val",
        "split=test",
    }


def test_every_digit_is_there_with_its_pixels_and_label(digits: Digits) -> None:
    dataset, manifest, _ = digits
    expected = load_digits()
    train = []
    for split in SPLITS:
        ids = []
        for row in rows_of(dataset, manifest, split):
            index = int(row["key"].split("/")[1].removesuffix(".png"))
            pixels = np.frombuffer(row["image"][128:], dtype=np.uint8).reshape(8, 8)
            assert row["label"] == expected.target[index]
            assert row["row_id"] == row["parent_id"] == row_id_of(row["key"])
            assert split == split_of(row["key"], seed=0, val_share=0.2, test_share=0.2)
            assert (pixels == np.rint(expected.images[index] * (255 / 16))).all()
            ids.append(row["row_id"])
            if split == "train":
                train.append(pixels / 255)
        # The files of a split are one shuffle, cut into runs.
        assert ids == sorted(ids)
    assert manifest.preprocessing.mean == pytest.approx((np.mean(train),), rel=1e-12)
    assert manifest.preprocessing.std == pytest.approx((np.std(train),), rel=1e-12)


@pytest.mark.filterwarnings("ignore:.*(legacy|deprecated|localfs).*:FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("form", ["raw", "encoded"])
def test_petastorm_reads_it_as_a_typed_dataset(make: Make, digits: Digits, tmp_path: Path, form: str) -> None:
    from petastorm import make_reader

    source = digits[0].parent / "source"
    make(source, storage=form)
    expected = load_digits()
    seen = set()
    with make_reader(
        (tmp_path / "dataset").as_uri(), reader_pool_type="dummy", num_epochs=1, shuffle_row_groups=False
    ) as reader:
        for row in reader:
            index = int(row.key.split("/")[1].removesuffix(".png"))
            assert row.image.shape == ((8, 8, 1) if form == "raw" else (8, 8))
            assert row.image.dtype == np.uint8
            assert (row.image.reshape(8, 8) == np.rint(expected.images[index] * (255 / 16))).all()
            assert row.label == expected.target[index]
            seen.add(int(row.row_id))
    assert len(seen) == 1797


def test_pyarrow_pandas_spark_and_duckdb_read_it_without_code_of_ours(
    digits: Digits, spark: SparkSession
) -> None:
    dataset, manifest, _ = digits
    rows = {split: manifest.splits[split].rows for split in SPLITS}
    assert pq.read_table(dataset).num_rows == 1797
    assert pd.read_parquet(dataset).groupby("split", observed=True).size().to_dict() == rows
    counted = spark.read.parquet(str(dataset)).groupBy("split").count().collect()
    assert {row["split"]: row["count"] for row in counted} == rows
    table = duckdb.read_parquet(f"{dataset}/split=*/*.parquet", hive_partitioning=True)
    found = table.aggregate("split, count(*), sum(label)").fetchall()
    assert {split: number for split, number, _ in found} == rows
    assert sum(labels for _, _, labels in found) == load_digits().target.sum()


def test_the_schema_for_petastorm_is_a_typed_image_column(make: Make, images: Path, tmp_path: Path) -> None:
    make(images, storage="encoded")
    metadata = pq.read_schema(tmp_path / "dataset" / "_common_metadata").metadata
    schema = pickle.loads(metadata[b"dataset-toolkit.unischema.v1"])  # noqa: S301 - our own bytes
    assert str(schema.fields["image"].codec) == "CompressedImageCodec('png', 80)"
    assert schema.fields["image"].shape == (6, 5)


def test_the_proof_finds_each_kind_of_damage(make: Make, images: Path, tmp_path: Path) -> None:
    manifest = make(images).manifest
    dataset = tmp_path / "dataset"
    found = verify(str(dataset), manifest, Steps())
    assert (found.damages, found.fingerprint, found.num_rows) == ((), manifest.fingerprint, 40)
    first, second, *_ = [dataset / path for path in manifest.file_paths]
    first.unlink()
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(data)
    found = verify(str(dataset), manifest, Steps())
    assert [damage.path for damage in found.damages] == manifest.file_paths[:2]
    assert "missing" in found.damages[0].problem
    assert "checksum" in found.damages[1].problem
    assert found.fingerprint is None


def test_a_lost_file_is_made_again_from_the_source_alone(make: Make, images: Path, tmp_path: Path) -> None:
    manifest = make(images).manifest
    lost = manifest.splits["train"].files[1]
    (tmp_path / "dataset" / lost.path).unlink()
    again = make(images, overwrite=True, again=True)
    assert again.num_decoded == lost.rows
    assert again.manifest.fingerprint == manifest.fingerprint
    assert verify(str(tmp_path / "dataset"), again.manifest, Steps()).damages == ()


def test_the_difference_of_two_datasets_is_told_row_by_row(make: Make, images: Path, tmp_path: Path) -> None:
    before = make(images, "before").manifest
    assert diff(str(tmp_path / "before"), before, str(tmp_path / "before"), before).same
    (images / "cat" / "000.png").rename(images / "dog" / "moved.png")
    (images / "cat" / "001.png").unlink()
    Image.new("L", (5, 6)).save(images / "cat" / "002.png")
    after = make(images, "after", refuse_constant=False, test_share=0.0).manifest
    found = diff(str(tmp_path / "before"), before, str(tmp_path / "after"), after)
    old, new = (splits_by_key(tmp_path / name, one) for name, one in (("before", before), ("after", after)))
    assert (found.same, found.added, found.removed, found.changed) == (False, 1, 2, 1)
    assert found.moved == sum(new[key] != split for key, split in old.items() if key in new) > 0
    assert (found.added_by_class, found.removed_by_class) == ({"dog": 1}, {"cat": 2})
    assert found.examples["added"] == ["dog/moved.png"]
    assert found.examples["changed"] == ["cat/002.png"]
    (images / "dog").rename(images / "wolf")
    renamed = make(images, "renamed", refuse_constant=False, test_share=0.0).manifest
    found = diff(str(tmp_path / "after"), after, str(tmp_path / "renamed"), renamed)
    assert (found.added, found.removed, found.relabelled) == (21, 21, 0)


def test_a_damaged_dataset_is_not_compared(make: Make, images: Path, tmp_path: Path) -> None:
    a, b = make(images, "a").manifest, make(images, "b", val_share=0.0).manifest
    (tmp_path / "b" / b.file_paths[0]).unlink()
    with pytest.raises(DatasetError, match="missing"):
        diff(str(tmp_path / "a"), a, str(tmp_path / "b"), b)


def test_files_are_near_their_target_and_never_over_it(make: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(600):
        side = int(rng.integers(4, 41))
        target = tmp_path / "sizes" / str(index % 2) / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(target)
    row_bytes, file_bytes = 16 * 16, 16 * 16 * 20
    manifest = make(
        tmp_path / "sizes", size=16, resize="exact", file_bytes=file_bytes, num_streams=2, storage="encoded"
    ).manifest
    rows = [file.rows for split in SPLITS for file in manifest.splits[split].files]
    assert sum(rows) == 600
    assert max(rows) * row_bytes <= file_bytes
    assert sum(0.5 * file_bytes <= number * row_bytes for number in rows) >= 0.95 * len(rows)


def test_the_card_says_what_there_is(digits: Digits) -> None:
    dataset, manifest, _ = digits
    text = card(str(dataset), manifest)
    for part in (manifest.fingerprint, "1,797 listed = 1,797 written", "8 x 8 x 1", "1,797 of 8 x 8"):
        assert part in text
    assert len([line for line in text.splitlines() if line[:1].isdigit()]) == 10


def test_ingest_imports_neither_torch_nor_the_trackers() -> None:
    code = (
        "import sys, dlspark.data.ingest, pipelines.ingest; "
        "print([name for name in ('torch', 'mlflow', 'horovod') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
