"""The stage `arch`: a network for sizes or for a dataset, as a table and as one JSON line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from dlspark.cli import main
from dlspark.config.compose import compose
from dlspark.contracts import ImageFormat
from dlspark.errors import ConfigError, ModelError
from pipelines import arch
from tests.datasets import place_files, settings_of, write_splits

SIZES = ("image.size=32", "image.channels=1", "num_classes=10")


def run(*words: str) -> arch.ArchResult:
    return arch.run(compose(words), None)


def test_lenet5_needs_no_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    result = run("model=lenet5", *SIZES)
    assert (result.input, result.num_classes, result.parameters) == ((1, 32, 32), 10, 61_706)
    assert result.parameter_bytes == 4 * 61_706
    assert result.multiply_adds == 117_600 + 240_000 + 48_000 + 10_080 + 840
    assert result.activation_bytes == sum(row.activation_bytes for row in result.layers)
    assert result.warnings == ()
    assert result.noise_rows == 64
    assert [row.kind for row in result.spread].count("Tanh") == 4
    shown = capsys.readouterr().err
    for text in ("6x28x28", "(32 - 5 + 2*0)/1 + 1 = 28", "(28 - 2 + 2*0)/2 + 1 = 14", "48,120", "saturated"):
        assert text in shown


def test_the_weights_are_those_of_the_seed_and_torchs_generator_is_left_alone() -> None:
    first = run("model=perceptron", *SIZES)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert run("model=perceptron", *SIZES) == first
    assert run("model=perceptron", *SIZES, "train.seed=1").spread != first.spread
    assert torch.equal(torch.get_rng_state(), state)


def test_the_result_is_one_json_line(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        code = main(["arch", "model=perceptron", *SIZES])
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = handlers, level
    assert code == 0
    out, err = capfd.readouterr()
    values = json.loads(out)
    assert values["parameters"] == 1025 * 10
    assert [row["kind"] for row in values["layers"]] == ["Flatten", "Linear"]
    assert "10,250 parameters" in err


def test_a_size_that_does_not_fit_is_an_error_with_the_numbers() -> None:
    with pytest.raises(ModelError, match=r"layer pool1.*\(29 - 2 \+ 2\*0\)/2 \+ 1 = 14\.50"):
        run("model=lenet5", "image.size=33", "image.channels=1", "num_classes=10")


def test_a_floor_is_a_warning_line_and_in_the_result(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        result = run("model=mnist_cnn", "image.size=9", "image.channels=1", "num_classes=10")
    (line,) = result.warnings
    assert "(5 - 2 + 2*0)/2 + 1 = 2.50, rounded down to 2: the last rows (1) and columns (1)" in line
    assert "(5 - 2 + 2*0)/2 + 1 = 2.50 is not a whole number" in caplog.text
    assert "not used: 1 rows, 1 columns" in capsys.readouterr().err


def test_a_large_network_gets_fewer_rows_of_noise() -> None:
    for multiply_adds, rows in {10**12: 1, 10**10: 2, 10**9: 20, 10**6: 64, 0: 64}.items():
        assert arch._noise(0, 3, 2, 2, multiply_adds).shape == (rows, 3, 2, 2)


def test_the_crop_is_what_the_network_sees() -> None:
    assert run("model=perceptron", *SIZES, "augment.crop_size=24").input == (1, 24, 24)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"`arch` needs image\.channels, num_classes; got nothing.*or dataset="
    ):
        run("image.size=32")


def test_a_dataset_gives_shape_and_classes(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    classes = ("cat", "dog", "ewe")
    rows = place_files(tmp_path / "source", images, classes=classes)
    image = ImageFormat(height=8, width=8, channels=1, resize="none")
    write_splits({"train": rows}, settings_of(tmp_path, image, classes=classes), num_files=1)
    dataset = f"dataset={tmp_path / 'dataset'}"
    result = run("model=perceptron", dataset)
    assert (result.input, result.num_classes) == ((1, 8, 8), 3)
    with pytest.raises(ConfigError, match=r"num_classes is not that of the dataset; got 4; allowed: 3"):
        run("model=perceptron", dataset, "num_classes=4")
