"""From what the tasks report to the manifest: sums over files, by split and class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dlspark.contracts import SPLITS, ImageFormat, Preprocessing
from dlspark.data.fingerprint import add_sums, dataset_fingerprint, sums_to_json
from dlspark.data.ledger import refused_by_reason
from dlspark.data.manifest import Counts, FileEntry, Manifest, SplitEntry, channel_statistics
from dlspark.data.parquet_file import FileReport, Storage


def describe(
    reports: Sequence[FileReport],
    counts: Counts,
    *,
    classes: tuple[str, ...],
    image: ImageFormat,
    form: Storage,
    num_streams: int,
    source: str,
    source_digest: str,
    settings: Mapping[str, Any],
    request: Mapping[str, Any],
    attempt: str,
) -> Manifest:
    """Return the manifest of the files that are reported; see Manifest for the arguments."""
    train = [report for report in reports if report.split == "train" and report.rows]
    mean, std = channel_statistics(
        [sum(values) for values in zip(*(report.channel_sums for report in train), strict=True)],
        [sum(values) for values in zip(*(report.channel_squares for report in train), strict=True)],
        image.height * image.width * sum(report.rows for report in train),
    )
    sums = {
        split: add_sums(report.class_sums for report in reports if report.split == split) for split in SPLITS
    }
    sizes: Counter[tuple[int, int]] = Counter()
    refused_by_label: Counter[int] = Counter()
    for report in reports:
        sizes.update(report.sizes)
        refused_by_label.update(report.class_refused)
    names = dict(enumerate(classes))
    return Manifest(
        fingerprint=dataset_fingerprint(classes, sums),
        fingerprint_sums=sums_to_json(sums),
        classes=classes,
        preprocessing=Preprocessing(image=image, mean=mean, std=std),
        storage=form,
        num_streams=num_streams,
        counts=counts,
        splits={
            split: _split_entry([report for report in reports if report.split == split], len(classes))
            for split in SPLITS
        },
        refused=dict(refused_by_reason(reports)),
        refused_by_class={names.get(label, ""): rows for label, rows in sorted(refused_by_label.items())},
        quarantine_files=tuple(path for report in reports for path in report.quarantine_paths),
        sizes=tuple((height, width, rows) for (height, width), rows in sorted(sizes.items())),
        source=source,
        source_digest=source_digest,
        settings=settings,
        request=request,
        attempt=attempt,
    )


def _split_entry(reports: Sequence[FileReport], num_classes: int) -> SplitEntry:
    return SplitEntry(
        rows=sum(report.rows for report in reports),
        class_rows=tuple(sum(report.class_rows[label] for report in reports) for label in range(num_classes)),
        files=tuple(
            FileEntry(
                path=report.path,
                rows=report.rows,
                num_bytes=report.num_bytes,
                checksum=report.checksum,
                min_row_id=report.min_row_id,
                max_row_id=report.max_row_id,
            )
            for report in sorted(reports, key=lambda report: report.index)
            if report.path is not None
        ),
    )
