"""The digits, a standalone cluster, and the weights of trainings that nothing disturbs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cloudpickle
import pytest
import torch

from dlspark.config.compose import compose
from dlspark.training.checkpoint import load_checkpoint
from pipelines import ingest, train
from tests.e2e.standalone_cluster import standalone_cluster
from tests.faults import fault_worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NUM_STEPS = 30
MASTERS = {"local": "local[2]", "local-cluster": "local-cluster[2,1,1024]"}
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def dataset(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits: 15 steps of 100 rows an epoch."""
    path = str(tmp_path_factory.mktemp("faults") / "dataset")
    ingest.run(compose(["source=builtin:digits", f"dataset={path}"]), spark)
    return path


@pytest.fixture(autouse=True)
def _faults_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    cloudpickle.register_pickle_by_value(fault_worker)
    monkeypatch.setattr(train, "run_training", fault_worker.train_with_fault)


def words_of(dataset: str, folder: Path, backend: str) -> list[str]:
    """The words of a training of two workers over two epochs, with dropout, without restarts."""
    return [
        *(f"dataset={dataset}", f"run_dir={folder}/run", f"tracking.uri=sqlite:///{folder}/mlflow.db"),
        *(f"cluster.backend={backend}", "cluster.threads_per_worker=1", "cluster.max_restarts=0"),
        *("train.epochs=2", "train.global_batch_size=100"),
    ]


def final_weights(folder: Path) -> Weights:
    """Return the weights that the run in a folder came to."""
    return load_checkpoint(str(folder / "run" / "checkpoints" / "final"))[0].state_dict()


@pytest.fixture(scope="session")
def undisturbed(
    dataset: str, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Weights]:
    """Backend and further words -> the final weights of a training in which nothing fails."""
    known: dict[tuple[str, ...], Weights] = {}

    def weights(backend: str, *words: str) -> Weights:
        key = (backend, *words)
        if key not in known:
            folder = tmp_path_factory.mktemp(f"undisturbed-{backend}")
            train.run(compose([*words_of(dataset, folder, backend), *words]), spark)
            known[key] = final_weights(folder)
        return known[key]

    return weights


@pytest.fixture(scope="session")
def standalone_master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A standalone cluster of two workers of one core each, which lose executors and get new ones."""
    with standalone_cluster(tmp_path_factory.mktemp("standalone"), num_workers=2) as url:
        yield url


@pytest.fixture
def master_of(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Kind of cluster -> its master URL; a standalone one is started if it is asked for."""

    def master(kind: str) -> str:
        return str(request.getfixturevalue("standalone_master")) if kind == "standalone" else MASTERS[kind]

    return master


def assert_same(weights: Weights, expected: Weights) -> None:
    """Bit for bit."""
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name
