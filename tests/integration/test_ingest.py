"""The ingest on a real Spark session: the digits, the ledger, the splits, the published form."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dlspark.contracts import SPLITS
from dlspark.data import ingest as ingest_module
from dlspark.data.digits import write_digits
from dlspark.data.ingest import IngestOptions, ingest
from dlspark.data.manifest import MANIFEST_NAME, MARKER_NAME, Manifest, read_manifest
from dlspark.data.split import row_id_of, split_of
from dlspark.errors import DatasetError, OutputExistsError, SourceError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # pyspark's, in RDD.collect
]

OPTIONS = IngestOptions(
    size=None,
    channels=None,
    val_share=0.2,
    test_share=0.2,
    split_seed=0,
    storage="auto",
    raw_budget_bytes=2**30,
    file_bytes=2**20,
    num_streams=4,
    max_quarantined=0.0,
    max_image_bytes=2**20,
    max_image_pixels=2**20,
)


class Steps:
    """A progress display that keeps what it is told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        self.seen.append((completed, total))


@pytest.fixture
def make(spark: SparkSession, tmp_path: Path) -> Any:
    def call(source: Path, dataset: str = "dataset", *, overwrite: bool = False, **options: Any) -> Manifest:
        from dataclasses import replace

        return ingest(
            spark,
            source=str(source),
            dataset=str(tmp_path / dataset),
            overwrite=overwrite,
            options=replace(OPTIONS, **options),
            progress=Steps(),
        )

    return call


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 20 gray images of 6 x 5 pixels."""
    return make_images(tmp_path / "source")


def make_images(folder: Path, *, per_class: int = 20, first: int = 0) -> Path:
    for label, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(first, first + per_class):
            pixels = np.random.default_rng((label, index)).integers(0, 256, (6, 5), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index:03d}.png")
    return folder


def rows_of(dataset: Path, manifest: Manifest, split: str) -> dict[str, int]:
    tables = [
        pq.read_table(dataset / file.path, columns=["key", "label"]) for file in manifest.splits[split].files
    ]
    return {row["key"]: row["label"] for table in tables for row in table.to_pylist()}


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def digits(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Steps]:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(str(folder / "source"))
    steps = Steps()
    manifest = ingest(
        spark,
        source=str(folder / "source"),
        dataset=str(folder / "dataset"),
        overwrite=False,
        options=OPTIONS,
        progress=steps,
    )
    return folder / "dataset", manifest, steps


def test_the_digits_become_a_dataset(digits: tuple[Path, Manifest, Steps]) -> None:
    dataset, manifest, steps = digits
    assert read_manifest(str(dataset)) == manifest
    assert manifest.classes == tuple("0123456789")
    assert manifest.counts.listed == manifest.counts.written == 1797
    assert sum(manifest.splits[split].rows for split in SPLITS) == 1797
    assert manifest.storage == "raw"
    assert {split: len(manifest.splits[split].files) for split in SPLITS} == dict.fromkeys(SPLITS, 4)
    for split in SPLITS:
        rows = [file.rows for file in manifest.splits[split].files]
        assert max(rows) - min(rows) <= 1
        assert sum(manifest.splits[split].class_rows) == sum(rows) == manifest.splits[split].rows
    assert steps.seen[0] == (0, 12)
    assert steps.seen[-1] == (12, 12)
    assert not (dataset / MARKER_NAME).exists()


def test_every_digit_is_there_with_its_pixels_and_label(digits: tuple[Path, Manifest, Steps]) -> None:
    dataset, manifest, _ = digits
    expected = load_digits()
    train = []
    for split in SPLITS:
        for file in manifest.splits[split].files:
            table = pq.read_table(dataset / file.path)
            ids = table["row_id"].to_pylist()
            assert ids == sorted(ids)
            assert (ids[0], ids[-1], len(ids)) == (file.min_row_id, file.max_row_id, file.rows)
            for row in table.to_pylist():
                index = int(row["key"].split("/")[1].removesuffix(".png"))
                pixels = np.frombuffer(row["image"][128:], dtype=np.uint8).reshape(8, 8)
                assert row["label"] == expected.target[index]
                assert row["row_id"] == row_id_of(row["key"])
                assert split == split_of(row["key"], seed=0, val_share=0.2, test_share=0.2)
                assert (pixels == np.rint(expected.images[index] * (255 / 16))).all()
                if split == "train":
                    train.append(pixels / 255)
    assert manifest.preprocessing.mean == pytest.approx((np.mean(train),), rel=1e-12)
    assert manifest.preprocessing.std == pytest.approx((np.std(train),), rel=1e-12)


@pytest.mark.filterwarnings("ignore:.*(legacy|deprecated|localfs).*:FutureWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_petastorm_reads_it_as_a_typed_dataset(digits: tuple[Path, Manifest, Steps]) -> None:
    from petastorm import make_reader

    dataset, _, _ = digits
    expected = load_digits()
    seen = set()
    with make_reader(
        dataset.as_uri(), reader_pool_type="dummy", num_epochs=1, shuffle_row_groups=False
    ) as reader:
        for row in reader:
            index = int(row.key.split("/")[1].removesuffix(".png"))
            assert row.image.shape == (8, 8, 1)
            assert row.image.dtype == np.uint8
            assert (row.image[:, :, 0] == np.rint(expected.images[index] * (255 / 16))).all()
            assert row.label == expected.target[index]
            seen.add(int(row.row_id))
    assert len(seen) == 1797


def test_pyarrow_and_spark_read_it(digits: tuple[Path, Manifest, Steps], spark: SparkSession) -> None:
    dataset, manifest, _ = digits
    table = pq.read_table(dataset)
    assert table.num_rows == 1797
    assert set(table.column_names) == {"row_id", "key", "label", "image", "split"}
    counts = {
        row["split"]: row["count"]
        for row in spark.read.parquet(str(dataset)).groupBy("split").count().collect()
    }
    assert counts == {split: manifest.splits[split].rows for split in SPLITS}


def test_bad_files_are_quarantined_with_their_reason_and_the_ledger_adds_up(
    make: Any, images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (images / "cat" / "001.png").read_bytes()
    (images / "cat" / "empty.png").write_bytes(b"")
    (images / "cat" / "deep").mkdir()
    (images / "cat" / "deep" / "cut.PNG").write_bytes(whole[: len(whole) // 2])
    (images / "dog" / "text.png").write_text("I am not an image")
    (images / "dog" / "large.jpg").write_bytes(b"x" * 5000)
    Image.new("L", (9, 9)).save(images / "dog" / "other.png")
    (images / "dog" / "notes.txt").write_text("notes")
    (images / "README.md").write_text("in no class")
    with caplog.at_level(logging.WARNING):
        manifest = make(images, max_quarantined=0.2, max_image_bytes=4000)
    counts = manifest.counts
    assert (counts.listed, counts.written, counts.quarantined, counts.deduplicated) == (45, 40, 5, 0)
    table = pq.read_table(tmp_path / "dataset" / "_quarantine" / "part-00000.parquet")
    assert {row["key"]: row["reason"] for row in table.to_pylist()} == {
        "cat/deep/cut.PNG": "truncated_body",
        "cat/empty.png": "zero_size",
        "dog/large.jpg": "bomb",
        "dog/other.png": "wrong_size",
        "dog/text.png": "unreadable_header",
    }
    assert "'.txt': 1" in caplog.text
    rows = {key for split in SPLITS for key in rows_of(tmp_path / "dataset", manifest, split)}
    assert len(rows) == 40


def test_too_many_bad_files_publish_nothing_and_say_how_to_go_on(
    make: Any, images: Path, tmp_path: Path
) -> None:
    for index in range(3):
        Image.new("L", (9, 9 + index)).save(images / "dog" / f"x{index}.png")
    with pytest.raises(SourceError) as caught:
        make(images, max_quarantined=0.05)
    message = str(caught.value)
    for part in ("3 of 43", "3 wrong_size", "dog/x0.png", "set image.size", "0.05"):
        assert part in message
    assert not (tmp_path / "dataset").exists()


def test_membership_and_row_ids_stay_when_files_are_added(make: Any, images: Path, tmp_path: Path) -> None:
    before = make(images, "before")
    make_images(images, per_class=10, first=100)
    after = make(images, "after", num_streams=3, file_bytes=60)
    assert after.counts.written == before.counts.written + 20
    for split in SPLITS:
        old, new = rows_of(tmp_path / "before", before, split), rows_of(tmp_path / "after", after, split)
        assert old.items() <= new.items()
        assert {key for key in new if int(key.split("/")[1][:3]) < 100} == set(old)


def test_the_fingerprint_is_of_the_content_alone(make: Any, images: Path) -> None:
    manifests = {
        "raw": make(images, "raw", storage="raw"),
        "encoded": make(images, "encoded", storage="encoded"),
        "files": make(images, "files", num_streams=7, file_bytes=90),
        "auto": make(images, "auto", raw_budget_bytes=100),
    }
    assert len({manifest.fingerprint for manifest in manifests.values()}) == 1
    assert len(manifests["files"].splits["train"].files) > len(manifests["raw"].splits["train"].files)
    assert manifests["auto"].storage == "encoded"
    (images / "dog").rename(images / "dogs")
    renamed = make(images, "renamed")
    (images / "dogs").rename(images / "dog")
    Image.new("L", (5, 6), 7).save(images / "cat" / "003.png")
    changed = make(images, "changed")
    assert len({manifests["raw"].fingerprint, renamed.fingerprint, changed.fingerprint}) == 3


@pytest.mark.filterwarnings("ignore:.*(legacy|deprecated|localfs).*:FutureWarning")
def test_encoded_is_a_petastorm_image_column(make: Any, images: Path, tmp_path: Path) -> None:
    make(images, storage="encoded")
    metadata = pq.read_schema(tmp_path / "dataset" / "_common_metadata").metadata
    schema = pickle.loads(metadata[b"dataset-toolkit.unischema.v1"])  # noqa: S301 - our own bytes
    assert str(schema.fields["image"].codec) == "CompressedImageCodec('png', 80)"
    assert schema.fields["image"].shape == (6, 5)
    row = pq.read_table(tmp_path / "dataset" / "split=train").to_pylist()[0]
    assert row["image"].startswith(b"\x89PNG")


def test_images_are_resized_where_asked(make: Any, images: Path) -> None:
    Image.new("RGB", (50, 90)).save(images / "dog" / "large.png")
    manifest = make(images, size=4, channels=3)
    image = manifest.preprocessing.image
    assert (image.height, image.width, image.channels, image.resize) == (4, 4, 3, "exact")
    assert manifest.counts.written == 41
    assert len(manifest.preprocessing.mean) == 3


def test_what_exists_is_replaced_only_if_it_is_ours_and_asked_for(
    make: Any, images: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    first = make(images)
    (dataset / "notes.txt").write_text("by the user")
    before = names_in(dataset)
    with pytest.raises(OutputExistsError, match="overwrite=true"):
        make(images)
    assert names_in(dataset) == before

    # A failed overwrite leaves the old dataset whole.
    (images / "dog" / "bad.png").write_bytes(b"bad")
    with pytest.raises(SourceError):
        make(images, overwrite=True)
    assert names_in(dataset) == before
    assert read_manifest(str(dataset)) == first
    (images / "dog" / "bad.png").unlink()

    second = make(images, overwrite=True)
    assert second.fingerprint == first.fingerprint
    assert (dataset / "notes.txt").read_text() == "by the user"
    assert not {file.path for file in first.splits["train"].files} & set(names_in(dataset))
    assert pq.read_table(dataset / "split=train").num_rows == second.splits["train"].rows

    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "wedding.jpg").write_bytes(b"dear to someone")
    with pytest.raises(OutputExistsError, match="no dataset of dlspark"):
        make(images, "photos", overwrite=True)
    assert names_in(foreign) == ["wedding.jpg"]


def test_an_ingest_that_was_killed_is_half_written_until_it_is_done_again(
    make: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        # Killed after the files and before the manifest; a killed process cleans nothing up.
        patched.setattr(ingest_module.publish, "publish", die)
        patched.setattr(ingest_module.publish, "discard", lambda dataset: None)
        with pytest.raises(KeyboardInterrupt):
            make(images)
    assert any(name.startswith("split=train/") for name in names_in(tmp_path / "dataset"))
    with pytest.raises(DatasetError, match="half-written"):
        read_manifest(str(tmp_path / "dataset"))
    with pytest.raises(OutputExistsError, match="unfinished"):
        make(images)
    manifest = make(images, overwrite=True)
    assert pq.read_table(tmp_path / "dataset" / "split=train").num_rows == manifest.splits["train"].rows


def test_a_file_that_cannot_be_read_fails_the_ingest_and_is_no_corrupt_image(
    make: Any, images: Path, tmp_path: Path
) -> None:
    # Listed, of some length, and not to be opened: the file system fails, not the image.
    (images / "dog" / "loop.png").symlink_to(images / "dog" / "loop.png")
    with pytest.raises(SourceError, match=r"cannot be read.*loop\.png"):
        make(images, max_quarantined=1.0)
    assert not (tmp_path / "dataset").exists()


def test_two_images_with_one_row_id_are_refused(
    make: Any, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ingest_module.run_job

    def repeat(*args: Any, **options: Any) -> Any:
        reports = write(*args, **options)
        train = [report for report in reports if report.split == "train"]
        train[1].min_row_id = train[0].max_row_id
        return reports

    monkeypatch.setattr(ingest_module, "run_job", repeat)
    with pytest.raises(SourceError, match="same row id"):
        make(images)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "empty folder"),
        (lambda folder: (shutil.rmtree(folder), folder.write_text("x")), "is a file"),
        (lambda folder: shutil.rmtree(folder / "dog"), "only one class; got cat"),
        (
            lambda folder: (
                [path.rename(folder / path.name) for path in [*(folder / "cat").iterdir()]]
                and [shutil.rmtree(folder / name) for name in ("cat", "dog")]
            ),
            "no class folders",
        ),
        (
            lambda folder: [path.unlink() for path in [*(folder / "dog").iterdir()][1:]],
            "class dog has too few",
        ),
        (
            lambda folder: [path.rename(path.with_suffix(".dat")) for path in [*folder.rglob("*.png")]],
            r"hold no images; got 40 \.dat",
        ),
    ],
)
def test_a_source_that_is_no_class_folders_is_refused_with_the_reason(
    make: Any, images: Path, tmp_path: Path, arrange: Any, message: str
) -> None:
    arrange(images)
    with pytest.raises(SourceError, match=message):
        make(images)
    assert not (tmp_path / "dataset").exists()


def test_a_dataset_inside_its_source_is_refused(make: Any, images: Path) -> None:
    with pytest.raises(SourceError, match="inside its source"):
        make(images, "source/dataset")
    assert not (images / "dataset").exists()


def test_the_stage_ingests_the_builtin_digits(spark: SparkSession, tmp_path: Path) -> None:
    from dlspark.config import Config
    from pipelines.ingest import run

    config = Config(source="builtin:digits", dataset=str(tmp_path / "digits"))
    result = run(config, spark).to_json()
    assert json.loads(json.dumps(result)) == {**result, "classes": list(result["classes"])}
    assert (result["listed"], result["written"], result["quarantined"], result["deduplicated"]) == (
        1797,
        1797,
        0,
        0,
    )
    assert sum(result["splits"].values()) == 1797
    assert result["fingerprint"] == read_manifest(str(tmp_path / "digits")).fingerprint
    assert (tmp_path / "digits-source" / "9").is_dir()
    assert (tmp_path / "digits" / MANIFEST_NAME).is_file()


def test_ingest_imports_neither_torch_nor_the_trackers() -> None:
    code = (
        "import sys, dlspark.data.ingest, pipelines.ingest; "
        "print([name for name in ('torch', 'mlflow', 'horovod') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
