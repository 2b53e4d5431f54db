"""What people see of a run: its dataset before it begins, its curves when it has ended."""

from __future__ import annotations

from dlspark import storage
from dlspark.config import Config
from dlspark.contracts import TrainResult
from dlspark.data.augment import NO_AUGMENTATION, Augmentation
from dlspark.data.card import card
from dlspark.data.manifest import Manifest
from dlspark.tracking.journal import metric_history, read_events
from dlspark.tracking.run import TrackedRun


def log_dataset(config: Config, manifest: Manifest, run_dir: str, tracked: TrackedRun) -> None:
    """Show people what is trained on: the card, samples, and what was left out."""
    # Here, and not above: matplotlib takes seconds to import, which a wrong setting need not wait for.
    from pipelines.sheet import write_sheet

    dataset = config.dataset or ""
    folder = storage.join(run_dir, "dataset")
    storage.write_bytes(storage.join(folder, "card.txt"), card(dataset, manifest).encode())
    left_out = {"by_reason": dict(manifest.refused), "by_class": dict(manifest.refused_by_class)}
    storage.write_json(storage.join(folder, "quarantine.json"), left_out)
    changes = NO_AUGMENTATION if config.augment.copies else Augmentation(**config.augment.changes)
    write_sheet(dataset, manifest, changes, storage.join(folder, "samples.png"))
    for name in ("card.txt", "quarantine.json", "samples.png"):
        tracked.log_artifact(storage.join(folder, name), folder="dataset")


def log_pictures(run_dir: str, manifest: Manifest, result: TrainResult, tracked: TrackedRun) -> None:
    """Draw the learning curves of all attempts, and the confusion of the last validation."""
    from dlspark.inspection.pictures import draw_confusion_matrix, draw_learning_curves

    curves = storage.join(run_dir, "pictures", "learning_curves.png")
    draw_learning_curves(metric_history(read_events(run_dir)), curves)
    tracked.log_artifact(curves)
    if result.validation is not None:
        confusion = storage.join(run_dir, "pictures", "confusion_matrix_val.png")
        draw_confusion_matrix(result.validation.confusion, manifest.classes, confusion)
        tracked.log_artifact(confusion)
