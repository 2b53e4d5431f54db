"""What an ingest takes of memory: in a Python worker with large images, in the driver with many files.

    python -m benchmarks.ingest_memory --photos ../shared/data/imagenet-sample.tar
    python -m benchmarks.ingest_memory --mnist ../shared/data/mnist.tar.gz

With photos: 2,000 JPEG of 12 megapixels, decoded in full, and the peak of a Python worker of Spark, looked at
every 20 ms. With MNIST: 6,000 and 60,000 files, each in a process of its own, and the peak of the driver.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.runs import run_dlspark, say
from benchmarks.workloads import PHOTO, SMALL, make_large, unpack_mnist
from dlspark.cluster.session import spark_session


def main() -> None:
    """Run the measurement that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="mnist.tar.gz: train/0..9/*.png")
    parser.add_argument("--photos", type=Path, help="imagenet-sample.tar: JPEG photographs")
    parser.add_argument("--images", type=int, default=2000, help="made of the photographs")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure_driver(options.child)
        return
    with tempfile.TemporaryDirectory(prefix="dlspark-benchmark-") as scratch:
        folder = Path(scratch)
        if options.photos:
            measure_worker(make_large(options.photos, folder / "large", options.images), folder)
        if options.mnist:
            compare_drivers(unpack_mnist(options.mnist, folder), folder)


def measure_worker(source: Path, folder: Path) -> None:
    """Print the peak memory of a Python worker that decodes 12-megapixel photographs in full."""
    with spark_session("local[2]", "dlspark benchmark") as spark, peak_of_workers() as peak:
        started = time.perf_counter()
        done = run_dlspark(spark, source, PHOTO, folder / "dlspark", "raw", jpeg_scale=False)
        seconds = time.perf_counter() - started
    say(
        f"{done.manifest.counts.written:,} JPEG of 12 megapixels in {seconds:.0f} s, "
        f"peak of a Python worker {peak[0] / 2**20:.0f} MiB"
    )


@contextmanager
def peak_of_workers() -> Iterator[list[int]]:
    """Give the largest resident memory of a Python worker of Spark, in bytes, looked at every 20 ms."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            for process in psutil.Process().children(recursive=True):
                try:
                    if "pyspark.daemon" in " ".join(process.cmdline()):
                        peak[0] = max(peak[0], process.memory_info().rss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def compare_drivers(source: Path, folder: Path) -> None:
    """Print the driver's memory for a tenth of the files and for all of them, each in its own process."""
    tenth = folder / "tenth"
    for path in sorted(source.rglob("*.png"))[::10]:
        target = tenth / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(path, target)
    for files in (tenth, source):
        subprocess.run([sys.executable, "-m", "benchmarks.ingest_memory", "--child", files], check=True)


def measure_driver(source: Path) -> None:
    """Print the peak memory of the driver's Python process and what its JVM holds in the end."""
    with tempfile.TemporaryDirectory() as output, spark_session("local[2]", "dlspark benchmark") as spark:
        before = psutil.Process().memory_info().rss
        done = run_dlspark(spark, source, SMALL, Path(output) / "dataset", "raw")
        peak = max(psutil.Process().memory_info().rss, _peak_rss())
        runtime = spark.sparkContext._jvm.java.lang.Runtime.getRuntime()  # type: ignore[union-attr]
        spark.sparkContext._jvm.java.lang.System.gc()  # type: ignore[union-attr]
        held = runtime.totalMemory() - runtime.freeMemory()
    say(
        f"{done.manifest.counts.listed:>7,} files: Python driver {before / 2**20:.0f} MiB before, "
        f"peak {peak / 2**20:.0f} MiB; JVM holds {held / 2**20:.0f} MiB after"
    )


def _peak_rss() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
