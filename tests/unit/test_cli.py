"""The command line: help, exit codes, and one JSON line on stdout."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

import dlspark
from dlspark.cli import main, run_stage
from dlspark.config.compose import compose
from dlspark.config.describe import list_choices
from dlspark.config.schema import Config
from dlspark.errors import ConfigError, DatasetError, WorkerFailedError
from dlspark.help import STAGES


@dataclass(frozen=True, kw_only=True)
class _Result:
    values: dict[str, Any]
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        return self.values


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """`main` configures logging for a process of its own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(False)
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stage that needs nothing and returns its configuration; a test may give it another `run`."""
    module = ModuleType("pipelines.sync")
    module.run = lambda config, spark: _Result(values={"epochs": config.train.epochs, "spark": spark})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipelines.sync", module)
    return module


def _raising(error: BaseException) -> Any:
    def run(config: Config, spark: object) -> Any:
        raise error

    return run


def test_help_names_every_stage_and_the_keys_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in (
        *STAGES,
        "source",
        "dataset",
        "run_dir",
        "model",
        "optimizer.lr",
        "train.epochs",
        "train.seed",
    ):
        assert word in text
    for word in (
        "cluster.workers",
        "cluster.backend",
        "cluster.master",
        "tracking.uri",
        "experiment",
        "conf/",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("stage", STAGES)
def test_help_of_a_stage_lists_its_choices_and_keys(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage, "--help"]) == 0
    text = capsys.readouterr().out
    assert STAGES[stage] in text
    assert ", ".join(list_choices("experiment")) in " ".join(text.split())
    expected = {
        "ingest": "data.val_share=0.1",
        "arch": "num_classes=null",
        "train": "train.epochs=12",
        "evaluate": "split=test",
        "register": "tracking.alias=champion",
        "predict": "predict.batch_size=256",
        "full": "model.widths=(32, 64)",
        "doctor": "cluster.workers=2",
        "replay": "step=null",
        "bench-loader": "data.num_threads=null",
        "compare": "compare.runs=()",
        "bench-scale": "cluster.workers=2",
        "lr-find": "lr_find.num_steps=100",
        "sync": "run_dir=null",
    }
    assert expected[stage] in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dlspark {dlspark.__version__}\n"


def test_no_stage_shows_the_help_as_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "stages" in err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ("unknown stage", "did you mean train?", "ingest, arch, train")),
        (["source=/x", "train"], ("unknown stage", "put the stage first")),
        (["train", "--verbose"], ("unknown option", "--verbose", "--debug")),
        (["train", "train.epoch=1"], ("did you mean train.epochs?",)),
    ],
)
def test_wrong_words_are_one_error_line(
    words: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    for part in parts:
        assert part in err


def test_the_result_is_the_last_line_of_stdout_and_all_there_is(
    stage: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(config: Config, spark: object) -> _Result:
        sys.stdout.write("printed by a library\n")
        os.write(1, b"written by native code\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        logging.getLogger("dlspark.somewhere").info("a message")
        return _Result(values={"epochs": config.train.epochs})

    stage.run = run  # type: ignore[attr-defined]
    assert main(["sync", "train.epochs=7"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"epochs": 7}
    assert out.count("\n") == 1
    for text in ("printed by a library", "written by native code", "from a child", "a message"):
        assert text in err


def test_a_result_may_carry_an_exit_code(stage: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    stage.run = lambda config, spark: _Result(values={"errors": 1}, exit_code=2)  # type: ignore[attr-defined]
    assert main(["sync"]) == 2
    assert json.loads(capsys.readouterr().out) == {"errors": 1}


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            DatasetError("no dataset", got="nothing", fix="ingest first"),
            2,
            "error: no dataset; got nothing. Fix: ingest first.",
        ),
        (KeyError("oops"), 1, "unexpected error: KeyError: 'oops'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_have_exit_codes_and_no_traceback_without_debug(
    error: BaseException, code: int, line: str, stage: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.run = _raising(error)  # type: ignore[attr-defined]
    assert main(["sync"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert "Traceback" not in err

    assert main(["sync", "--debug"]) == code
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert line in err


def test_the_traceback_of_a_rank_is_for_debug(stage: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    error = WorkerFailedError("rank 1 on host a failed: ValueError: boom")
    error.args = (f"{error}\n\nTraceback of rank 1:\n  the line",)
    stage.run = _raising(error)  # type: ignore[attr-defined]
    assert main(["sync"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: rank 1 on host a failed: ValueError: boom."
    assert "--debug" in second
    assert main(["sync", "--debug"]) == 2
    assert "the line" in capsys.readouterr().err


def test_as_an_entry_point_a_failure_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    # Databricks calls the entry point of a wheel as a function and ignores what it returns.
    monkeypatch.setattr(sys, "argv", ["dlspark", "trian"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2


def test_the_session_of_the_caller_is_passed_on(stage: ModuleType) -> None:
    session = object()
    result = run_stage("sync", compose([]), session)  # type: ignore[arg-type]
    assert result.values["spark"] is session
    assert run_stage("sync", compose([])).values["spark"] is None


def test_run_stage_refuses_unknown_stages() -> None:
    with pytest.raises(ConfigError, match="did you mean ingest"):
        run_stage("ingset", compose([]))


def test_python_m_dlspark_is_the_command() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "dlspark", "trian"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert "did you mean train?" in finished.stderr
