"""What is left of a training that diverges: the rows of its batch, and no checkpoint that is no number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dlspark.errors import ModelError
from dlspark.training.checkpoint_writer import CheckpointWriter, SilentCheckpoints
from dlspark.training.optimizers import build_optimizer
from dlspark.training.snapshots import list_snapshots, read_snapshot
from dlspark.training.trainer import fit
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, random_rows, run_ranks
from tests.unit.training.test_resume import describe

IMAGES, LABELS = random_rows(40, num_classes=4)


def train(folder: Path, images: torch.Tensor, model: nn.Module, *, num_ranks: int = 1) -> None:
    models = [model, *(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)) for _ in range(num_ranks - 1))]

    def on_rank(communicator: ThreadCommunicator) -> None:
        rank = communicator.rank
        writer = CheckpointWriter(
            str(folder / f"checkpoints-{rank}"),
            describe=describe,
            told_to_stop=lambda: False,
            every_steps=1,
            every_minutes=None,
            keep=1,
            best_metric="train_loss",
        )
        with writer:
            fit(
                models[rank],
                build_optimizer(models[rank], "sgd", lr=0.1),
                lambda step: 1.0,
                MemorySource(images, LABELS, global_batch_size=10, rank=rank, owners=range(num_ranks)),
                None,
                communicator,
                ListTracker(),
                writer if rank == 0 else SilentCheckpoints(lambda: False),
                epochs=2,
                num_classes=4,
                base_lr=0.1,
                precision="fp32",
                device=torch.device("cpu"),
                evidence_folder=str(folder / "diverged"),
            )

    run_ranks(num_ranks, on_rank)


def rows_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(file.read_text()) for file in sorted((folder / "diverged").iterdir())]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_the_rows_of_the_step_are_named_by_each_rank(tmp_path: Path, num_ranks: int) -> None:
    images = IMAGES.clone()
    images[23] = float("nan")  # in the third step
    with pytest.raises(ModelError, match=r"training loss is not finite.*step 3 \(epoch 1\).*diverged"):
        train(tmp_path, images, nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), num_ranks=num_ranks)
    found = rows_of(tmp_path)
    assert [rows["rank"] for rows in found] == list(range(num_ranks))
    assert {(rows["step"], rows["epoch"], rows["host"]) for rows in found} == {(3, 1, "localhost")}
    assert [rows["row_ids"] for rows in found] == [
        list(range(20 + rank, 30, num_ranks)) for rank in range(num_ranks)
    ]


class _Steep(torch.autograd.Function):
    @staticmethod
    def forward(context: object, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        _Steep.steps += 1
        return gradient * (float("inf") if _Steep.steps == 3 else 1.0)

    steps = 0


class _SteepLayer(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _Steep.apply(values)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    _Steep.steps = 0
    with pytest.raises(ModelError, match=r"weights after the step are not finite.*loss \d.*step 3 "):
        train(tmp_path, IMAGES, nn.Sequential(nn.Flatten(), nn.Linear(64, 4), _SteepLayer()))
    [stored] = list_snapshots(str(tmp_path / "checkpoints-0"))  # keep=1: the one good one is still there
    assert stored.description.step == 2
    assert all(bool(tensor.isfinite().all()) for tensor in read_snapshot(stored.url).model.values())
    assert [rows["row_ids"] for rows in rows_of(tmp_path)] == [list(range(20, 30))]
