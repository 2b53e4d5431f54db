"""Tests of dlspark.config.vary."""

from __future__ import annotations

import pytest

from dlspark.config.compose import compose
from dlspark.config.vary import vary
from dlspark.errors import ConfigError


def test_a_choice_takes_its_whole_section_and_a_value_its_own_key() -> None:
    base = compose(["optimizer=sgd", "optimizer.lr=0.7", "train.epochs=3", "model=lenet5"])
    varied = vary(base, ["optimizer=adam", "train.seed=5"])
    assert varied.optimizer == compose(["optimizer=adam"]).optimizer
    assert (varied.train.epochs, varied.train.seed) == (3, 5)
    assert varied.model == base.model
    assert vary(base, []) == base


def test_a_key_of_the_choice_that_stands_needs_no_choice() -> None:
    base = compose(["optimizer=momentum", "optimizer.lr=0.7", "optimizer.weight_decay=0.1"])
    varied = vary(base, ["optimizer.momentum=0.5"])
    assert varied.optimizer == base.optimizer.model_copy(update={"momentum": 0.5})


def test_wrong_words_are_refused() -> None:
    base = compose(["optimizer=gd"])
    with pytest.raises(ConfigError, match="did you mean"):
        vary(base, ["optimizer.learning_rate=1"])
    with pytest.raises(ConfigError, match="accumulate_steps"):
        vary(base, ["train.accumulate_steps=2"])
    with pytest.raises(ConfigError, match="experiment"):
        vary(base, ["experiment=quick"])
