"""The train loop: the number of ranks cannot be seen in the result, and what goes wrong is said."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from dlspark.contracts import Batch
from dlspark.errors import DatasetError, ModelError
from dlspark.models.build import build_model
from dlspark.training.checkpoint_writer import SilentCheckpoints
from dlspark.training.optimizers import build_optimizer
from dlspark.training.schedules import build_schedule
from dlspark.training.trainer import FitResult, fit
from tests.unit.training.doubles import ListTracker, MemorySource, ThreadCommunicator, random_rows, run_ranks

CPU = torch.device("cpu")
NUM_CLASSES = 4
NO_DROPOUT = {"widths": (4, 8), "dense": 16, "dropout_features": 0.0, "dropout_dense": 0.0}
STEP_METRICS = {
    "step/loss",
    "step/accuracy",
    "step/learning_rate",
    "step/images_per_second",
    "step/data_wait_seconds",
    "step/copy_seconds",
    "step/compute_seconds",
    "step/communication_seconds",
}
EPOCH_METRICS = {
    *("epoch", "images_per_second", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    *("val_macro_recall", "val_macro_precision", "val_macro_f1", "val_mean_bias_error"),
    *(
        f"val_class/{label:02d}/{figure}"
        for label in range(NUM_CLASSES)
        for figure in ("recall", "precision", "f1")
    ),
}


@dataclasses.dataclass
class Run:
    model: nn.Module
    tracker: ListTracker
    result: FitResult
    num_collectives: int


def build_network(name: str, **options: Any) -> nn.Module:
    """Build a network of dlspark, or a small one with batch normalisation."""
    if name != "batch_norm":
        return build_model(name, **options)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 6 * 6, NUM_CLASSES),
    )


def train(
    num_ranks: int,
    owners: tuple[int, ...],
    *,
    model: str = "mnist_cnn",
    options: dict[str, Any] = NO_DROPOUT,
    num_rows: int = 150,
    epochs: int = 3,
    lr: float = 0.05,
    optimizer: str = "sgd",
    precision: Any = "fp32",
    with_val: bool = True,
    size: int = 8,
) -> list[Run]:
    """Train on random rows in global batches of 32, the last of an epoch smaller."""
    rows = random_rows(num_rows, num_classes=NUM_CLASSES, size=size)
    val_rows = random_rows(31, num_classes=NUM_CLASSES, size=size)
    models = []
    for rank in range(num_ranks):
        torch.manual_seed(rank)  # another start on each rank: rank 0's must win
        network = build_network(
            model, channels=1, height=size, width=size, num_classes=NUM_CLASSES, **options
        )
        models.append(network.eval())  # the train loop sets the mode itself

    def on_rank(communicator: ThreadCommunicator) -> Run:
        rank, network, tracker = communicator.rank, models[communicator.rank], ListTracker()
        source = MemorySource(*rows, global_batch_size=32, rank=rank, owners=owners, seed=7)
        val = MemorySource(*val_rows, global_batch_size=32, rank=rank, owners=owners)
        result = fit(
            network,
            build_optimizer(network, optimizer, lr=lr),
            build_schedule("cosine", steps_per_epoch=source.num_steps, epochs=epochs, warmup_epochs=0.5),
            source,
            val if with_val else None,
            communicator,
            tracker,
            SilentCheckpoints(lambda: False),
            epochs=epochs,
            num_classes=NUM_CLASSES,
            base_lr=lr,
            precision=precision,
            device=CPU,
        )
        return Run(network, tracker, result, communicator.num_collectives)

    return run_ranks(num_ranks, on_rank)


@pytest.mark.parametrize(
    ("num_ranks", "owners"),
    [
        (2, (0, 1)),
        (2, (0, 0, 1)),  # unequal
        (3, (0, 0, 2)),  # rank 1 never has a row
        (4, (0,) * 24 + (1, 2, 2, 2, 2, 3, 3, 3)),  # in the last step only rank 0 has rows
    ],
)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_loss_curve_is_the_same_for_any_number_of_ranks(
    num_ranks: int, owners: tuple[int, ...], optimizer: str
) -> None:
    lr = 0.05 if optimizer == "sgd" else 0.002
    alone = train(1, (0,), optimizer=optimizer, lr=lr)[0]
    together = train(num_ranks, owners, optimizer=optimizer, lr=lr)
    for name in ("step/loss", "train_loss", "val_loss"):
        for run in together:
            assert run.tracker.values(name) == pytest.approx(alone.tracker.values(name), rel=1e-6, abs=1e-6)
    for name in ("step/accuracy", "step/learning_rate", "train_accuracy", "val_accuracy"):
        assert together[0].tracker.values(name) == alone.tracker.values(name)
    assert together[0].result.validation.confusion == alone.result.validation.confusion
    for run in together[1:]:
        assert run.num_collectives == together[0].num_collectives
        for mine, first in zip(run.model.parameters(), together[0].model.parameters(), strict=True):
            assert torch.equal(mine, first)


def test_steps_follow_the_gradient_of_the_mean_loss() -> None:
    run = train(1, (0,), epochs=2, num_rows=32, with_val=False)[0]
    torch.manual_seed(0)
    model = build_model("mnist_cnn", channels=1, height=8, width=8, num_classes=NUM_CLASSES, **NO_DROPOUT)
    images, labels = random_rows(32, num_classes=NUM_CLASSES)
    losses = []
    for lr in (0.05, 0.025):  # the cosine of two steps
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(lr * parameter.grad)
    assert run.tracker.values("step/loss") == pytest.approx(losses, rel=1e-5)
    for after, expected in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-5)


def test_metrics_progress_and_result() -> None:
    run = train(2, (0, 1))[0]
    metrics, result = run.tracker.metrics, run.result
    assert set(metrics) == STEP_METRICS | EPOCH_METRICS
    for name in STEP_METRICS:
        assert [step for step, _ in metrics[name]] == list(range(1, 16))
    for name in EPOCH_METRICS:
        assert [step for step, _ in metrics[name]] == [5, 10, 15]
    assert run.tracker.values("epoch") == [1.0, 2.0, 3.0]
    assert [(step, total) for step, total, _ in run.tracker.progress] == [(step, 15) for step in range(1, 16)]
    assert set(run.tracker.progress[0][2]) == {"loss", "images/s"}
    assert run.tracker.num_flushes == 3
    losses, rows = np.asarray(run.tracker.values("step/loss")), np.array([32, 32, 32, 32, 22])
    assert run.tracker.values("train_loss")[0] == pytest.approx(float((losses[:5] * rows).sum() / 150))
    assert run.tracker.values("step/learning_rate")[:3] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05])
    assert (result.steps, result.epochs) == (15, 3)
    assert result.images_per_second == pytest.approx(450 / result.train_seconds)
    spent = sum(
        sum(run.tracker.values(f"step/{part}_seconds")) for part in ("data_wait", "compute", "communication")
    )
    assert 0.3 * result.train_seconds < spent <= result.train_seconds
    assert result.validation.num_rows == 31
    assert run.tracker.values("val_loss")[-1] == result.validation.loss


def test_without_a_val_split_there_is_no_validation() -> None:
    run = train(1, (0,), epochs=1, with_val=False)[0]
    assert run.result.validation is None
    assert "val_loss" not in run.tracker.metrics


@pytest.mark.parametrize("owners", [(0, 1), (0, 0, 1), (0,)])
def test_batch_norm_statistics_agree_after_an_epoch(owners: tuple[int, ...]) -> None:
    first, second = train(2, owners, model="batch_norm", num_rows=40, epochs=1)
    buffers = dict(second.model.named_buffers())
    for name, buffer in first.model.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    assert buffers["1.running_mean"].all()  # they moved from 0: batch statistics were in use
    assert first.tracker.values("val_loss") == second.tracker.values("val_loss")


def test_a_rank_without_rows_does_not_dilute_batch_norm_statistics() -> None:
    options = {"model": "batch_norm", "num_rows": 40, "epochs": 1}
    [alone], (first, _) = train(1, (0,), **options), train(2, (0,), **options)
    expected = dict(alone.model.named_buffers())
    for name, buffer in first.model.named_buffers():
        torch.testing.assert_close(buffer, expected[name], rtol=1e-6, atol=1e-6)


def test_a_loss_that_is_not_finite_ends_all_ranks_at_the_same_step() -> None:
    with pytest.raises(ModelError) as error:
        train(2, (0, 1), lr=1e30)
    message = str(error.value)
    assert "training loss is not finite" in message
    assert "step 2 (epoch 1)" in message or "step 3 (epoch 1)" in message
    assert "lower optimizer.lr" in message


def test_bf16_learns_and_keeps_fp32_weights() -> None:
    run = train(1, (0,), precision="bf16", optimizer="adam", lr=0.003)[0]
    plain = train(1, (0,), precision="fp32", optimizer="adam", lr=0.003)[0]
    assert {parameter.dtype for parameter in run.model.parameters()} == {torch.float32}
    bf16, fp32 = run.tracker.values("train_loss"), plain.tracker.values("train_loss")
    assert bf16 == pytest.approx(fp32, rel=0.05)
    assert bf16 != fp32
    assert bf16[-1] < bf16[0]


class ShortSource(MemorySource):
    def batches(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        yield from list(super().batches(epoch, start_step))[:-1]


def test_an_epoch_that_is_not_whole_is_an_error() -> None:
    model = build_model("mlp", channels=1, height=8, width=8, num_classes=NUM_CLASSES, hidden=())
    source = ShortSource(*random_rows(50, num_classes=NUM_CLASSES), global_batch_size=20)

    def on_rank(communicator: ThreadCommunicator) -> FitResult:
        return fit(
            model,
            build_optimizer(model, "sgd", lr=0.1),
            lambda step: 1.0,
            source,
            None,
            communicator,
            ListTracker(),
            SilentCheckpoints(lambda: False),
            epochs=1,
            num_classes=NUM_CLASSES,
            base_lr=0.1,
            precision="fp32",
            device=CPU,
        )

    with pytest.raises(
        DatasetError, match=r"got 2 steps with 40 rows over all ranks; allowed: 3 steps with 50"
    ):
        run_ranks(1, on_rank)


def test_the_lectures_cnn_learns_handwritten_digits() -> None:
    pixels, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    images = torch.from_numpy(pixels[order] / 16.0 - 0.3).float().view(-1, 1, 8, 8)
    labels = torch.from_numpy(digits[order]).long()
    torch.manual_seed(0)
    model = build_model(
        "mnist_cnn", channels=1, height=8, width=8, num_classes=10, widths=(16, 32), padding="same"
    )
    tracker = ListTracker()

    def on_rank(communicator: ThreadCommunicator) -> FitResult:
        return fit(
            model,
            build_optimizer(model, "adam", lr=0.003),
            build_schedule("cosine", steps_per_epoch=10, epochs=8, warmup_epochs=1.0),
            MemorySource(images[:640], labels[:640], global_batch_size=64, seed=0),
            MemorySource(images[640:900], labels[640:900], global_batch_size=64),
            communicator,
            tracker,
            SilentCheckpoints(lambda: False),
            epochs=8,
            num_classes=10,
            base_lr=0.003,
            precision="fp32",
            device=CPU,
        )

    [result] = run_ranks(1, on_rank)
    assert result.validation.accuracy > 0.9
    assert math.isclose(result.validation.accuracy, tracker.values("val_accuracy")[-1])
    assert result.train_seconds < 30
