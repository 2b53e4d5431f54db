from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dlspark.data.sources.files import is_url, measure_file
from dlspark.data.sources.folders import FolderSource
from dlspark.data.sources.grouping import compile_group
from dlspark.data.sources.hadoop import HadoopFolderSource
from dlspark.data.sources.lists import ListSource, normalise
from dlspark.data.sources.open import SourceColumns, open_source
from dlspark.data.sources.records import RecordSource
from dlspark.data.sources.source import Source
from dlspark.data.sources.tables import TableSource
from dlspark.errors import SourceError
from tests.unit.data.sources.test_records import put_mnist


def open_it(url: object, group: str | None = None) -> Source:
    return open_source(str(url), columns=SourceColumns(group=group), max_image_bytes=100)


def test_the_kind_follows_from_what_is_there_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "classes/cat").mkdir(parents=True)
    (tmp_path / "list.CSV").write_text("path,label\n")
    (tmp_path / "parts.parquet").mkdir()
    put_mnist(tmp_path / "mnist")
    kinds = {
        "table:main.pets.images": (TableSource, "Spark table"),
        f"{tmp_path}/list.CSV": (ListSource, "list of paths"),
        f"{tmp_path}/parts.parquet": (ListSource, "list of paths"),
        f"list:{tmp_path}/classes": (ListSource, "list of paths"),
        f"{tmp_path}/mnist": (RecordSource, "train (3), test (1)"),
        f"{tmp_path}/classes": (FolderSource, "class folders"),
        "viewfs://cluster/pets": (HadoopFolderSource, "Protocol not known: viewfs"),
    }
    for url, (kind, log) in kinds.items():
        caplog.clear()
        with caplog.at_level(logging.INFO):
            source = open_it(url)
        assert type(source) is kind
        assert log in caplog.text
        assert source.url == url.removeprefix("list:")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(SourceError, match="does not exist"):
        open_it(tmp_path / "nowhere")
    with pytest.raises(SourceError, match="is a file, and no list"):
        open_it(tmp_path / "notes.txt")
    with pytest.raises(SourceError, match="Protocol not known: viewfs"):
        open_it("viewfs://cluster/list.csv")


def test_group_expressions_are_checked() -> None:
    for wrong, message in (("(", "no regular expression"), ("patient", "has no group")):
        with pytest.raises(SourceError, match=message):
            compile_group(wrong, "somewhere")


@pytest.mark.parametrize(
    ("written", "key"),
    [
        ("./a/b.png", "a/b.png"),
        ("a//b.png", "a/b.png"),
        (r"a\b.png", "a/b.png"),
        ("../a.png", "../a.png"),
        ("/data/./a.png", "/data/a.png"),
        ("s3://bucket//a.png", "s3://bucket//a.png"),
    ],
)
def test_paths_of_lists_have_one_form(written: str, key: str) -> None:
    assert normalise(written) == key


def test_what_is_not_a_file_has_no_length(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"xy")
    assert measure_file(str(tmp_path / "a")) == (2, (tmp_path / "a").stat().st_mtime_ns)
    for missing in (tmp_path, tmp_path / "b", tmp_path / "a/b"):
        assert measure_file(str(missing)) == (-1, 0)
    assert measure_file("memory://nothing") == (-1, 0)
    assert is_url("dbfs:/x")
    assert not is_url("a:b/x")
