"""The card of a dataset: what a person wants to know about it, in plain text."""

from __future__ import annotations

from dlspark.contracts import SPLITS
from dlspark.data.manifest import Manifest

_NUM_CLASSES = 40


def card(dataset: str, manifest: Manifest) -> str:
    """Return the card of a dataset, some 20 lines and one for each class."""
    image, counts = manifest.preprocessing.image, manifest.counts
    num_files = len(manifest.file_paths)
    num_bytes = sum(file.num_bytes for split in manifest.splits.values() for file in split.files)
    refused = ", ".join(f"{rows:,} {reason}" for reason, rows in manifest.refused.items()) or "none"
    facts = {
        "dataset": dataset,
        "fingerprint": manifest.fingerprint,
        "images": f"{image.height} x {image.width} x {image.channels} uint8, resize {image.resize}",
        "files": f"{num_files:,} Parquet files, {num_bytes / 1e6:,.1f} MB, storage {manifest.storage}",
        "ledger": f"{counts.listed:,} listed = {counts.written:,} written "
        f"+ {counts.quarantined:,} quarantined + {counts.deduplicated:,} deduplicated",
        "left out": refused,
        "copies": f"{counts.copies:,} augmented copies, all in train",
        "mean": ", ".join(f"{value:.4f}" for value in manifest.preprocessing.mean) + " of train, in [0, 1]",
        "std": ", ".join(f"{value:.4f}" for value in manifest.preprocessing.std),
        "sizes": ", ".join(f"{rows:,} of {height} x {width}" for height, width, rows in manifest.sizes)
        + " (source height x width, rounded down to powers of two)",
        "source": manifest.source,
    }
    lines = [f"{name:<12} {fact}" for name, fact in facts.items()]
    return "\n".join([*lines, "", *_class_table(manifest)]) + "\n"


def _class_table(manifest: Manifest) -> list[str]:
    width = max(5, *(len(name) for name in manifest.classes[:_NUM_CLASSES]))
    lines = [f"{'class':<{width}} " + "".join(f"{split:>10}" for split in SPLITS) + f"{'left out':>10}"]
    for label, name in enumerate(manifest.classes[:_NUM_CLASSES]):
        rows = "".join(f"{manifest.splits[split].class_rows[label]:>10,}" for split in SPLITS)
        lines.append(f"{name:<{width}} {rows}{manifest.refused_by_class.get(name, 0):>10,}")
    if len(manifest.classes) > _NUM_CLASSES:
        lines.append(f"... and {len(manifest.classes) - _NUM_CLASSES} more classes")
    total = "".join(f"{manifest.splits[split].rows:>10,}" for split in SPLITS)
    lines.append(f"{'all':<{width}} {total}{sum(manifest.refused.values()):>10,}")
    return lines
