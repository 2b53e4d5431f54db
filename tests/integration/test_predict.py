"""Scoring with Spark: the answers of the classifier, a row for each image, one load in each process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dlspark.config import Config
from dlspark.errors import ConfigError, ModelError, OutputExistsError, SourceError
from dlspark.predict.classifier import Classifier
from dlspark.predict.score import score_folder
from pipelines import predict
from tests.unit.predict.checkpoints import CLASSES, example_images, save_example

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    save_example(str(folder / "checkpoints" / "final"))
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images in nested folders with awkward names, two bad ones, and a file that is no image."""
    folder = tmp_path_factory.mktemp("images of all kinds")
    for number, data in enumerate(example_images(40)):
        file = folder / f"deep {number % 3}" / "ü%20" / f"{number:02d}.PNG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (folder / "corrupt.png").write_bytes(example_images(1)[0][:-30])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no image")
    return folder


def _config(**changes: Any) -> Config:
    return Config.model_validate(changes)


def _rows(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(str(output)).to_pylist()
    return sorted(rows, key=lambda row: str(row["path"]))


def test_spark_gives_the_answers_of_the_classifier_and_a_reason_where_there_is_none(
    spark: SparkSession, run_dir: str, source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "labels"
    config = _config(source=str(source), predict={"model": run_dir, "output": str(output), "batch_size": 3})

    result = predict.run(config, spark)

    files = sorted(str(file) for file in source.rglob("*") if file.is_file() and file.suffix != ".txt")
    expected = Classifier.load(f"{run_dir}/checkpoints/final").predict(
        [Path(file).read_bytes() for file in files]
    )
    rows = _rows(output)
    assert [row["path"] for row in rows] == files
    assert [row["label"] for row in rows] == expected.labels
    assert [row["error"] for row in rows] == expected.errors
    for row, probabilities in zip(rows, expected.probabilities, strict=True):
        if row["label"] is None:
            assert (row["probability"], row["probabilities"]) == (None, None)
        else:
            np.testing.assert_allclose(row["probabilities"], probabilities, rtol=0, atol=1e-6)
            assert row["probability"] == max(row["probabilities"])
    failed = {Path(row["path"]).name: row["error"].partition(":")[0] for row in rows if row["error"]}
    assert failed == {"corrupt.png": "truncated_body", "empty.jpg": "zero_size"}
    assert (result.images, result.failed) == (42, 2)
    assert tuple(result.predicted) == CLASSES
    assert sum(result.predicted.values()) == 40
    assert json.loads(json.dumps(result.to_json()))["images"] == 42
    assert json.loads((output / "_dlspark_predictions.json").read_text())["num_failed"] == 2


def test_the_network_is_loaded_once_in_each_python_worker(
    spark: SparkSession, run_dir: str, source: Path, tmp_path: Path
) -> None:
    # Another checkpoint than that of the other tests, so that no worker has it yet.
    checkpoint = tmp_path / "checkpoint"
    save_example(str(checkpoint), step=77)
    loads = []
    for name in ("first", "second"):
        result = score_folder(
            spark,
            source=str(source),
            checkpoint_url=str(checkpoint),
            output=str(tmp_path / name),
            overwrite=False,
            batch_size=2,
            max_image_bytes=10**6,
            max_image_pixels=10**6,
        )
        loads.append(result.num_loads)

    slots = spark.sparkContext.defaultParallelism
    assert len(list((tmp_path / "first").glob("part-*.parquet"))) == slots
    assert 1 <= loads[0] <= slots
    assert sum(loads) <= slots


def test_an_output_that_exists_is_kept_unless_it_is_ours_and_may_be_replaced(
    spark: SparkSession, run_dir: str, source: Path, tmp_path: Path
) -> None:
    output, foreign = tmp_path / "labels", tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    wanted = {"model": run_dir, "output": str(output)}
    predict.run(_config(source=str(source), predict=wanted), spark)
    before = {file.name for file in output.iterdir()}

    with pytest.raises(OutputExistsError, match="overwrite=true"):
        predict.run(_config(source=str(source), predict=wanted), spark)
    assert {file.name for file in output.iterdir()} == before
    predict.run(_config(source=str(source), predict=wanted, overwrite=True), spark)
    assert len(_rows(output)) == 42
    with pytest.raises(OutputExistsError, match="not a result of dlspark"):
        predict.run(
            _config(source=str(source), predict={**wanted, "output": str(foreign)}, overwrite=True), spark
        )
    assert (foreign / "thesis.txt").read_text() == "years of work"


def test_images_of_which_none_can_be_classified_are_an_error_without_output(
    spark: SparkSession, run_dir: str, tmp_path: Path
) -> None:
    source, output = tmp_path / "bad", tmp_path / "labels"
    source.mkdir()
    (source / "a.png").write_bytes(b"not a picture")

    with pytest.raises(SourceError, match="unreadable_header"):
        predict.run(_config(source=str(source), predict={"model": run_dir, "output": str(output)}), spark)
    assert not output.exists()


def test_bad_input_is_refused_before_any_work(
    spark: SparkSession, run_dir: str, source: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "labels")
    with pytest.raises(ConfigError, match=r"source.*predict\.model.*predict\.output"):
        predict.run(_config(), spark)
    with pytest.raises(ModelError, match=str(tmp_path)):
        predict.run(_config(source=str(source), predict={"model": str(tmp_path), "output": output}), spark)
    with pytest.raises(SourceError, match="does not exist"):
        predict.run(
            _config(source=str(tmp_path / "none"), predict={"model": run_dir, "output": output}), spark
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no images"):
        predict.run(
            _config(source=str(tmp_path / "empty"), predict={"model": run_dir, "output": output}), spark
        )
    assert not os.path.lexists(output)
