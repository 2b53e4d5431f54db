"""What came of the faults, by scenario: `python -m tests.faults.table report.xml`.

The report is pytest's own (`--junit-xml`), in which each test names its scenarios. The exit code is 1 if a
test failed, or if a scenario has no test that passed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

_INDEX = Path(__file__).with_name("README.md")
_OUTCOMES = ("passed", "failed", "skipped")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one test."""

    name: str
    scenarios: tuple[int, ...]
    outcome: str
    """One of passed, failed, skipped."""
    seconds: float


def read_index() -> dict[int, str]:
    """Return scenario -> fault, as the README of this folder has them."""
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", _INDEX.read_text(), re.MULTILINE)
    return {int(number): fault for number, fault in rows}


def read_report(path: Path) -> list[Outcome]:
    """Return what came of the tests of a report that name a scenario."""
    outcomes = []
    for case in ElementTree.parse(path).iter("testcase"):  # noqa: S314 - a report of our own tests
        named = case.iterfind("properties/property[@name='scenario']")
        scenarios = tuple(int(entry.attrib["value"]) for entry in named)
        found = {child.tag for child in case}
        outcome = "failed" if found & {"failure", "error"} else "skipped" if "skipped" in found else "passed"
        name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
        if scenarios:
            seconds = float(case.attrib["time"])
            outcomes.append(Outcome(name=name, scenarios=scenarios, outcome=outcome, seconds=seconds))
    return outcomes


def lines_of(index: Mapping[int, str], outcomes: Sequence[Outcome]) -> list[str]:
    """Return the table in Markdown, and below it the names of what failed."""
    lines = ["| Scenario | Passed | Failed | Skipped | Seconds |", "|---|---:|---:|---:|---:|"]
    for number, fault in index.items():
        of_it = [test for test in outcomes if number in test.scenarios]
        counts = " | ".join(str(sum(test.outcome == kind for test in of_it)) for kind in _OUTCOMES)
        lines.append(f"| {number}. {fault} | {counts} | {sum(test.seconds for test in of_it):.0f} |")
    return lines + [f"failed: {test.name}" for test in outcomes if test.outcome == "failed"]


def is_good(index: Mapping[int, str], outcomes: Sequence[Outcome]) -> bool:
    """Tell whether nothing failed and each scenario has a test that passed."""
    passed = {number for test in outcomes if test.outcome == "passed" for number in test.scenarios}
    return all(test.outcome != "failed" for test in outcomes) and set(index) <= passed


def main() -> int:
    """Print the table of the report that the command line names."""
    index, outcomes = read_index(), read_report(Path(sys.argv[1]))
    sys.stdout.write("\n".join(["", *lines_of(index, outcomes), ""]))
    return 0 if is_good(index, outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
