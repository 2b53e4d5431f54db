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


_CACHED = ("transfer.weights=a.pt", "transfer.trainable=head", "transfer.cache_features=true")


def test_features_are_cached_for_a_head_alone() -> None:
    assert compose([*_CACHED]).transfer.cache_features
    for trainable in ("all", "1", "2"):
        told = rf"trainable={trainable}; set transfer\.trainable=head, or transfer\.cache_features=false"
        with pytest.raises(ConfigError, match=told):
            compose([*_CACHED, f"transfer.trainable={trainable}"])


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["augment=mirror_crop"], "set augment.mirror=false augment.crop_padding=0, or"),
        (["augment.crop_size=8"], "set augment.crop_size=null, or"),
        (["augment.randaugment_ops=2"], "set augment.randaugment_ops=0, or"),
        (["augment.mixup_alpha=0.2"], "set augment.mixup_alpha=0.0, or"),
        (
            ["augment.mirror=true", "augment.copies=2", "augment.cutmix_alpha=1"],
            "set augment.cutmix_alpha=0.0, or",
        ),
    ],
)
def test_images_that_change_in_each_epoch_have_no_features_to_cache(words: list[str], fix: str) -> None:
    with pytest.raises(ConfigError) as told:
        compose([*_CACHED, *words])
    assert f"{fix} transfer.cache_features=false" in str(told.value)
    assert compose([*_CACHED[:2], *words])


def test_copies_that_ingest_has_stored_have_features() -> None:
    assert compose([*_CACHED, "augment.mirror=true", "augment.copies=2"])
    assert compose([*_CACHED, "augment.randaugment_magnitude=3"])
