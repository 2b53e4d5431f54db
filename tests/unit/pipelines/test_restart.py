"""When a training that lost a worker is started again, and when that would not help."""

from __future__ import annotations

import pytest

from dlspark.config.compose import compose
from dlspark.errors import ConfigError
from pipelines.restart import LostWorker, reason_to_stop


def _loss(step: int | None) -> LostWorker:
    return LostWorker(what="rank 1 of 2 on host a failed: SIGKILL", step=step)


def test_a_loss_is_worth_a_restart_as_often_as_allowed() -> None:
    assert reason_to_stop(_loss(7), None, 0, max_restarts=2) is None
    assert reason_to_stop(_loss(9), _loss(7), 1, max_restarts=2) is None
    assert reason_to_stop(_loss(None), None, 0, max_restarts=1) is None
    assert "max_restarts=2 is used up" in str(reason_to_stop(_loss(11), _loss(9), 2, max_restarts=2))
    assert reason_to_stop(_loss(7), None, 0, max_restarts=0) == ""


def test_what_happens_twice_at_one_step_is_not_tried_a_third_time() -> None:
    assert "failed twice after step 7" in str(reason_to_stop(_loss(7), _loss(7), 1, max_restarts=9))
    said = reason_to_stop(_loss(None), _loss(None), 1, max_restarts=9)
    assert "failed twice before the first step" in str(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cluster.min_workers=3",), "cluster.min_workers=3 is more than cluster.workers=2"),
        (("cluster.min_workers=1", "optimizer.lr_scaling=linear"), "depend on the number of workers"),
    ],
)
def test_fewer_workers_that_would_learn_otherwise_are_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose(list(words))
