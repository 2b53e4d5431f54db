"""The accounts of an ingest: whatever the files hold, they add up or nothing is published."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlspark.contracts import SPLITS
from dlspark.data.ledger import check_reports
from dlspark.data.listing import Survey
from dlspark.data.parquet_file import FileReport
from dlspark.data.quarantine import DUPLICATE
from dlspark.errors import SourceError

NUMBERS = st.integers(0, 50)
FILES = st.lists(
    st.fixed_dictionaries(
        {
            "split": st.sampled_from(SPLITS),
            "rows": NUMBERS,
            "copies": NUMBERS,
            "truncated_body": NUMBERS,
            "zero_size": NUMBERS,
            DUPLICATE: NUMBERS,
        }
    ),
    max_size=12,
)


def reports_of(files: list[dict[str, int]]) -> list[FileReport]:
    """Reports of such files, and of one that holds an image of the only class in train."""
    reports = []
    for index, file in enumerate([{"split": "train", "rows": 1}, *files]):
        rows, copies = file["rows"], file.get("copies", 0)
        reasons = {name: file.get(name, 0) for name in ("truncated_body", "zero_size", DUPLICATE)}
        reports.append(
            FileReport(
                split=file["split"],
                index=index,
                rows=rows + copies,
                num_copies=copies,
                min_row_id=100 * index,
                max_row_id=100 * index + 99,
                class_rows=Counter({0: rows}),
                num_refused=Counter(reasons),
            )
        )
    return reports


def listed(files: list[dict[str, int]], *, more: int = 0) -> Survey:
    names = ("rows", "truncated_body", "zero_size", DUPLICATE)
    return Survey(class_rows=Counter({"cat": 1 + sum(file[name] for file in files for name in names) + more}))


@given(files=FILES)
def test_listed_is_written_and_quarantined_and_deduplicated(files: list[dict[str, int]]) -> None:
    counts = check_reports(reports_of(files), listed(files), ["cat"], 1.0, "here")
    assert counts.listed == counts.written + counts.quarantined + counts.deduplicated
    assert counts.written == 1 + sum(file["rows"] for file in files)
    assert counts.quarantined == sum(file["truncated_body"] + file["zero_size"] for file in files)
    assert counts.deduplicated == sum(file[DUPLICATE] for file in files)
    assert counts.copies == sum(file["copies"] for file in files)


@given(files=FILES, more=st.integers(-50, 50).filter(bool))
def test_an_image_that_is_lost_or_comes_from_nowhere_is_an_error(
    files: list[dict[str, int]], more: int
) -> None:
    with pytest.raises(SourceError, match="the source changed while it was read"):
        check_reports(reports_of(files), listed(files, more=more), ["cat"], 1.0, "here")


@given(files=FILES, allowed=st.floats(0, 1))
def test_the_share_that_is_quarantined_decides(files: list[dict[str, int]], allowed: float) -> None:
    survey = listed(files)
    quarantined = sum(file["truncated_body"] + file["zero_size"] for file in files)
    if quarantined <= allowed * survey.num_images:
        check_reports(reports_of(files), survey, ["cat"], allowed, "here")
        return
    with pytest.raises(SourceError, match=f"too many images.*got {quarantined} of {survey.num_images}"):
        check_reports(reports_of(files), survey, ["cat"], allowed, "here")
