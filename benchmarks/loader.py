"""The loader against the peers and against an array in memory, in one run.

    python -m benchmarks.loader --mnist ../shared/data/mnist.tar.gz

An epoch of MNIST's 60,000 training images in shuffled batches of 128, each image cropped at random out of a
padding of 2 and mirrored with probability 1/2, normalised, as float32 tensors; nothing is done with them.
memory: an array, the same augmentation in as many threads as there are cores; the limit. dlspark: a dataset
with storage raw, through each reader. torchvision: ImageFolder on the PNG files and a DataLoader with a
worker for each core. Each is a process of its own, run in turn after one warm-up, and compared turn by turn.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.loader_peers import read_dataset, read_folder, read_memory, unprepared
from benchmarks.peers import Peer
from benchmarks.runs import run_dlspark, say
from benchmarks.workloads import SMALL, unpack_mnist
from dlspark.cluster.session import spark_session

BATCH_SIZE = 128


def main() -> None:
    """Make the dataset, then run everybody in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True, help="mnist.tar.gz: train/0..9/*.png")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="dlspark-benchmark-") as scratch:
        source = unpack_mnist(options.mnist, Path(scratch))
        dataset = Path(scratch) / "dataset"
        with spark_session("local[2]", "dlspark benchmark") as spark:
            run_dlspark(spark, source, SMALL, dataset, "raw", val_share=0.0, test_share=0.0)
        say(f"MNIST, 60,000 images, batches of {BATCH_SIZE}, crop and mirror, images/s")
        with (
            Peer(unprepared, read_memory) as memory,
            Peer(unprepared, read_dataset) as dlspark,
            Peer(unprepared, read_folder) as folder,
        ):
            runs: dict[str, Callable[[int], None]] = {
                "memory": partial(memory.run, dataset, BATCH_SIZE, os.cpu_count()),
                "dlspark petastorm": partial(dlspark.run, dataset, BATCH_SIZE, "petastorm"),
                "dlspark arrow": partial(dlspark.run, dataset, BATCH_SIZE, "arrow"),
                "torchvision": partial(folder.run, source, BATCH_SIZE, os.cpu_count()),
            }
            report(runs, 60_000, options.repeats)


def report(runs: Mapping[str, Callable[[int], None]], num_images: int, repeats: int) -> None:
    """Run each in turn with the number of the epoch; print medians and spread of rates and of ratios."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run(repeat)
            if repeat:
                rates[name].append(num_images / (time.perf_counter() - started))
    for name, values in rates.items():
        line = f"  {name:<18} {statistics.median(values):>9,.0f}  [{min(values):,.0f} - {max(values):,.0f}]"
        for limit in ("memory", "torchvision"):
            ratios = [mine / theirs for mine, theirs in zip(values, rates[limit], strict=True)]
            line += f"  / {limit} {statistics.median(ratios):.2f} [{min(ratios):.2f} - {max(ratios):.2f}]"
        say(line)


if __name__ == "__main__":
    main()
