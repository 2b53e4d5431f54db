"""The accounts of an ingest: every listed image is written or quarantined, no row id is there twice.

These checks stand between the files that the tasks wrote and the manifest that publishes them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from dlspark.contracts import SPLITS
from dlspark.data.manifest import Counts
from dlspark.data.parquet_file import FileReport, Quarantined
from dlspark.data.sources import Listing
from dlspark.errors import SourceError

_NUM_EXAMPLES = 3

_log = logging.getLogger(__name__)


def check_reports(
    reports: Sequence[FileReport],
    listing: Listing,
    classes: Sequence[str],
    max_quarantined: float,
    source: str,
) -> Counts:
    """Check what the tasks wrote and return the ledger.

    Args:
        reports: of all files.
        listing: of the same source, made before.
        classes: names by label.
        max_quarantined: share of the listed images, in [0, 1].
        source: URL, for the messages.

    Raises:
        SourceError: the numbers do not add up, a row id is there twice, too many images were quarantined, or
            a class or the train split lost all of its images.
    """
    written = sum(report.rows for report in reports)
    quarantined = [row for report in reports for row in report.quarantined]
    if listing.num_images != written + len(quarantined):
        raise SourceError(
            "the source changed while it was read",
            got=f"{listing.num_images} images listed, {written} written, {len(quarantined)} quarantined",
            where=source,
            fix="run ingest again when nothing writes to the source",
        )
    _require_unique(reports, source)
    _require_few(quarantined, listing.num_images, max_quarantined, source)
    _require_classes(reports, classes, source)
    for row in quarantined[:_NUM_EXAMPLES]:
        _log.warning("quarantined %s: %s, %s", row.key, row.reason, row.message)
    return Counts(listed=listing.num_images, written=written, quarantined=len(quarantined), deduplicated=0)


def _require_unique(reports: Sequence[FileReport], source: str) -> None:
    repeated = [pair for report in reports for pair in report.repeated]
    for split in SPLITS:
        files = sorted(
            (report for report in reports if report.split == split and report.rows), key=lambda r: r.index
        )
        repeated += [
            (f"last row of file {a.index}", f"first row of file {b.index}")
            for a, b in pairwise(files)
            if a.max_row_id >= b.min_row_id
        ]
    if repeated:
        first, second = repeated[0]
        raise SourceError(
            "two images have the same row id, a hash of their path",
            got=f"{first} and {second}",
            where=source,
            fix="rename one of the two files",
        )


def _require_few(
    quarantined: Sequence[Quarantined], listed: int, max_quarantined: float, source: str
) -> None:
    if len(quarantined) <= max_quarantined * listed:
        return
    reasons = Counter(row.reason for row in quarantined)
    counts = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    examples = "; ".join(f"{row.key}: {row.message}" for row in sorted(quarantined)[:_NUM_EXAMPLES])
    fix = "repair or take away the images, or raise data.max_quarantined"
    if reasons["wrong_size"]:
        fix = f"set image.size so that all images are resized to one size, or {fix}"
    raise SourceError(
        f"too many images cannot be used, such as {examples}",
        got=f"{len(quarantined)} of {listed} ({counts})",
        allowed=f"a share of {max_quarantined:g} (data.max_quarantined)",
        where=source,
        fix=fix,
    )


def _require_classes(reports: Sequence[FileReport], classes: Sequence[str], source: str) -> None:
    written: Counter[int] = Counter()
    trained: Counter[int] = Counter()
    for report in reports:
        written.update(report.class_rows)
        if report.split == "train":
            trained.update(report.class_rows)
    lost = [name for label, name in enumerate(classes) if not written[label]]
    if lost:
        raise SourceError(
            "a class lost all of its images to the quarantine",
            got=", ".join(lost[:5]),
            where=source,
            fix="repair the images of the class or take its folder away",
        )
    if not trained:
        raise SourceError(
            "the train split lost all of its images to the quarantine",
            where=source,
            fix="repair the images, or set another data.split_seed",
        )
    unseen = [name for label, name in enumerate(classes) if not trained[label]]
    if unseen:
        _log.warning("classes without an image in the train split: %s", ", ".join(unseen))
