"""Evaluation is exact for any number of rows and ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dlspark.contracts import EvaluationResult
from dlspark.errors import DatasetError, ModelError
from dlspark.models.build import build_model
from dlspark.training.evaluation import evaluate_model, for_inference
from dlspark.training.metrics import Figures
from tests.unit.training.doubles import MemorySource, ThreadCommunicator, random_rows, run_ranks

NUM_CLASSES = 4
CPU = torch.device("cpu")
PLAIN = Figures()


def small_model() -> nn.Module:
    torch.manual_seed(1)
    return build_model(
        "mnist_cnn", channels=1, height=8, width=8, num_classes=NUM_CLASSES, widths=(4, 8), dense=16
    )


def evaluate(
    num_rows: int, num_ranks: int, owners: tuple[int, ...], batch_size: int = 64, figures: Figures = PLAIN
) -> list[EvaluationResult]:
    images, labels = random_rows(num_rows, num_classes=NUM_CLASSES)

    def on_rank(communicator: ThreadCommunicator) -> EvaluationResult:
        source = MemorySource(
            images, labels, global_batch_size=batch_size, rank=communicator.rank, owners=owners
        )
        model = small_model() if num_ranks == 1 else models[communicator.rank]
        result = evaluate_model(
            model, source, communicator, num_classes=NUM_CLASSES, device=CPU, figures=figures
        )
        assert communicator.num_collectives == 1
        return result

    models = [small_model() for _ in range(num_ranks)]
    return run_ranks(num_ranks, on_rank)


@pytest.mark.faults(scenario=3)
@pytest.mark.parametrize("num_rows", [1, 7, 997])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_each_row_counts_once(num_rows: int, num_ranks: int) -> None:
    images, labels = random_rows(num_rows, num_classes=NUM_CLASSES)
    with torch.inference_mode():
        logits = small_model().eval()(images).double()
    predicted = logits.argmax(dim=1).numpy()
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=int)
    np.add.at(confusion, (labels.numpy(), predicted), 1)
    loss = float(-logits.log_softmax(dim=1)[torch.arange(num_rows), labels].mean())

    results = evaluate(num_rows, num_ranks, owners=(0, *range(num_ranks), num_ranks - 1))
    assert all(result == results[0] for result in results)
    assert results[0].num_rows == num_rows
    assert results[0].confusion == tuple(map(tuple, confusion.tolist()))
    assert results[0].accuracy == (predicted == labels.numpy()).mean()
    assert results[0].loss == pytest.approx(loss, rel=1e-6)


@pytest.mark.faults(scenario=3)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_top_k_and_bias_are_sums_over_all_ranks(num_ranks: int) -> None:
    images, labels = random_rows(97, num_classes=NUM_CLASSES)
    with torch.inference_mode():
        logits = small_model().eval()(images).double()
    ranks = logits.argsort(dim=1, descending=True)
    expected = (ranks[:, :2] == labels[:, None]).sum().item() / 97
    bias = (logits.softmax(1) - nn.functional.one_hot(labels, NUM_CLASSES)).mean(0)
    results = evaluate(97, num_ranks, owners=tuple(range(num_ranks)), figures=Figures(top_k=2))
    assert all(result == results[0] for result in results)
    assert (results[0].top_k, results[0].top_k_accuracy) == (2, expected)
    assert results[0].class_bias == pytest.approx(bias.tolist(), abs=1e-6)
    assert results[0].mean_bias_error == pytest.approx(0.0, abs=1e-9)
    [raw, *_] = evaluate(97, num_ranks, owners=tuple(range(num_ranks)), figures=Figures(outputs="raw"))
    assert raw.mean_bias_error == pytest.approx(float(logits.mean() - 1 / NUM_CLASSES), rel=1e-5)
    assert raw.top_k_accuracy is None


@pytest.mark.faults(scenario=3)
def test_a_rank_without_rows_joins() -> None:
    alone, *_ = evaluate(97, 1, owners=(0,))
    results = evaluate(97, 3, owners=(0, 0, 2))
    assert results[0].confusion == alone.confusion
    assert results[0].loss == pytest.approx(alone.loss, rel=1e-6)
    assert results[1] == results[0]


def test_mode_of_every_module_is_restored_also_after_an_error() -> None:
    model = small_model()
    model.train()
    frozen = next(model.children())
    frozen.eval()
    images, labels = random_rows(9, num_classes=NUM_CLASSES)
    source = MemorySource(images, labels, global_batch_size=4)

    def on_rank(communicator: ThreadCommunicator) -> EvaluationResult:
        return evaluate_model(model, source, communicator, num_classes=NUM_CLASSES, device=CPU)

    assert run_ranks(1, on_rank) == run_ranks(1, on_rank)  # dropout is off: twice the same
    assert model.training
    assert not frozen.training
    source = MemorySource(images, labels + NUM_CLASSES, global_batch_size=4)
    with pytest.raises(DatasetError, match=r"labels from 4 to \d; allowed: 0 to 3"):
        run_ranks(1, on_rank)
    assert model.training
    assert not frozen.training


def test_evaluation_is_fp32_also_inside_autocast_of_the_caller() -> None:
    images, labels = random_rows(50, num_classes=NUM_CLASSES)
    source = MemorySource(images, labels, global_batch_size=50)
    model = small_model()

    def on_rank(communicator: ThreadCommunicator) -> tuple[float, float]:
        plain = evaluate_model(model, source, communicator, num_classes=NUM_CLASSES, device=CPU)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = evaluate_model(model, source, communicator, num_classes=NUM_CLASSES, device=CPU)
        return plain.loss, inside.loss

    [(plain, inside)] = run_ranks(1, on_rank)
    assert plain == inside


def test_lost_rows_and_an_empty_split_are_errors() -> None:
    images, labels = random_rows(10, num_classes=NUM_CLASSES)
    lossy = MemorySource(images, labels, global_batch_size=5, owners=(0, 0, 0, 0, 1))
    empty = MemorySource(images[:0], labels[:0], global_batch_size=5)
    for source, said in ((lossy, "got 8 rows over all ranks; allowed: 10 rows"), (empty, "at least 1 row")):
        with pytest.raises(DatasetError, match=said):
            run_ranks(
                1,
                lambda communicator, source=source: evaluate_model(
                    small_model(), source, communicator, num_classes=NUM_CLASSES, device=CPU
                ),
            )


def test_weights_that_overflow_are_an_error() -> None:
    model = small_model()
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    images, labels = random_rows(3, num_classes=NUM_CLASSES)
    source = MemorySource(images, labels, global_batch_size=3)
    with pytest.raises(ModelError, match="loss of the evaluation is not finite"):
        run_ranks(
            1,
            lambda communicator: evaluate_model(
                model, source, communicator, num_classes=NUM_CLASSES, device=CPU
            ),
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channels_of_a_pixel_lie_side_by_side_without_gradients(channels: int) -> None:
    images = torch.rand(2, channels, 4, 5)
    laid = for_inference(images)
    assert laid.stride() == (20 * channels, 1, 5 * channels, channels)  # which says so for one channel too
    assert torch.equal(laid, images)


def test_features_stay_as_they_came() -> None:
    features = torch.rand(2, 5)
    assert for_inference(features) is features
