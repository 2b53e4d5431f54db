"""Ingest against Petastorm's documented way and against the bare limit, in one run.

    python -m benchmarks.ingest --mnist ../shared/data/mnist.tar.gz \\
        --photos ../shared/data/imagenet-sample.tar
    python -m benchmarks.ingest --memory --photos ../shared/data/imagenet-sample.tar
    python -m benchmarks.ingest --driver --mnist ../shared/data/mnist.tar.gz

limit: a plain Python loop of the same read, decode, resize and encode in two processes; no Spark, no listing,
nothing is written. petastorm: materialize_dataset over an RDD map with CompressedImageCodec('png') and the
same decode, on the same local[2] session. dlspark: `ingest` as a user calls it, with listing, hashes, ledger,
checksums and the written dataset. The session is warm; each is run in turn, three times by default.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image
from pyspark.sql import SparkSession

from dlspark.contracts import ImageFormat
from dlspark.data.augment import NO_AUGMENTATION
from dlspark.data.images import decode_image, encode_png
from dlspark.data.ingest import Ingested, ingest
from dlspark.data.ingest_job import IngestOptions
from dlspark.data.parquet_file import npy_header
from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.open import open_source

MAX_PIXELS = 10**8
SMALL = ImageFormat(height=28, width=28, channels=1, resize="none")
PHOTO = ImageFormat(height=256, width=256, channels=3, resize="shorter")


class Silent:
    """A progress display that shows nothing."""

    def update(self, completed: int, total: int, fields: Mapping[str, float] | None = None) -> None:
        """Show nothing."""


def main() -> None:
    """Run the measurements that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="mnist.tar.gz: train/0..9/*.png")
    parser.add_argument("--photos", type=Path, help="imagenet-sample.tar: JPEG photographs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--storage", choices=("raw", "encoded"), default="raw")
    parser.add_argument("--memory", action="store_true", help="peak memory of a Python worker, 12 megapixels")
    parser.add_argument("--driver", action="store_true", help="driver's memory at 6,000 and 60,000 files")
    parser.add_argument("--images", type=int, default=2000, help="of --memory")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)  # Petastorm's, of the old pyarrow that it needs
    if options.child:
        measure_driver(options.child)
        return
    with tempfile.TemporaryDirectory(prefix="dlspark-benchmark-") as scratch:
        folder = Path(scratch)
        if options.memory:
            measure_worker(make_large(options.photos, folder / "large", options.images), folder)
        elif options.driver:
            compare_drivers(unpack_mnist(options.mnist, folder), folder)
        else:
            compare(options, folder)


def compare(options: argparse.Namespace, folder: Path) -> None:
    """Print images/s of the three, for small files and for photographs."""
    workloads = []
    if options.mnist:
        workloads.append(("MNIST, 60,000 PNG of 28x28", unpack_mnist(options.mnist, folder), SMALL))
    if options.photos:
        photos = make_photos(options.photos, folder / "photos")
        workloads.append(("ImageNet sample, 2,004 JPEG, shorter side 256", photos, PHOTO))
    with session() as spark, multiprocessing.get_context("spawn").Pool(2) as pool:
        for name, source, image in workloads:
            files = sorted(str(path) for path in source.rglob("*") if path.is_file())
            runs: dict[str, Callable[[], object]] = {
                "limit": lambda f=files, i=image: run_limit(pool, f, i, options.storage),  # type: ignore[misc]
                "petastorm": lambda f=files, i=image: run_petastorm(spark, f, i, folder / "petastorm"),  # type: ignore[misc]
                "dlspark": lambda s=source, i=image: run_dlspark(
                    spark, s, i, folder / "dlspark", options.storage
                ),  # type: ignore[misc]
            }
            say(f"\n{name}, storage {options.storage}, {options.repeats} runs each, images/s")
            report(runs, len(files), options.repeats, folder)


def report(runs: Mapping[str, Callable[[], object]], num_images: int, repeats: int, folder: Path) -> None:
    """Run each in turn, after one warm-up, and print medians, spread and ratios."""
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
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        say(
            f"  {name:<10} {medians[name]:>9,.0f}  [{min(values):,.0f} - {max(values):,.0f}]"
            f"   dlspark/{name} = {medians['dlspark'] / medians[name]:.2f}"
        )


def run_limit(pool: Any, files: list[str], image: ImageFormat, storage: str) -> None:
    """Read, decode, resize and encode in two processes."""
    half = len(files) // 2
    tasks = [(part, image, storage) for part in (files[:half], files[half:])]
    pool.starmap(_bare_loop, tasks, chunksize=1)


def _bare_loop(files: list[str], image: ImageFormat, storage: str) -> int:
    header = npy_header((image.height, image.width, image.channels))
    num_bytes = 0
    for path in files:
        with open(path, "rb") as file:  # noqa: PTH123 - the bare limit
            data = file.read()
        pixels = decode_image(data, image, max_pixels=MAX_PIXELS)
        num_bytes += len(header + pixels.tobytes() if storage == "raw" else encode_png(pixels))
    return num_bytes


