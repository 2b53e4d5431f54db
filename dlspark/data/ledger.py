"""The accounts of an ingest: every listed image is written, deduplicated or quarantined, no row id is twice.

These checks stand between the files that the tasks wrote and the manifest that publishes them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from dlspark.contracts import SPLITS
from dlspark.data.listing import Survey
from dlspark.data.manifest import Counts
from dlspark.data.parquet_file import FileReport
from dlspark.data.quarantine import DUPLICATE
from dlspark.errors import SourceError

_NUM_EXAMPLES = 3

_log = logging.getLogger(__name__)


def check_reports(
    reports: Sequence[FileReport],
    survey: Survey,
    classes: Sequence[str],
    max_quarantined: float,
    source: str,
) -> Counts:
    """Check what the tasks wrote and return the ledger.

    Args:
        reports: of all files.
        survey: of the same source, made before.
        classes: names by label.
        max_quarantined: share of the listed images, in [0, 1]; duplicates do not count as quarantined.
        source: URL, for the messages.

    Raises:
        SourceError: the numbers do not add up, a row id is there twice, too many images were quarantined, or
            a class or the train split lost all of its images.
    """
    reasons = refused_by_reason(reports)
    deduplicated = reasons[DUPLICATE]
    quarantined = reasons.total() - deduplicated
    copies = sum(report.num_copies for report in reports)
    written = sum(report.rows for report in reports) - copies
    if survey.num_images != written + quarantined + deduplicated:
        raise SourceError(
            "the source changed while it was read",
            got=f"{survey.num_images} images listed, {written} written, {quarantined} quarantined, "
            f"{deduplicated} deduplicated",
            where=source,
            fix="run ingest again when nothing writes to the source",
        )
    _require_unique(reports, source)
    examples = sorted(example for report in reports for example in report.examples)
    num_open = quarantined - sum(report.num_accepted for report in reports)
    if num_open > max_quarantined * survey.num_images:
        raise _too_many(
            num_open, reasons, examples, listed=survey.num_images, allowed=max_quarantined, source=source
        )
    _require_classes(reports, classes, source)
    for key, reason, message in examples[:_NUM_EXAMPLES]:
        _log.warning("%s %s: %s", "left out" if reason == DUPLICATE else "quarantined", key, message)
    return Counts(
        listed=survey.num_images,
        written=written,
        quarantined=quarantined,
        deduplicated=deduplicated,
        copies=copies,
    )


def refused_by_reason(reports: Sequence[FileReport]) -> Counter[str]:
    """Return the rows of the quarantine table by reason, the most frequent first."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.num_refused)
    return Counter(dict(total.most_common()))


def _require_unique(reports: Sequence[FileReport], source: str) -> None:
    repeated = [report.repeated for report in reports if report.repeated]
    for split in SPLITS:
        files = sorted(
            (report for report in reports if report.split == split and report.rows), key=lambda r: r.index
        )
        repeated += [
            (f"last row of file {a.index}", f"first row of file {b.index}")
            for a, b in pairwise(files)
            if a.max_row_id >= b.min_row_id
        ]
    if not repeated:
        return
    first, second = repeated[0]
    if first == second:
        raise SourceError(
            "the source names an image twice",
            got=first,
            where=source,
            fix="take one of the two lines out of the list",
        )
    raise SourceError(
        "two images have the same row id, a hash of their key",
        got=f"{first} and {second}",
        where=source,
        fix="rename one of the two files",
    )


def _too_many(
    num_open: int,
    reasons: Counter[str],
    examples: Sequence[tuple[str, str, str]],
    *,
    listed: int,
    allowed: float,
    source: str,
) -> SourceError:
    counts = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
    shown = [f"{key}: {message}" for key, reason, message in examples if reason != DUPLICATE]
    fix = "repair or take away the images, or raise data.max_quarantined"
    if reasons["wrong_size"]:
        fix = f"set image.size so that all images are resized to one size, or {fix}"
    return SourceError(
        f"too many images cannot be used, such as {'; '.join(shown[:_NUM_EXAMPLES])}",
        got=f"{num_open} of {listed} ({counts})",
        allowed=f"a share of {allowed:g} (data.max_quarantined)",
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
