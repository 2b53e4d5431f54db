"""What is on storage after a save, a kill or a damage: a whole snapshot loads, always, and no other one."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from dlspark import storage
from dlspark.training.checkpoint_writer import CheckpointWriter
from dlspark.training.snapshots import (
    list_snapshots,
    nearest_snapshot,
    newest_snapshot,
    read_snapshot,
    write_snapshot,
)
from dlspark.training.stopping import SAVE, STOP
from tests.no_frills_filesystem import NoFrillsFileSystem
from tests.unit.training.snapshots_of import describe, snapshot_of

# 50 by hand: each costs some 0.2 s.
NUM_KILLS = int(os.environ.get("DLSPARK_TEST_KILLS", "10"))


def write(folder: Path, *steps: int) -> list[Path]:
    described = [describe(epoch=step // 10, step=step, metrics={}) for step in steps]
    stored = [write_snapshot(str(folder), snapshot_of(one.step), one) for one in described]
    return [Path(one.url) for one in stored]


def writer_of(folder: str, **options: object) -> CheckpointWriter:
    settings = {"every_steps": None, "every_minutes": None, "keep": 2, "best_metric": "val_loss"}
    return CheckpointWriter(
        folder,
        **{"describe": describe, "told_to_stop": lambda: False, **settings, **options},  # type: ignore[arg-type]
    )


def steps_in(folder: str) -> list[int]:
    return [stored.description.step for stored in list_snapshots(folder)]


def flip_a_byte(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.faults(scenario=7)
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", flip_a_byte),
        ("state.safetensors", flip_a_byte),
        ("state.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-7])),
        ("state.safetensors", Path.unlink),
        ("checkpoint.json", lambda file: file.write_bytes(file.read_bytes()[:200])),
        ("checkpoint.json", Path.unlink),
    ],
    ids=["model", "state", "cut state", "no state", "cut json", "no commit"],
)
def test_a_damaged_one_is_named_and_passed_over(
    tmp_path: Path, name: str, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    _, damaged = write(tmp_path, 9, 10)
    damage(damaged / name)
    with caplog.at_level(logging.INFO):
        newest = newest_snapshot(str(tmp_path))
    assert newest is not None
    assert newest.description.step == 9
    assert damaged.name in caplog.text
    assert read_snapshot(newest.url).model["weight"].tolist() == [9.0] * 5


def test_nothing_saved_is_no_snapshot(tmp_path: Path) -> None:
    assert newest_snapshot(str(tmp_path / "nowhere")) is None
    (tmp_path / "final").mkdir()
    assert newest_snapshot(str(tmp_path)) is None


def test_the_nearest_one_before_a_step(tmp_path: Path) -> None:
    write(tmp_path, 9, 10, 20)
    near = [nearest_snapshot(str(tmp_path), step) for step in (8, 9, 19, 99)]
    assert [one and one.description.step for one in near] == [None, 9, 10, 20]


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    folder = str(tmp_path)
    losses = {10: 0.9, 20: 0.3, 30: 0.5, 40: 0.3, 50: 0.7}
    with writer_of(folder) as writer:
        for step, loss in losses.items():
            writer.save(lambda step=step, loss=loss: snapshot_of(step, {"val_loss": loss}))
            writer.save(lambda step=step: snapshot_of(step + 5))
    assert steps_in(folder) == [20, 50, 55]
    assert len(list(tmp_path.iterdir())) == 3
    with writer_of(
        folder, best_metric="val_accuracy", keep=1, resumed_from=newest_snapshot(folder).url
    ) as one:
        one.save(lambda: snapshot_of(60, {"val_accuracy": 0.5}))
        one.save(lambda: snapshot_of(70, {"val_accuracy": 0.4}))
    assert steps_in(folder) == [60, 70]


@pytest.mark.faults(scenario=7)
def test_what_lies_after_the_resume_is_removed(tmp_path: Path) -> None:
    first, unfinished, second, later = write(tmp_path, 9, 10, 11, 12)
    (unfinished / "checkpoint.json").unlink()
    (tmp_path / "final").mkdir()
    with writer_of(str(tmp_path), resumed_from=str(second)):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {first.name, second.name, "final"}
    assert not later.exists()


def test_an_error_of_the_writing_thread_is_raised_at_the_next_save(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = writer_of(str(tmp_path / "file" / "below"))
    (tmp_path / "file").write_text("in the way")
    writer.save(lambda: snapshot_of(1))
    with pytest.raises(OSError, match="file"):
        writer.save(lambda: snapshot_of(2))
    assert "step 1 could not be saved" in caplog.text
    with pytest.raises(OSError, match="file"), writer:
        writer.save(lambda: snapshot_of(3))


def test_a_rank_asks_when_it_is_time() -> None:
    told = [False]
    writer = writer_of("memory://asks", every_steps=3, told_to_stop=lambda: told[0])
    assert [writer.ask(step, ends_epoch=False) for step in range(1, 7)] == [0, 0, SAVE, 0, 0, SAVE]
    assert writer.ask(3, ends_epoch=True) == 0
    assert writer_of("memory://asks", every_minutes=1e-9).ask(1, ends_epoch=False) == SAVE
    assert writer_of("memory://asks", every_minutes=60.0).ask(1, ends_epoch=False) == 0
    told[0] = True
    assert writer.ask(3, ends_epoch=True) == STOP


@pytest.mark.faults(scenario=6)
def test_storage_that_takes_whole_files_only_serves() -> None:
    fsspec.register_implementation("nofrills", NoFrillsFileSystem, clobber=True)
    folder = "nofrills://bucket/run/checkpoints"
    with pytest.raises(OSError, match="not supported"):
        storage.resolve(folder)[0].mv("a", "b")
    with writer_of(folder, keep=1) as writer:
        for step, loss in ((10, 0.1), (20, 0.2), (30, 0.3)):
            writer.save(lambda step=step, loss=loss: snapshot_of(step, {"val_loss": loss}))
    assert steps_in(folder) == [10, 30]
    newest = newest_snapshot(folder)
    assert newest is not None
    assert torch.equal(read_snapshot(newest.url).tensors["momentum"], torch.full((5,), 30.0))
    with writer_of(folder):
        pass
    assert NoFrillsFileSystem.files == {}


def save_without_end(folder: str, begun: Event) -> None:
    torch.set_num_threads(1)
    with writer_of(folder) as writer:
        for step in itertools.count(1):
            writer.save(lambda step=step: snapshot_of(step, num_values=300_000))
            if step == 2:
                begun.set()


@pytest.mark.faults(scenario=7)
def test_a_kill_at_any_moment_leaves_a_whole_one(tmp_path: Path) -> None:
    context, unfinished = multiprocessing.get_context("fork"), 0
    for number, seconds in enumerate(np.random.default_rng(0).uniform(0.0, 0.1, NUM_KILLS)):
        folder, begun = str(tmp_path / str(number)), context.Event()
        process = context.Process(target=save_without_end, args=(folder, begun))
        process.start()
        assert begun.wait(timeout=60)
        process.join(timeout=seconds)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        newest = newest_snapshot(folder)
        assert newest is not None
        snapshot = read_snapshot(newest.url)
        assert snapshot.step >= 1
        for tensor in (snapshot.model["weight"], snapshot.tensors["momentum"]):
            assert tensor.unique().tolist() == [float(snapshot.step)]
        unfinished += len(storage.list_names(folder)) - len(list_snapshots(folder))
    assert unfinished > 0, "no kill came while something was being written"
