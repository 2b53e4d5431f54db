"""Ingest against Petastorm's documented way and against the bare limit, in one run.

    python -m benchmarks.ingest --mnist ../shared/data/mnist.tar.gz \\
        --photos ../shared/data/imagenet-sample.tar

limit: a plain Python loop of the same read, decode, resize and encode in two processes; no Spark, no
listing, nothing is written. Its decoder is dlspark's own, which has a shorter way for plain PNG files.
pillow: the same loop as one writes it with Pillow. petastorm: as its ImageNet example does,
materialize_dataset over an RDD map with cv2.imread and CompressedImageCodec('png'), with cv2.resize in
between. dlspark: `ingest` as a user calls it, with listing, hashes, ledger, checksums and the written
dataset. Each is a process of its own, with local[2] as its users have it: Spark as it comes, or the session
that dlspark opens. All are warm; each is run in turn, three times by default, and compared turn by turn.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.ingest_peers import (
    run_limit,
    run_petastorm,
    spark_as_it_comes,
    spark_of_dlspark,
    two_processes,
)
from benchmarks.peers import Peer
from benchmarks.runs import run_dlspark, say
from benchmarks.workloads import PHOTO, SMALL, make_photos, unpack_mnist


def main() -> None:
    """Run the measurements that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="mnist.tar.gz: train/0..9/*.png")
    parser.add_argument("--photos", type=Path, help="imagenet-sample.tar: JPEG photographs")
    parser.add_argument("--copies", type=int, default=6, help="of each photograph, with bytes of their own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--storage", choices=("raw", "encoded"), default="raw")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="dlspark-benchmark-") as scratch:
        compare(options, Path(scratch))


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Print images/s of the four, for small files and for photographs."""
    workloads = []
    if options.mnist:
        workloads.append(("MNIST, 60,000 PNG of 28x28", unpack_mnist(options.mnist, folder), SMALL))
    if options.photos:
        photos = make_photos(options.photos, folder / "photos", copies=options.copies)
        workloads.append(("ImageNet sample, JPEG, shorter side 256", photos, PHOTO))
    with (
        Peer(two_processes, run_limit) as limit,
        Peer(spark_as_it_comes, run_petastorm) as petastorm,
        Peer(spark_of_dlspark, run_dlspark) as dlspark,
    ):
        for name, source, image in workloads:
            files = sorted(str(path) for path in source.rglob("*") if path.is_file())
            runs: dict[str, Callable[[], None]] = {
                "limit": partial(limit.run, files, image, options.storage),
                "pillow": partial(limit.run, files, image, options.storage, "pillow"),
                "petastorm": partial(petastorm.run, files, image, folder / "petastorm"),
                "dlspark": partial(dlspark.run, source, image, folder / "dlspark", options.storage),
            }
            say(f"\n{name}, {len(files):,} files, storage {options.storage}, images/s")
            report(runs, len(files), options.repeats, folder)


def report(runs: Mapping[str, Callable[[], None]], num_images: int, repeats: int, folder: Path) -> None:
    """Run each in turn, after one warm-up, and print medians and spread of rates and of ratios."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            for output in ("petastorm", "dlspark"):
                shutil.rmtree(folder / output, ignore_errors=True)
            os.sync()
            started = time.perf_counter()
            run()
            if repeat:
                rates[name].append(num_images / (time.perf_counter() - started))
    for name, values in rates.items():
        ratios = [ours / theirs for ours, theirs in zip(rates["dlspark"], values, strict=True)]
        say(
            f"  {name:<10} {statistics.median(values):>9,.0f}  [{min(values):,.0f} - {max(values):,.0f}]"
            f"   dlspark/{name} {statistics.median(ratios):.2f}  [{min(ratios):.2f} - {max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
