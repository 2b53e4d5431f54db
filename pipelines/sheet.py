"""The picture sheet of a published dataset: samples of each class, as stored and as training changes them."""

from __future__ import annotations

from dlspark.data.augment import Augmentation, augment
from dlspark.data.manifest import Manifest
from dlspark.data.samples import sample_by_class
from dlspark.inspection.sheet import draw_sheet

_SAMPLES_PER_CLASS = 6


def write_sheet(dataset: str, manifest: Manifest, augmentation: Augmentation, path: str) -> None:
    """Draw images of each class of the train split, beside what `augmentation` makes of them.

    Args:
        dataset: URL.
        manifest: of the dataset.
        augmentation: of the training; one without changes draws the stored images only.
        path: file or URL of the PNG.

    Raises:
        DatasetError: a file of the dataset is missing or damaged.
    """
    samples = sample_by_class(dataset, manifest, "train", _SAMPLES_PER_CLASS)
    changed = None
    if not augmentation.is_identity:
        changed = {
            label: augment(pixels, row_ids, augmentation, seed=0, epoch=0)
            for label, (row_ids, pixels) in samples.items()
        }
    stored = {label: pixels for label, (_, pixels) in samples.items()}
    draw_sheet(stored, manifest.classes, path, augmented=changed)
