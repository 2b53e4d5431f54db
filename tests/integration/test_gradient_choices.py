"""How gradients go between the ranks, on both backends: real collectives give the curves that they should."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlspark.config.compose import compose
from dlspark.tracking.journal import metric_history, read_events
from pipelines import ingest, train

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.horovod,
]


@pytest.fixture(scope="module")
def dataset(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits, published."""
    url = str(tmp_path_factory.mktemp("digits") / "dataset")
    ingest.run(compose(["source=builtin:digits", f"dataset={url}"]), spark)
    return url


def _curve(spark: SparkSession, dataset: str, folder: Path, *words: str) -> list[float]:
    """Train for two epochs; return the loss of each step."""
    common = (
        *(f"dataset={dataset}", f"run_dir={folder}", f"tracking.uri=sqlite:///{folder}.db"),
        *("train.epochs=2", "train.global_batch_size=100", "optimizer=momentum", "optimizer.lr=0.02"),
        *("model.dropout_features=0", "model.dropout_dense=0", "train.precision=fp32"),
    )
    train.run(compose([*common, *words]), None if "cluster.backend=local" in words else spark)
    return [value for _, value in metric_history(read_events(str(folder)))["step/loss"]]


def test_gradients_in_fp16_give_the_curve_of_fp32_on_both_backends(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    exact = _curve(spark, dataset, tmp_path / "local", "cluster.backend=local")
    assert exact[-1] < 0.6 * exact[0], "nothing was learned"
    for backend in ("torch", "horovod"):
        words = (f"cluster.backend={backend}", "train.gradient_compression=fp16")
        curve = _curve(spark, dataset, tmp_path / backend, *words)
        assert curve != exact, "nothing was compressed"
        assert curve == pytest.approx(exact, rel=0.01)


def test_adasum_is_the_same_on_both_backends_and_learns(
    spark: SparkSession, dataset: str, tmp_path: Path
) -> None:
    curves = [
        _curve(
            *(spark, dataset, tmp_path / backend),
            *(f"cluster.backend={backend}", "train.gradient_reduction=adasum"),
        )
        for backend in ("torch", "horovod")
    ]
    assert curves[0][-1] < 0.6 * curves[0][0], "nothing was learned"
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)
