"""The keys of a training that starts from weights which another one made."""

from __future__ import annotations

import pytest

from dlspark.config.compose import compose
from dlspark.config.describe import list_keys
from dlspark.errors import ConfigError


def test_words_and_numbers_say_what_is_trained() -> None:
    words = ["transfer.weights=models:/digits@champion", "transfer.depth_decay=0.4"]
    assert compose([*words, "transfer.trainable=head"]).transfer.trainable == "head"
    transfer = compose([*words, "transfer.trainable=2"]).transfer
    assert (transfer.weights, transfer.trainable, transfer.depth_decay) == ("models:/digits@champion", 2, 0.4)
    allowed = next(key.allowed for key in list_keys() if key.name == "transfer.trainable")
    assert allowed == "all, head or whole number >= 1"


@pytest.mark.parametrize(
    "word", ["transfer.trainable=head", "transfer.trainable=1", "transfer.depth_decay=0.5"]
)
def test_nothing_is_said_of_weights_that_nobody_trained(word: str) -> None:
    with pytest.raises(ConfigError, match=r"transfer\.weights is null"):
        compose([word])


@pytest.mark.parametrize("word", ["trainable=0", "trainable=features", "depth_decay=0", "depth_decay=1.5"])
def test_values_out_of_range_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=f"transfer.{word.partition('=')[0]}: value not allowed|wrong type"):
        compose(["transfer.weights=a.pt", f"transfer.{word}"])
