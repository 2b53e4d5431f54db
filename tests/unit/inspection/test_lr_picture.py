"""The picture of a range test shows its curve and both marks, and cuts off where the loss explodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlspark.inspection.lr_picture import draw_lr_curve

RATES = np.geomspace(1e-6, 1.0, 60).tolist()
LOSSES = [2.3] * 30 + np.linspace(2.3, 0.5, 25).tolist() + [1.0, 10.0, 1e4, 1e9, 1e30]


def pixels(path: Path, losses: list[float]) -> np.ndarray:
    draw_lr_curve(RATES, losses, losses, str(path), suggested=1e-2, steepest=2e-2, largest=0.1, title="a $ b")
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(picture: np.ndarray, color: tuple[int, int, int]) -> int:
    return int((np.abs(picture - np.array(color)).max(axis=2) < 12).sum())


def test_curve_and_marks_are_there_even_where_the_loss_explodes(tmp_path: Path) -> None:
    picture = pixels(tmp_path / "curve.png", LOSSES)
    for color in ((0x1F, 0x6F, 0xB4), (0xD9, 0x54, 0x1E), (0x4D, 0x4D, 0x4D)):
        assert count(picture, color) > 200
    rows = np.flatnonzero((np.abs(picture - np.array((0x1F, 0x6F, 0xB4))).max(axis=2) < 12).any(axis=1))
    assert rows.max() - rows.min() > 0.4 * len(picture), "the fall is squeezed flat"


@pytest.mark.parametrize("loss", [0.0, 2.3])
def test_a_flat_curve_is_drawn(loss: float, tmp_path: Path) -> None:
    assert pixels(tmp_path / "flat.png", [loss] * 60).size
