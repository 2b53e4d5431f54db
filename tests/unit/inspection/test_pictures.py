"""The pictures are PNG files of what they were given, drawn without a display or global state."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlspark.errors import DlsparkError
from dlspark.inspection.pictures import draw_confusion_matrix, draw_learning_curves

STEPS = [(step, 2.0 / step) for step in range(1, 31)]
HISTORY = {
    "step/loss": STEPS,
    "step/accuracy": [(step, 1.0 - 0.8 / step) for step, _ in STEPS],
    "step/learning_rate": [(step, 0.001) for step, _ in STEPS],
    "train_loss": STEPS[9::10],
    "val_loss": STEPS[9::10],
    "train_accuracy": [(10, 0.5), (20, 0.8), (30, 0.9)],
    "val_accuracy": [(10, 0.6), (20, 0.85), (30, 0.88)],
}


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def has_color(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels - np.array(color)).max(axis=2) < 12).sum() > 20)


def test_learning_curves_show_training_and_validation(tmp_path: Path) -> None:
    blue, orange = (0x1F, 0x6F, 0xB4), (0xD9, 0x54, 0x1E)
    draw_learning_curves(HISTORY, str(tmp_path / "curves.png"))
    pixels = read(tmp_path / "curves.png")
    assert min(pixels.shape[:2]) >= 600
    assert has_color(pixels, blue)
    assert has_color(pixels, orange)
    training_only = {name: points for name, points in HISTORY.items() if not name.startswith("val")}
    draw_learning_curves(training_only, str(tmp_path / "no_val.png"))
    assert not has_color(read(tmp_path / "no_val.png"), orange)


@pytest.mark.parametrize(
    "history", [{}, {"train_loss": [(1, 0.5)]}, {"train_loss": [(1, 0.0), (2, 0.0)], "val_loss": []}]
)
def test_a_history_with_little_in_it_is_drawn(
    history: dict[str, list[tuple[int, float]]], tmp_path: Path
) -> None:
    draw_learning_curves(history, str(tmp_path / "curves.png"))
    assert read(tmp_path / "curves.png").size


@pytest.mark.parametrize("num_classes", [2, 10, 37, 100])
def test_confusion_matrix_of_any_number_of_classes(num_classes: int, tmp_path: Path) -> None:
    random = np.random.default_rng(num_classes)
    counts = np.diag(random.integers(50, 150, num_classes)) + random.integers(0, 3, (num_classes,) * 2)
    names = [f"class {index:03d}" for index in range(num_classes)]
    path = tmp_path / "confusion.png"
    draw_confusion_matrix(counts.tolist(), names, str(path))
    height, width, _ = read(path).shape
    assert min(height, width) >= 400
    assert max(height, width) <= 2_400


def test_confusion_colour_is_the_share_of_the_row_and_not_the_count(tmp_path: Path) -> None:
    def draw(name: str, confusion: list[list[int]]) -> int:
        draw_confusion_matrix(confusion, ["a", "b"], str(tmp_path / name))
        dark_blue = (0x08, 0x30, 0x6B)  # a share of 1
        return int((np.abs(read(tmp_path / name) - np.array(dark_blue)).max(axis=2) < 6).sum())

    few = draw("few.png", [[3, 0], [0, 900]])  # a small class that is all right is as dark as a large one
    half = draw("half.png", [[3, 0], [450, 450]])
    assert few > 1.8 * half > 0


def test_a_class_without_rows_is_drawn(tmp_path: Path) -> None:
    draw_confusion_matrix([[0, 0], [0, 5]], ["none", "some"], str(tmp_path / "confusion.png"))
    assert read(tmp_path / "confusion.png").size


def test_counts_of_another_shape_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(DlsparkError, match=r"got \(2, 2\) counts for 3 classes"):
        draw_confusion_matrix([[1, 2], [3, 4]], ["a", "b", "c"], str(tmp_path / "confusion.png"))
    assert not list(tmp_path.iterdir())


def test_pyplot_and_its_global_state_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it would raise
    draw_learning_curves(HISTORY, str(tmp_path / "curves.png"))
    draw_confusion_matrix([[1, 0], [0, 1]], ["a", "b"], str(tmp_path / "confusion.png"))
