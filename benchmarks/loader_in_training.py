"""What a training sees of the loader: seconds to the first batch, and the share of its time that it waits.

    python -m benchmarks.loader_in_training --mnist ../shared/data/mnist.tar.gz

The first batch: MNIST's 60,000 training images in about 2,000 files, from `open_split` to the first batch of
128, a fresh loader each time. The wait: the lecture's CNN, one process on both cores, two epochs of a dataset
with files of the usual size; per epoch the sum of step/data_wait_seconds over the sum of the steps' seconds.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from benchmarks.loader_peers import open_loader
from benchmarks.runs import run_dlspark, say
from benchmarks.workloads import SMALL, unpack_mnist
from dlspark.cluster.session import spark_session
from dlspark.config.compose import compose
from dlspark.data.manifest import read_manifest
from dlspark.data.readers import Reader
from dlspark.tracking.journal import metric_history, read_events
from pipelines import train

_FILE_BYTES = 30 * 28 * 28
_EPOCHS = 2
_READERS: tuple[Reader, ...] = ("petastorm", "arrow")


def main() -> None:
    """Make both datasets, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, help="mnist.tar.gz: train/0..9/*.png")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="dlspark-benchmark-") as scratch:
        folder = Path(scratch)
        source, usual, many = unpack_mnist(options.mnist, folder), folder / "usual", folder / "many"
        with spark_session("local[2]", "dlspark benchmark") as spark:
            shares = {"val_share": 0.0, "test_share": 0.0}
            run_dlspark(spark, source, SMALL, usual, "raw", **shares)
            run_dlspark(spark, source, SMALL, many, "raw", **shares, file_bytes=_FILE_BYTES)
        for reader in _READERS:
            say_first_batch(many, reader, options.repeats)
        say_waits(usual, folder)


def say_first_batch(dataset: Path, reader: Reader, repeats: int) -> None:
    """Print the seconds to the first batch."""
    seconds = []
    for epoch in range(repeats + 1):
        started = time.perf_counter()
        with open_loader(dataset, "mnist", reader) as loader, closing(loader.batches(epoch)) as batches:
            next(batches)
            seconds.append(time.perf_counter() - started)
    num_files = len(read_manifest(str(dataset)).splits["train"].files)
    timed = seconds[1:]
    say(
        f"first batch, {num_files:,} files, {reader}: {statistics.median(timed):.2f} s "
        f"[{min(timed):.2f} - {max(timed):.2f}]; the first of the process {seconds[0]:.2f} s"
    )


def say_waits(dataset: Path, folder: Path) -> None:
    """Print the share of each epoch that a training waits for data."""
    words = (f"dataset={dataset}", f"run_dir={folder}/run", f"train.epochs={_EPOCHS}", "augment=mirror_crop")
    tracking = (f"tracking.uri=sqlite:///{folder}/mlflow.db", "cluster.backend=local", "train.precision=fp32")
    done = train.run(compose([*words, *tracking, "model=mnist_cnn"]), None)
    curves = metric_history(read_events(done.run_dir))
    steps_of_epoch = done.steps // _EPOCHS
    for epoch in range(_EPOCHS):
        part = slice(epoch * steps_of_epoch, (epoch + 1) * steps_of_epoch)
        names = ("step/data_wait_seconds", "step/compute_seconds", "step/communication_seconds")
        wait, compute, communication = (sum(value for _, value in curves[name][part]) for name in names)
        share = wait / (wait + compute + communication)
        say(f"mnist_cnn, epoch {epoch + 1}: {wait:.2f} s of waiting, {compute:.1f} of computing: {share:.2%}")


if __name__ == "__main__":
    main()
