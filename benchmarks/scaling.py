"""Images per second of two ranks and of one: dlspark on both backends, stock DDP and stock Horovod, in turns.

    python -m benchmarks.scaling

One thread a rank, fp32, momentum, 128 rows a rank on noise in memory. `mlp` has much to send for what it
computes (5.8 million weights), `mnist_cnn` little. `communication` is the share of time in the all-reduce,
the wait for the slower rank included; the stock ways send while they compute, so they have none of their own.
Ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import cloudpickle
import numpy as np
import torch
from torch import nn

from benchmarks.runs import say
from dlspark.cluster.backends import Backend
from dlspark.cluster.launch import launch
from dlspark.cluster.session import spark_session
from dlspark.contracts import Batch, Communicator, WorkerTask
from dlspark.models.build import build_model
from dlspark.training.optimizers import build_optimizer
from dlspark.training.replicas import broadcast_state
from dlspark.training.step_speed import measure_steps

_CPU = torch.device("cpu")
_ROWS, _SECONDS, _RATE, _NUM_CLASSES = 128, 4.0, 0.001, 10
_NETWORKS: dict[str, dict[str, object]] = {"mlp": {"hidden": [2048, 2048]}, "mnist_cnn": {}}


class Speed(NamedTuple):
    """What one way came to with one network."""

    images_per_second: float
    communication_share: float | None


def run_dlspark(task: WorkerTask, communicator: Communicator) -> dict[str, Speed]:
    """Measure dlspark's own step."""
    return {name: _run_dlspark(name, communicator) for name in _NETWORKS}


def run_ddp(task: WorkerTask, communicator: Communicator) -> dict[str, Speed]:
    """Measure DistributedDataParallel with its defaults; the launch has made the process group."""

    def distribute(
        network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        return nn.parallel.DistributedDataParallel(network), optimizer

    return {name: _run_stock(name, communicator, distribute) for name in _NETWORKS}


def run_stock_horovod(task: WorkerTask, communicator: Communicator) -> dict[str, Speed]:
    """Measure Horovod's DistributedOptimizer with its defaults; the launch has called hvd.init."""
    import horovod.torch as hvd

    def distribute(
        network: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        hvd.broadcast_parameters(network.state_dict(), root_rank=0)
        return network, hvd.DistributedOptimizer(optimizer, named_parameters=network.named_parameters())

    return {name: _run_stock(name, communicator, distribute) for name in _NETWORKS}


Work = Callable[[WorkerTask, Communicator], dict[str, Speed]]
_WAYS: dict[str, tuple[Work, Backend, int]] = {
    "dlspark horovod": (run_dlspark, "horovod", 2),
    "dlspark torch": (run_dlspark, "torch", 2),
    "stock DDP": (run_ddp, "torch", 2),
    "stock Horovod": (run_stock_horovod, "horovod", 2),
    "dlspark horovod, 1 rank": (run_dlspark, "horovod", 1),
    "dlspark torch, 1 rank": (run_dlspark, "torch", 1),
}
_RATIOS = [
    ("dlspark horovod", "stock DDP"),
    ("dlspark horovod", "dlspark torch"),
    ("dlspark torch", "stock DDP"),
    ("stock Horovod", "stock DDP"),
    ("dlspark horovod", "dlspark horovod, 1 rank"),
    ("dlspark torch", "dlspark torch, 1 rank"),
]


def main() -> None:
    """Measure all ways in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    found: dict[tuple[str, str], list[Speed]] = defaultdict(list)
    with (
        tempfile.TemporaryDirectory() as folder,
        spark_session("local-cluster[2,1,2048]", "scaling") as spark,
    ):
        task = WorkerTask(dataset="", fingerprint="", run_dir=folder, config={})
        for _ in range(options.turns):
            for way, (work, backend, num_ranks) in _WAYS.items():
                ranks = launch(
                    work,
                    task,
                    backend=backend,
                    num_workers=num_ranks,
                    spark=spark,
                    start_timeout_seconds=60,
                    threads_per_worker=1,
                )
                for name in _NETWORKS:
                    found[name, way].append(
                        min((rank[name] for rank in ranks), key=lambda speed: speed.images_per_second)
                    )
    for name in _NETWORKS:
        _report(name, {way: found[name, way] for way in _WAYS})


def _report(name: str, speeds: dict[str, list[Speed]]) -> None:
    say(name)
    rates = {way: [speed.images_per_second for speed in turns] for way, turns in speeds.items()}
    for way, turns in speeds.items():
        shares = [speed.communication_share for speed in turns if speed.communication_share is not None]
        share = f"  communication {statistics.median(shares):.0%}" if shares else ""
        spread = f"[{min(rates[way]):,.0f} - {max(rates[way]):,.0f}]"
        say(f"  {way:<24} {statistics.median(rates[way]):7,.0f} images/s  {spread}{share}")
    for one, other in _RATIOS:
        ratios = [mine / theirs for mine, theirs in zip(rates[one], rates[other], strict=True)]
        say(f"  {one} / {other}: {statistics.median(ratios):.2f} [{min(ratios):.2f} - {max(ratios):.2f}]")


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, channels=1, height=28, width=28, num_classes=_NUM_CLASSES, **_NETWORKS[name])


def _batch(communicator: Communicator) -> Batch:
    noise = torch.Generator().manual_seed(communicator.rank)
    return Batch(
        step=0,
        global_rows=_ROWS * communicator.size,
        row_ids=np.arange(_ROWS),
        images=torch.randn((_ROWS, 1, 28, 28), generator=noise),
        labels=torch.randint(_NUM_CLASSES, (_ROWS,), generator=noise),
    )


def _run_dlspark(name: str, communicator: Communicator) -> Speed:
    network = _network(name)
    broadcast_state(network, communicator)
    speed = measure_steps(
        *(network, build_optimizer(network, "momentum", lr=_RATE, momentum=0.9), communicator),
        _batch(communicator),
        precision="fp32",
        device=_CPU,
        seconds=_SECONDS,
    )
    return Speed(speed.images_per_second, speed.communication_share)


def _run_stock(
    name: str,
    communicator: Communicator,
    distribute: Callable[[nn.Module, torch.optim.Optimizer], tuple[nn.Module, torch.optim.Optimizer]],
) -> Speed:
    network = _network(name)
    plain = torch.optim.SGD(network.parameters(), lr=_RATE, momentum=0.9)
    model, optimizer = distribute(network, plain)
    batch = _batch(communicator)
    model.train()

    def run(num_steps: int) -> float:
        started = time.perf_counter()
        for _ in range(num_steps):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return num_steps * batch.global_rows / (time.perf_counter() - started)

    run(3)
    wanted = math.ceil(_SECONDS * run(1) / batch.global_rows)
    return Speed(run(int(communicator.broadcast(torch.tensor([wanted])))), None)


if __name__ == "__main__":
    main()
