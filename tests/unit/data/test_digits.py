from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dlspark.data.digits import write_digits
from dlspark.errors import OutputExistsError


def test_the_digits_are_the_originals_and_a_second_call_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    assert write_digits(str(folder)) == 1797
    digits = load_digits()
    files = sorted(folder.rglob("*.png"))
    assert len(files) == 1797
    for path in files:
        index = int(path.stem)
        with Image.open(path) as image:
            assert image.mode == "L"
            pixels = np.asarray(image)
        assert int(path.parent.name) == digits.target[index]
        assert (np.rint(pixels * (16 / 255)) == digits.images[index]).all()
    times = {path: path.stat().st_mtime_ns for path in files}
    write_digits(str(folder))
    assert {path: path.stat().st_mtime_ns for path in files} == times


def test_a_folder_that_was_left_half_way_is_completed(tmp_path: Path) -> None:
    write_digits(str(tmp_path))
    (tmp_path / "3" / "0003.png").unlink()
    marker = tmp_path / "_digits.json"
    marker.write_text(marker.read_text().replace("true", "false"))
    write_digits(str(tmp_path))
    assert len(list(tmp_path.rglob("*.png"))) == 1797


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExistsError, match="holds something else"):
        write_digits(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
