"""The fault-injection suite: its index is true, and its table tells what failed and what is not tried."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.table import Outcome, is_good, lines_of, read_index, read_report

_TESTS = Path(__file__).resolve().parents[1]
_EXAMPLE = """
import pytest

@pytest.mark.faults(scenario=2)
@pytest.mark.faults(scenario=5)
def test_of_two():
    pass

@pytest.mark.faults(scenario=5)
@pytest.mark.parametrize("value", ["a.b", "c"])
def test_that_fails(value):
    assert value == "c"

def test_of_none():
    assert False
"""


def _scenarios_of(file: Path) -> set[int]:
    """Return the scenarios whose marks stand in a file."""
    return {
        int(keyword.value.value)
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "faults"
        for keyword in node.keywords
        if isinstance(keyword.value, ast.Constant)
    }


def test_the_index_names_the_files_of_each_scenario() -> None:
    lines = (_TESTS / "faults" / "README.md").read_text().splitlines()
    rows = {
        number: line.split("|")[3] for number in read_index() for line in lines if f"| {number} |" in line
    }
    marked: dict[int, set[str]] = {number: set() for number in rows}
    for file in _TESTS.rglob("test_*.py"):
        for number in _scenarios_of(file):
            marked[number].add(str(file.relative_to(_TESTS)))
    assert sorted(rows) == list(range(1, 9))
    for number, row in rows.items():
        assert set(re.findall(r"`(.+?)`", row)) == marked[number], number


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pytest's own report of two scenarios, made with the hook of these tests."""
    folder = tmp_path_factory.mktemp("example")
    (folder / "test_example.py").write_text(_EXAMPLE)
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(folder), "-p", "tests.conftest"]
    options = ["-c", str(_TESTS.parent / "pyproject.toml"), f"--junit-xml={folder}/report.xml"]
    subprocess.run(
        [*command, *options, str(folder)], cwd=_TESTS.parent, check=False, capture_output=True, timeout=120
    )
    return folder / "report.xml"


def test_a_report_is_read_by_scenario(report: Path) -> None:
    found = [(test.name.rpartition("::")[2], test.scenarios, test.outcome) for test in read_report(report)]
    assert found == [
        ("test_of_two", (2, 5), "passed"),
        ("test_that_fails[a.b]", (5,), "failed"),
        ("test_that_fails[c]", (5,), "passed"),
    ]


def test_the_table_counts_each_scenario_and_names_what_failed(report: Path) -> None:
    _, _, second, fifth, failed = lines_of({2: "a kill", 5: "a server"}, read_report(report))
    assert second.startswith("| 2. a kill | 1 | 0 | 0 |")
    assert fifth.startswith("| 5. a server | 2 | 1 | 0 |")
    assert failed.startswith("failed: ")
    assert failed.endswith("test_example.py::test_that_fails[a.b]")


def test_a_suite_is_good_if_all_scenarios_are_tried_and_nothing_failed() -> None:
    passed = [Outcome(name=str(n), scenarios=(n,), outcome="passed", seconds=1.0) for n in read_index()]
    failed = Outcome(name="other", scenarios=(3,), outcome="failed", seconds=1.0)
    assert is_good(read_index(), passed)
    assert not is_good(read_index(), passed[1:])
    assert not is_good(read_index(), [*passed, failed])
