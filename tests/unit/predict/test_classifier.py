"""The classifier: preprocessing as in training, no bad image spoils another, batch size does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dlspark.data.images import decode_image
from dlspark.data.normalise import normalise
from dlspark.errors import ModelError
from dlspark.predict.classifier import Classifier
from dlspark.training.checkpoint import load_checkpoint
from dlspark.training.views import Views
from tests.unit.predict.checkpoints import CLASSES, example_images, save_example


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("checkpoint"))
    save_example(url)
    return url


def test_the_answer_is_that_of_the_network_on_the_training_preprocessing(checkpoint: str) -> None:
    images = example_images(7)
    model, description = load_checkpoint(checkpoint)
    pixels = np.stack(
        [decode_image(data, description.preprocessing.image, max_pixels=10**6) for data in images]
    )
    with torch.inference_mode():
        logits = model(normalise(torch.from_numpy(pixels), description.preprocessing))
    expected = torch.softmax(logits.double(), dim=1).numpy()

    labels, probabilities, errors = Classifier.load(checkpoint).predict(images)

    np.testing.assert_array_equal(probabilities, expected)
    assert labels == [CLASSES[index] for index in expected.argmax(axis=1)]
    assert errors == [None] * 7
    assert len(set(labels)) > 1


def test_the_views_of_a_checkpoint_are_averaged_unless_others_are_asked_for(
    checkpoint: str, tmp_path: Path
) -> None:
    images = example_images(5)
    save_example(str(tmp_path), views=Views(shift=1, mirror=True))
    plain = Classifier.load(checkpoint).predict(images).probabilities
    viewed = Classifier.load(str(tmp_path)).predict(images).probabilities
    asked = Classifier.load(checkpoint, views={"shift": 1, "mirror": True}).predict(images).probabilities
    without = Classifier.load(str(tmp_path), views={"shift": 0, "mirror": False}).predict(images)
    assert np.abs(viewed - plain).max() > 1e-3
    np.testing.assert_array_equal(viewed, asked)
    np.testing.assert_array_equal(without.probabilities, plain)


def test_an_image_that_cannot_be_decoded_has_a_reason_and_changes_no_other(checkpoint: str) -> None:
    good = example_images(4)
    bad: list[bytes | None] = [b"", b"no image", good[0][:-20], None]
    mixed = [image for pair in zip(good, bad, strict=True) for image in pair]
    classifier = Classifier.load(checkpoint)

    labels, probabilities, errors = classifier.predict(mixed)

    alone = classifier.predict(good)
    assert labels[::2] == alone.labels
    np.testing.assert_allclose(probabilities[::2], alone.probabilities, rtol=0, atol=1e-9)
    assert labels[1::2] == [None] * 4
    assert np.isnan(probabilities[1::2]).all()
    assert errors[::2] == [None] * 4
    reasons = [str(error).partition(":")[0] for error in errors[1::2]]
    assert reasons == ["zero_size", "unreadable_header", "truncated_body", "zero_size"]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_answer_does_not_depend_on_the_batch_size(checkpoint: str, batch_size: int) -> None:
    images = [*example_images(10), b"bad", *example_images(3)]
    classifier = Classifier.load(checkpoint)
    whole = classifier.predict(images)
    parts = classifier.predict(images, batch_size=batch_size)

    assert parts.labels == whole.labels
    assert parts.errors == whole.errors
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, rtol=0, atol=1e-6)


def test_no_images_give_no_answers(checkpoint: str) -> None:
    labels, probabilities, errors = Classifier.load(checkpoint).predict([])
    assert (labels, probabilities.shape, errors) == ([], (0, 3), [])


def test_an_image_of_too_many_pixels_is_refused(checkpoint: str) -> None:
    (error,) = Classifier.load(checkpoint).predict(example_images(1), max_pixels=100).errors
    assert str(error).startswith("bomb")


def test_no_checkpoint_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path)):
        Classifier.load(str(tmp_path))
