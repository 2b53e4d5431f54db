"""Ingesting again: what is the same is recognised, what is new is decoded, what fails leaves the old."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from dlspark.data.manifest import MARKER_PREFIX, read_manifest
from dlspark.data.verify import verify
from dlspark.errors import DatasetError, OutputExistsError, SourceError
from tests.integration.ingest.conftest import Make, Steps, make_images, names_in, splits_by_key

pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # pyspark's, in RDD.collect
]


def test_the_same_images_and_settings_are_recognised_and_nothing_is_written(
    make: Make, images: Path, tmp_path: Path
) -> None:
    first = make(images)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*.parquet")}
    again = make(images)
    assert (first.is_new, again.is_new, again.num_decoded) == (True, False, 0)
    assert again.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*.parquet")} == before


def test_only_added_and_changed_images_are_decoded(make: Make, images: Path, tmp_path: Path) -> None:
    make(images)
    (images / "cat" / "new.png").write_bytes((images / "cat" / "000.png").read_bytes() + b"x")
    Image.new("L", (5, 6), 9).save(images / "dog" / "003.png")
    (images / "dog" / "004.png").unlink()
    with pytest.raises(OutputExistsError, match=r"images of the source have changed.*overwrite=true"):
        make(images)
    done = make(images, overwrite=True, refuse_constant=True, max_quarantined=0.1)
    # The new one, and the changed one, which is constant now.
    assert done.num_decoded == 2
    assert (done.manifest.counts.written, done.manifest.counts.quarantined) == (39, 1)
    fresh = make(images, "fresh", max_quarantined=0.1).manifest
    assert fresh.fingerprint == done.manifest.fingerprint
    assert verify(str(tmp_path / "dataset"), done.manifest, Steps()).damages == ()


def test_files_that_somebody_has_deleted_are_made_again(make: Make, images: Path, tmp_path: Path) -> None:
    first = make(images).manifest
    train = first.splits["train"].files[0]
    (tmp_path / "dataset" / train.path).unlink()
    again = make(images)
    assert (again.is_new, again.num_decoded) == (True, train.rows)
    assert again.manifest.fingerprint == first.fingerprint
    assert verify(str(tmp_path / "dataset"), again.manifest, Steps()).damages == ()


def test_other_splits_take_every_row_over_and_other_sizes_none(make: Make, images: Path) -> None:
    make(images, num_streams=4)
    moved = make(images, overwrite=True, num_streams=3, val_share=0.4, file_bytes=60)
    assert moved.num_decoded == 0
    resized = make(images, overwrite=True, size=4, resize="exact")
    assert resized.num_decoded == 40


def test_what_exists_is_replaced_only_if_it_is_ours_and_asked_for(
    make: Make, images: Path, tmp_path: Path
) -> None:
    dataset = tmp_path / "dataset"
    first = make(images).manifest
    (dataset / "notes.txt").write_text("by the user")
    before = names_in(dataset)
    with pytest.raises(OutputExistsError, match=r"val_share=0\.3.*overwrite=true"):
        make(images, val_share=0.3)
    assert names_in(dataset) == before

    # A failed overwrite leaves the old dataset whole.
    (images / "dog" / "bad.png").write_bytes(b"bad")
    with pytest.raises(SourceError, match="too many images"):
        make(images, overwrite=True)
    assert names_in(dataset) == before
    assert read_manifest(str(dataset)) == first
    (images / "dog" / "bad.png").unlink()

    second = make(images, overwrite=True, num_streams=3).manifest
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


def test_two_ingests_at_once_do_not_harm_each_other(make: Make, images: Path, tmp_path: Path) -> None:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(make(images).is_new)
        except Exception as error:  # noqa: BLE001 - looked at below
            results.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results in ([True, False], [False, True])
    manifest = read_manifest(str(tmp_path / "dataset"))
    assert verify(str(tmp_path / "dataset"), manifest, Steps()).damages == ()
    data = [name for name in names_in(tmp_path / "dataset") if name.endswith(".parquet")]
    assert sorted(manifest.file_paths) == data


KILLED = """
import os, sys
from dlspark.config import Config
from dlspark.cluster.session import spark_session
from pipelines.ingest import run
config = Config.model_validate({"source": sys.argv[1], "dataset": sys.argv[2]})
with spark_session("local[2]", "killed") as spark:
    spark.sparkContext.parallelize(range(2), 2).map(str).collect()
    print("ready", flush=True)
    run(config, spark)
"""


@pytest.mark.faults(scenario=4)
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_kill_at_any_moment_leaves_nothing_that_opens_and_a_rerun_completes_it(
    make: Make, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "source", per_class=400)
    dataset = tmp_path / "dataset"
    seconds = _kill_after(300.0, images, dataset)
    assert read_manifest(str(dataset)).counts.written == 800
    rng = random.Random(0)  # noqa: S311 - moments, not secrets
    half_written = 0
    for _ in range(20):
        (dataset / "_dlspark_manifest.json").unlink(missing_ok=True)
        _kill_after(rng.uniform(0.0, seconds), images, dataset)
        if (dataset / "_dlspark_manifest.json").exists():
            # The commit was done: the dataset is whole.
            assert verify(str(dataset), read_manifest(str(dataset)), Steps()).damages == ()
            continue
        half_written += 1
        with pytest.raises(DatasetError, match=r"half-written|no dataset"):
            read_manifest(str(dataset))
    assert half_written >= 3
    manifest = make(images, overwrite=True).manifest
    assert manifest.counts.written == 800
    names = names_in(dataset)
    assert not [name for name in names if name.startswith(MARKER_PREFIX)]
    files = [*manifest.file_paths, *manifest.quarantine_files]
    assert sorted(files) == [name for name in names if name.endswith(".parquet")]
    assert pq.read_table(dataset).num_rows == 800


def _kill_after(delay: float, images: Path, dataset: Path) -> float:
    """Kill an ingest with all of its processes a while after it began; return how long it ran."""
    command = [sys.executable, "-c", KILLED, str(images), str(dataset)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        started = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        seconds = time.monotonic() - started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return seconds


@pytest.mark.faults(scenario=4)
def test_a_full_disk_is_said_and_leaves_nothing(make: Make, images: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        with pytest.raises(DatasetError, match=r"storage is full.*nothing was published"):
            make(images, "small/dataset")
        assert names_in(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_membership_is_kept_by_an_ingest_again(make: Make, images: Path, tmp_path: Path) -> None:
    before = splits_by_key(tmp_path / "dataset", make(images).manifest)
    make_images(images, per_class=5, first=300)
    after = splits_by_key(tmp_path / "dataset", make(images, overwrite=True).manifest)
    assert before.items() <= after.items()
    assert len(after) == 50
