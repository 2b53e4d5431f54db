r"""Time to 99% of MNIST's validation images: `dlspark train` beside a plain PyTorch script, in turns.

    python -m benchmarks.time_to_accuracy --dataset runs/mnist/dataset --precision bf16

Same network, distribution of the first weights, optimizer, rate, batch and precision, no augmentation, all
cores; both validate after each epoch, and are ended when they have it. Times are given from the start of the
process and from the first step. How many epochs it takes is chance, of the first weights and the order of the
rows: each turn has a seed of its own, and the seconds of an epoch are compared as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.plain_mnist import BATCH, RATE
from benchmarks.runs import say
from dlspark.tracking.events import MetricsEvent
from dlspark.tracking.journal import read_events

_WANTED = 0.99
_SECONDS_BETWEEN_LOOKS = 2.0


class Reached(NamedTuple):
    """When a training had the accuracy."""

    from_start: float
    """Seconds from the start of the process."""
    from_first_step: float
    epochs: int

    @property
    def of_an_epoch(self) -> float:
        """Seconds of an epoch with its validation."""
        return self.from_first_step / self.epochs


def main() -> None:
    """Run both in turns."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12, help="at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    found: dict[str, list[Reached]] = {"plain": [], "dlspark": []}
    for seed in range(options.repeats):
        for name, run in (("plain", run_plain), ("dlspark", run_dlspark)):
            reached = run(options.dataset, options.epochs, options.precision, seed)
            found[name].append(reached)
            say(
                f"{name:<8} {reached.from_start:6.1f} s from start, {reached.from_first_step:6.1f} s from "
                f"the first step, {reached.epochs} epochs"
            )
    for field in ("from_start", "from_first_step", "of_an_epoch"):
        times = {name: [getattr(each, field) for each in reached] for name, reached in found.items()}
        ratios = sorted(ours / plain for ours, plain in zip(times["dlspark"], times["plain"], strict=True))
        say(
            f"{field}: plain {statistics.median(times['plain']):.1f} s, dlspark "
            f"{statistics.median(times['dlspark']):.1f} s; ratio {statistics.median(ratios):.2f} "
            f"[{ratios[0]:.2f}-{ratios[-1]:.2f}]"
        )


def run_plain(dataset: Path, epochs: int, precision: str, seed: int) -> Reached:
    """Run the plain script."""
    started = time.time()
    command = [sys.executable, "-m", "benchmarks.plain_mnist", str(dataset)]
    command += [f"--epochs={epochs}", f"--until={_WANTED}", f"--precision={precision}", f"--seed={seed}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    first = next(line["time"] for line in lines if line["event"] == "first_step")
    curve = [(line["val_accuracy"], line["time"]) for line in lines if line["event"] == "epoch"]
    return _reached(curve, started, first)


def run_dlspark(dataset: Path, epochs: int, precision: str, seed: int) -> Reached:
    """Run the command."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = f"{folder}/run"
        command = [
            *(sys.executable, "-m", "dlspark", "train", "cluster=single_process", "model=mnist_cnn"),
            *("model.initialisation=torch", f"train.seed={seed}", f"train.precision={precision}"),
            *("optimizer=adam", f"optimizer.lr={RATE}", "optimizer.weight_decay=0"),
            *(f"train.epochs={epochs}", f"train.global_batch_size={BATCH}"),
            *(f"dataset={dataset}", f"run_dir={run_dir}", f"tracking.uri=sqlite:///{folder}/mlflow.db"),
        ]
        started = time.time()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not _has_reached(run_dir):
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            process.terminate()
        events = _metrics(run_dir)
    steps = [event for event in events if "step/loss" in event.values]
    # A step is journaled after it is done.
    first = steps[0].time_ms / 1000 - steps[0].values["step/compute_seconds"]
    curve = [
        (event.values["val_accuracy"], event.time_ms / 1000)
        for event in events
        if "val_accuracy" in event.values
    ]
    return _reached(curve, started, first)


def _metrics(run_dir: str) -> list[MetricsEvent]:
    return [event for event in read_events(run_dir) if isinstance(event, MetricsEvent)]


def _has_reached(run_dir: str) -> bool:
    return any(event.values.get("val_accuracy", 0.0) >= _WANTED for event in _metrics(run_dir))


def _reached(curve: list[tuple[float, float]], started: float, first: float) -> Reached:
    for epoch, (accuracy, seconds) in enumerate(curve, start=1):
        if accuracy >= _WANTED:
            return Reached(seconds - started, seconds - first, epoch)
    raise SystemExit(f"{_WANTED:.0%} was not reached in {len(curve)} epochs: {curve}")


if __name__ == "__main__":
    main()
