"""What is said of a Horovod job that failed, from the records that its ranks left."""

from __future__ import annotations

from pathlib import Path

from dlspark.cluster.failures import record_end, record_failure, write_failure, write_host
from dlspark.cluster.horovod_job import _explain

_HOROVODS_ERROR = RuntimeError("Horovod detected ... Process name: 0\nExit code: 143\n")


def _write_told_to_end(folder: Path, rank: int) -> None:
    write_failure(str(folder), record_end(143, rank=rank, num_ranks=2, host="a", told_to_end=True))


def _explained(folder: Path) -> str:
    return str(_explain(_HOROVODS_ERROR, 2, str(folder), ["last words"], []))


def test_the_cause_is_told_and_not_the_rank_that_horovod_saw_first(tmp_path: Path) -> None:
    _write_told_to_end(tmp_path, 0)
    write_failure(str(tmp_path), record_failure(ValueError("boom"), rank=1, num_ranks=2, host="b"))
    told = _explained(tmp_path)
    assert told.startswith("rank 1 of 2 on host b failed: ValueError: boom; 1 other rank ended because of it")


def test_a_rank_without_a_record_was_lost_with_its_executor(tmp_path: Path) -> None:
    write_host(str(tmp_path), 1, "b")
    _write_told_to_end(tmp_path, 0)
    told = _explained(tmp_path)
    assert told.startswith("rank 1 of 2 on host b failed: its executor was lost")
    assert told.endswith("last words")


def test_if_all_ranks_were_told_to_end_none_is_called_lost(tmp_path: Path) -> None:
    _write_told_to_end(tmp_path, 1)
    _write_told_to_end(tmp_path, 0)
    told = _explained(tmp_path)
    assert told.startswith("rank 1 of 2 on host a failed: SIGTERM: its process was ended by this signal")
    assert "1 other rank ended because of it" in told


def test_a_job_that_failed_before_its_ranks_says_the_reason_of_spark(tmp_path: Path) -> None:
    report = "Traceback ...\n  File x\nModuleNotFoundError: No module named 'horovod'\n"
    told = str(_explain(RuntimeError("Spark job has failed"), 2, str(tmp_path), [], [report]))
    assert told.startswith("the Spark job of the training failed; got ModuleNotFoundError: No module named")
