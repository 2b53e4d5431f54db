from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from dlspark.data.sources.class_layout import ClassFolder, list_folders
from dlspark.data.sources.folders import FolderSource, is_image, list_folder
from dlspark.data.sources.source import SourceImage
from dlspark.errors import SourceError


def put(root: Path, *names: str, content: bytes = b"abc") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def listing(root: str | Path, folder: str, class_from: str = "first") -> dict[str, str | None]:
    files = list_folder(str(root), ClassFolder(folder, folder, None), class_from=class_from)  # type: ignore[arg-type]
    return {file.key: file.label for file in files}


@pytest.fixture
def memory() -> Iterator[str]:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe({"/pets/cat/a.png": b"abc", "/pets/cat/deep/b.png": b"d", "/pets/dog/c.png": b""})
    yield "memory://pets"
    filesystem.rm("/pets", recursive=True)


def test_class_folders_are_the_sorted_visible_folders(tmp_path: Path) -> None:
    put(tmp_path, "dog/1.png", "cat/1.png", ".git/1.png", "_old/1.png", "readme.txt")
    assert list_folders(str(tmp_path)) == [ClassFolder("cat", "cat", None), ClassFolder("dog", "dog", None)]


def test_split_folders_in_any_case_carry_their_split_and_name(tmp_path: Path) -> None:
    put(tmp_path, "Train/cat/1.png", "Train/dog/1.png", "valid/cat/1.png", "test/fox/1.png")
    assert {(f.key, f.name, f.split) for f in list_folders(str(tmp_path))} == {
        ("Train/cat", "cat", "train"),
        ("Train/dog", "dog", "train"),
        ("valid/cat", "cat", "val"),
        ("test/fox", "fox", "test"),
    }


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    put(tmp_path, "train/1.png", "plane/1.png")
    assert [folder.split for folder in list_folders(str(tmp_path))] == [None, None]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "empty folder"),
        (["a.png", "b.png"], "no class folders; got 2 files"),
        (["cat/1.png"], "only one class; got cat"),
        (["train/cat/1.png", "test/cat/1.png"], "only one class; got cat"),
        (["val/cat/1.png", "test/dog/1.png"], "none called train; got test, val"),
        (["train/cat/1.png", "train/dog/1.png", "test/1.png"], "no class folders; got 1 files"),
    ],
)
def test_roots_that_cannot_be_classes_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(SourceError, match=message):
        list_folders(str(tmp_path))


def test_a_missing_root_and_a_file_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "file")
    with pytest.raises(SourceError, match="does not exist"):
        list_folders(str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="is a file"):
        list_folders(str(tmp_path / "file"))


def test_files_at_any_depth_have_length_and_time(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "cat/x/y/b.PNG", "cat/notes.txt")
    os.utime(tmp_path / "cat/a.png", ns=(5, 1_700_000_000_123_456_789))
    files = {
        f.key: f for f in list_folder(str(tmp_path), ClassFolder("cat", "cat", "val"), class_from="first")
    }
    assert files.keys() == {"cat/a.png", "cat/x/y/b.PNG", "cat/notes.txt"}
    assert files["cat/a.png"] == SourceImage("cat/a.png", "cat", 3, 1_700_000_000_123_456_789, "val")
    assert [key for key in files if not is_image(key)] == ["cat/notes.txt"]


def test_the_last_folder_may_name_the_class(tmp_path: Path) -> None:
    put(tmp_path, "a/cat/1.png", "a/b/dog/2.png", "a/.hidden/3.png", "a/4.png")
    assert listing(tmp_path, "a", "last") == {"a/cat/1.png": "cat", "a/b/dog/2.png": "dog", "a/4.png": "a"}
    assert set(listing(tmp_path, "a", "first").values()) == {"a"}


def test_links_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "store/1.png", "root/cat/2.png")
    (tmp_path / "root/cat/linked").symlink_to(tmp_path / "store")
    (tmp_path / "root/cat/3.png").symlink_to(tmp_path / "store/1.png")
    (tmp_path / "root/dog").symlink_to(tmp_path / "store")
    assert listing(tmp_path / "root", "cat").keys() == {"cat/2.png", "cat/3.png", "cat/linked/1.png"}
    assert [folder.name for folder in list_folders(str(tmp_path / "root"))] == ["cat", "dog"]


def test_links_to_nowhere_and_in_circles_are_errors(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "dog/1.png", "owl/1.png")
    (tmp_path / "cat/gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "dog/self.png").symlink_to(tmp_path / "dog/self.png")
    (tmp_path / "owl/up").symlink_to(tmp_path)
    for folder, name in (("cat", "gone.png"), ("dog", "self.png"), ("owl", "above it.*owl/up")):
        with pytest.raises(SourceError, match=f"cannot be read.*{name}"):
            listing(tmp_path, folder)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "cat/ä.png")
    assert listing(tmp_path, "cat") == {"cat/ä.png": "cat"}
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/cat/\xff.png"))).write_bytes(b"")
    with pytest.raises(SourceError, match="not valid UTF-8"):
        listing(tmp_path, "cat")


def test_other_file_systems_give_the_same_listing(memory: str) -> None:
    assert [folder.name for folder in list_folders(memory)] == ["cat", "dog"]
    assert listing(memory, "cat") == {"cat/a.png": "cat", "cat/deep/b.png": "cat"}
    assert listing(memory, "cat", "last") == {"cat/a.png": "cat", "cat/deep/b.png": "deep"}


def test_versions_on_other_file_systems_change_with_the_content(memory: str) -> None:
    def version() -> int:
        folder = ClassFolder("cat", "cat", None)
        return {f.key: f.version for f in list_folder(memory, folder, class_from="first")}["cat/a.png"]

    before = version()
    assert before == version()
    assert 0 <= before < 2**63
    fsspec.filesystem("memory").pipe("/pets/cat/a.png", b"xyz")
    assert version() != before


def test_images_are_read_by_key_also_from_a_pickled_source(tmp_path: Path, memory: str) -> None:
    put(tmp_path, "cat/a.png", content=b"local")
    image = SourceImage("cat/a.png", "cat", 5, 0)
    local = pickle.loads(pickle.dumps(FolderSource(url=str(tmp_path))))  # noqa: S301
    assert (local.read(image), local.path_of(image)) == (b"local", f"{tmp_path}/cat/a.png")
    assert FolderSource(url=memory).read(image) == b"abc"
    with pytest.raises(FileNotFoundError):
        local.read(image._replace(key="cat/none.png"))
