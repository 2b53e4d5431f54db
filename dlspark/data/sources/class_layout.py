"""Which folders of a source are its classes: below the root, or below split folders (train, val, test).

Only folder names are looked at, so that the driver can do it for any number of images.
"""

from __future__ import annotations

import logging
import posixpath
from collections.abc import Sequence
from typing import Literal, NamedTuple

from dlspark import storage
from dlspark.contracts import Split
from dlspark.data.sources.columns import SPLIT_NAMES
from dlspark.errors import SourceError

logger = logging.getLogger(__name__)

ClassFrom = Literal["first", "last"]
"""Which folder of a path names the class: the first below the root (or split), or the last."""

LAYOUT = "a folder with one sub-folder of images for each class, two classes at least"


class ClassFolder(NamedTuple):
    """A folder right below the root or a split: the unit of a listing."""

    key: str
    """Path relative to the root."""
    name: str
    split: Split | None


def split_folders(names: Sequence[str], where: str) -> dict[str, Split]:
    """Return the splits of the folders in a root; empty if they are class folders.

    They are split folders if each is called train, val, valid, validation or test (in any case) and one of
    them is train: train alone will do, for as a class it could not train anything.

    Raises:
        SourceError: there are split folders only, but none for training.
    """
    splits = {name: SPLIT_NAMES[name.lower()] for name in names if name.lower() in SPLIT_NAMES}
    if not names or len(splits) < len(names):
        return {}
    if "train" not in splits.values():
        raise SourceError(
            "the source has split folders, but none called train",
            got=", ".join(sorted(names)),
            where=where,
            fix="point source at the folder that holds train as well",
        )
    return splits


def list_folders(url: str, *, class_from: ClassFrom = "first") -> list[ClassFolder]:
    """Return the folders right below the root, or right below its split folders, sorted.

    Raises:
        SourceError: `url` is missing, no folder, empty, or has fewer than two classes.
    """
    names = _folder_names(url)
    splits = split_folders(names, url)
    if splits:
        logger.info("the source is split already: %s", ", ".join(f"{k} is {v}" for k, v in splits.items()))
        folders = [
            ClassFolder(posixpath.join(folder, name), name, split)
            for folder, split in splits.items()
            for name in _folder_names(storage.join(url, folder))
        ]
    else:
        folders = [ClassFolder(name, name, None) for name in names]
    if class_from == "first":
        require_two({folder.name for folder in folders}, url)
    return folders


def require_two(classes: set[str], where: str) -> None:
    """Refuse a source with one class.

    Raises:
        SourceError: see above.
    """
    if len(classes) == 1:
        raise SourceError(
            "the source has only one class",
            got=next(iter(classes)),
            allowed=LAYOUT,
            where=where,
            fix="add a class, or point source at the folder above if this is one of the classes",
        )


def require_folders(names: Sequence[str], num_entries: int, where: str) -> None:
    """Refuse a root or a split without folders.

    Args:
        names: of the folders that may be classes.
        num_entries: of everything that is there.
        where: of the root or split.

    Raises:
        SourceError: see above.
    """
    if not num_entries:
        raise SourceError("the source is an empty folder", where=where, fix=f"set source to {LAYOUT}")
    if not names:
        raise SourceError(
            "the source has no class folders",
            got=f"{num_entries} files",
            allowed=LAYOUT,
            where=where,
            fix="put the images of each class into a folder of its own",
        )


def class_below(folder: str, relative: str) -> str | None:
    """Return the last folder of a path inside `folder`; None if a folder on the way is hidden."""
    parents = posixpath.dirname(relative).split("/") if "/" in relative else []
    if any(is_hidden(name) for name in parents):
        return None
    return parents[-1] if parents else folder


def is_hidden(name: str) -> bool:
    """Tell whether a folder cannot be a class."""
    return name.startswith((".", "_"))


def _folder_names(url: str) -> list[str]:
    filesystem, path = storage.resolve(url)
    if not filesystem.exists(path):
        raise SourceError("the source does not exist", where=url, fix=f"set source to {LAYOUT}")
    if not filesystem.isdir(path):
        raise SourceError("the source is a file", where=url, fix=f"set source to {LAYOUT}")
    filesystem.invalidate_cache(path)
    entries = filesystem.ls(path, detail=True)
    folders = [
        posixpath.basename(entry["name"].rstrip("/"))
        for entry in entries
        # Of a link only isdir tells what it leads to.
        if entry["type"] == "directory" or (entry["type"] != "file" and filesystem.isdir(entry["name"]))
    ]
    names = sorted(name for name in folders if not is_hidden(name))
    require_folders(names, len(entries), url)
    return names
