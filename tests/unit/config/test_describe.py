"""Types in words, and the sentences under the fields of the schema."""

from __future__ import annotations

from dlspark.config.data_sections import ImageConfig
from dlspark.config.describe import describe_fields, list_choices, list_keys
from dlspark.config.model_sections import MlpConfig
from dlspark.config.optimizer_sections import SgdConfig
from dlspark.config.train_sections import TrainConfig


def _allowed(name: str) -> str:
    return next(key.allowed for key in list_keys() if key.name == name)


def test_types_and_ranges_are_said_in_words() -> None:
    assert _allowed("train.epochs") == "whole number >= 1"
    assert _allowed("data.val_share") == "number in [0, 1)"
    assert _allowed("schedule.gamma") == "number in (0, 1]"
    assert _allowed("image.size") == "whole number in [1, 4096] or null"
    assert _allowed("image.channels") == "1, 3 or null"
    assert _allowed("optimizer.betas") == "list of 2, each number in [0, 1)"
    assert _allowed("model.hidden") == "list of whole number >= 1"
    assert _allowed("augment.mirror") == "true or false"
    assert _allowed("source") == "text or null"


def test_keys_of_all_variants_are_listed() -> None:
    names = [key.name for key in list_keys()]
    assert names.count("model.activation") == 3  # mlp, lenet5, mnist_cnn
    assert names.count("num_classes") == 1
    assert {"model.stem", "model.widths", "optimizer.momentum", "optimizer.betas"} <= set(names)


def test_sentences_under_fields_are_found() -> None:
    assert describe_fields(TrainConfig)["seed"].startswith("Of the initial weights")
    assert describe_fields(ImageConfig)["channels"].startswith("1 gray, 3 RGB")
    inherited = describe_fields(MlpConfig)
    assert inherited["maxout_pieces"].startswith("Linear pieces")
    assert inherited["initialisation_std"].startswith("Standard deviation")
    assert inherited["hidden"] == "Units of each hidden layer."


def test_a_field_of_a_base_has_its_sentence() -> None:
    sentences = describe_fields(SgdConfig)
    assert sentences["lr"] == "Learning rate of the global batch."  # set anew without a sentence
    assert sentences["momentum_start"].startswith("Momentum of the first step")
    assert "name" not in sentences


def test_choices_are_the_files_of_conf() -> None:
    assert list_choices("augment") == ["mirror_crop", "none", "resized_crop"]
