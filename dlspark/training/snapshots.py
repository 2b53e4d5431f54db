"""Snapshots of a training on storage: <run_dir>/checkpoints/step-0000000120-epoch-0003-<token>/.

Such a folder is a checkpoint with one file more, state.safetensors. Its name is never used twice, nothing in
it is ever written again, and checkpoint.json, the last and smallest file, is the commit: so a kill at any
moment leaves the older ones as they were. Whole files are written and removed: no append, seek, rename, link.
"""

from __future__ import annotations

import logging
import posixpath
import re
import uuid
from dataclasses import dataclass

from dlspark import storage
from dlspark.errors import ModelError
from dlspark.training.checkpoint import (
    DESCRIPTION_FILE,
    TENSORS_FILE,
    CheckpointDescription,
    read_commit,
    read_description,
    read_tensors,
    write_model,
    write_tensors,
)
from dlspark.training.training_state import Snapshot

_log = logging.getLogger(__name__)

STATE_FILE = "state.safetensors"
_NAME = re.compile(r"step-(?P<step>\d{10})-epoch-\d{4,}-[0-9a-f]{8}")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredSnapshot:
    """A snapshot that is committed; its tensors have not been read."""

    url: str
    name: str
    """Of its folder; names sort by step."""
    description: CheckpointDescription


def checkpoints_folder(run_dir: str) -> str:
    """Return the URL of the folder of all checkpoints of a run."""
    return storage.join(run_dir, "checkpoints")


def final_checkpoint(run_dir: str) -> str:
    """Return the URL of a run's final checkpoint: the weights alone."""
    return storage.join(checkpoints_folder(run_dir), "final")


def write_snapshot(folder: str, snapshot: Snapshot, description: CheckpointDescription) -> StoredSnapshot:
    """Write a snapshot; returns once it is committed.

    Args:
        folder: URL of the folder of all checkpoints of the run.
        snapshot: in host memory.
        description: of its network.
    """
    name = f"step-{snapshot.step:010d}-epoch-{snapshot.epoch:04d}-{uuid.uuid4().hex[:8]}"
    url = storage.join(folder, name)
    state = write_tensors(storage.join(url, STATE_FILE), snapshot.tensors)
    state["values"] = snapshot.values
    write_model(url, snapshot.model, description, {"state": state})
    return StoredSnapshot(url=url, name=name, description=description)


def read_snapshot(url: str) -> Snapshot:
    """Read a snapshot.

    Raises:
        ModelError: it is not committed, or damaged; the message names the file.
    """
    commit = read_commit(url)
    state = commit.get("state")
    if not isinstance(state, dict):
        raise ModelError(
            "the checkpoint holds weights only, nothing that a training could go on from",
            where=storage.join(url, DESCRIPTION_FILE),
        )
    description = read_description(url)
    return Snapshot(
        model=read_tensors(storage.join(url, TENSORS_FILE), commit["tensors_sha256"]),
        tensors=read_tensors(storage.join(url, STATE_FILE), state.get("sha256")),
        values=state["values"],
        epoch=description.epoch,
        step=description.step,
        metrics=description.metrics,
    )


def list_snapshots(folder: str) -> list[StoredSnapshot]:
    """Return the committed snapshots by rising step; tensors are not looked at, other folders left out."""
    found = []
    for name in _names(folder):
        url = storage.join(folder, name)
        try:
            found.append(StoredSnapshot(url=url, name=name, description=read_description(url)))
        except ModelError as error:
            _log.debug("%s is no snapshot: %s", url, error)
    return found


def newest_snapshot(folder: str) -> StoredSnapshot | None:
    """Return the newest snapshot that is whole, each byte checked; a damaged one is named and passed over."""
    for name in reversed(_names(folder)):
        url = storage.join(folder, name)
        if not storage.exists(storage.join(url, DESCRIPTION_FILE)):
            _log.info("the checkpoint %s was not finished: passed over", url)
            continue
        try:
            read_snapshot(url)
        except ModelError as error:
            _log.warning("the checkpoint %s is passed over: %s", url, error)
            continue
        return StoredSnapshot(url=url, name=name, description=read_description(url))
    return None


def nearest_snapshot(folder: str, step: int) -> StoredSnapshot | None:
    """Return the last committed snapshot of at most `step` optimizer steps."""
    found = [stored for stored in list_snapshots(folder) if stored.description.step <= step]
    return found[-1] if found else None


def clear_after(folder: str, url: str | None) -> None:
    """Remove what a training that goes on from a snapshot leaves behind: later and unfinished ones.

    Args:
        folder: of all checkpoints.
        url: of the snapshot; None: the training begins anew, so all snapshots go.
    """
    name = url and posixpath.basename(url)
    whole = {stored.name for stored in list_snapshots(folder)}
    for found in _names(folder):
        if name is None or found > name or found not in whole:
            remove_snapshot(storage.join(folder, found))


def remove_snapshot(url: str) -> None:
    """Remove a snapshot, its commit first, so that it is never half there."""
    storage.remove_tree(storage.join(url, DESCRIPTION_FILE))
    storage.remove_tree(url)


def _names(folder: str) -> list[str]:
    return [name for name in storage.list_names(folder) if _NAME.fullmatch(name)]
