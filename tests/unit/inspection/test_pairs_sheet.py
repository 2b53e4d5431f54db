from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlspark.inspection.pairs_sheet import draw_pairs


@pytest.mark.parametrize(("number", "channels"), [(0, 1), (3, 1), (50, 3)])
def test_a_sheet_is_drawn_and_leaks_are_red(tmp_path: Path, number: int, channels: int) -> None:
    pixels = np.full((16, 16, channels), 128, dtype=np.uint8)
    pairs = []
    for index in range(number):
        pair = {"kind": "near", "transform": "mirror", "distance": 3, "similarity": 0.97}
        pair |= {"leak": index == number - 1, "label_conflict": False}
        for side, split in (("a", "train"), ("b", "test")):
            pair |= {f"key_{side}": f"$cat$/{index}.png", f"label_{side}": 0, f"split_{side}": split}
        pairs.append((pair, pixels, pixels))
    draw_pairs(pairs, str(tmp_path / "sheet.png"), classes=["cat"])
    drawn = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    red = (drawn[..., 0] > drawn[..., 1] + 80).any(axis=1)
    assert red.any() == (number > 0)
    if number:
        # The only leak came last and is drawn in the first row.
        assert np.flatnonzero(red)[0] < 330