def run_petastorm(spark: SparkSession, files: list[str], image: ImageFormat, output: Path) -> None:
    """Write a dataset the way that Petastorm's documentation and examples show."""
    from petastorm.codecs import CompressedImageCodec, ScalarCodec
    from petastorm.etl.dataset_metadata import materialize_dataset
    from petastorm.unischema import Unischema, UnischemaField, dict_to_spark_row
    from pyspark.sql.types import IntegerType, StringType

    shape = (image.height, image.width) if image.channels == 1 else (image.height, image.width, 3)
    schema = Unischema(
        "Images",
        [
            UnischemaField("key", np.str_, (), ScalarCodec(StringType()), False),
            UnischemaField("label", np.int32, (), ScalarCodec(IntegerType()), False),
            UnischemaField("image", np.uint8, shape, CompressedImageCodec("png"), False),
        ],
    )
    labels = {name: label for label, name in enumerate(sorted({path.split("/")[-2] for path in files}))}

    def row(path: str) -> Any:
        with open(path, "rb") as file:  # noqa: PTH123 - as above
            pixels = decode_image(file.read(), image, max_pixels=MAX_PIXELS)
        values = {"key": path, "label": labels[path.split("/")[-2]], "image": pixels.reshape(shape)}
        return dict_to_spark_row(schema, values)

    url = output.as_uri()
    with materialize_dataset(spark, url, schema, row_group_size_mb=16):
        rows = spark.sparkContext.parallelize(files).map(row)
        spark.createDataFrame(rows, schema.as_spark_schema()).write.mode("overwrite").parquet(url)


def run_dlspark(
    spark: SparkSession, source: Path, image: ImageFormat, output: Path, storage: Any, **changes: Any
) -> Ingested:
    """Ingest as a user does, into three splits."""
    options: dict[str, Any] = {
        "size": None if image.resize == "none" else image.height,
        "channels": image.channels,
        "resize": image.resize,
        "jpeg_scale": True,
        "min_image_size": 1,
        "refuse_constant": True,
        "max_image_bytes": 2**28,
        "max_image_pixels": MAX_PIXELS,
        "classes": None,
        "val_share": 0.1,
        "test_share": 0.1,
        "split_seed": 0,
        "stratify": False,
        "duplicates": "drop",
        "copies": 0,
        "augmentation": NO_AUGMENTATION,
        "storage": storage,
        "raw_budget_bytes": 2**33,
        "file_bytes": 2**24,
        "num_streams": 16,
        "max_quarantined": 0.0,
    }
    return ingest(
        spark,
        source=open_source(str(source), columns=SourceColumns(), max_image_bytes=2**28),
        dataset=str(output),
        overwrite=True,
        options=IngestOptions(**{**options, **changes}),
        request={},
        progress=Silent(),
    )


def measure_worker(source: Path, folder: Path) -> None:
    """Print the peak memory of a Python worker that decodes 12-megapixel photographs in full."""
    with session() as spark, peak_of_workers() as peak:
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
        subprocess.run([sys.executable, "-m", "benchmarks.ingest", "--child", files], check=True)


def measure_driver(source: Path) -> None:
    """Print the peak memory of the driver's Python process and what its JVM holds in the end."""
    with tempfile.TemporaryDirectory() as output, session() as spark:
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


@contextmanager
def session() -> Iterator[SparkSession]:
    """Give a local session with two task slots."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").appName("dlspark benchmark")  # type: ignore[attr-defined]
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": "4g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.log.level": "ERROR",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark: SparkSession = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()


def unpack_mnist(archive: Path, folder: Path) -> Path:
    """Unpack the 60,000 training images of MNIST as class folders."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "mnist", filter="data")
    return next(path for path in (folder / "mnist").rglob("train") if path.is_dir())


def make_photos(archive: Path, folder: Path, copies: int = 6) -> Path:
    """Unpack the photographs into ten class folders, six times, each file with bytes of its own at its end.

    Bytes after a JPEG's end change its hash and nothing of its decoding.
    """
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "as-they-came", filter="data")
    names = sorted(path for path in (folder / "as-they-came").rglob("*") if path.suffix.lower() == ".jpeg")
    for index, path in enumerate(names):
        data = path.read_bytes()
        target = folder / "classes" / str(index % 10)
        target.mkdir(parents=True, exist_ok=True)
        for copy in range(copies):
            (target / f"{index:04d}-{copy}.jpeg").write_bytes(data + copy.to_bytes(4, "big"))
    return folder / "classes"


def make_large(archive: Path, folder: Path, number: int) -> Path:
    """Make JPEG files of 4,000 x 3,000 pixels out of ten photographs."""
    photos = make_photos(archive, folder / "photos", copies=1)
    large = []
    for path in sorted(photos.rglob("*.jpeg"))[:10]:
        target = folder / f"{path.stem}.jpeg"
        Image.open(path).convert("RGB").resize((4000, 3000)).save(target, quality=90)
        large.append(target.read_bytes())
    for index in range(number):
        target = folder / "classes" / str(index % 2) / f"{index:05d}.jpeg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(large[index % len(large)] + index.to_bytes(4, "big"))
    return folder / "classes"


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
