"""Those who turn files into arrays in the benchmark of the ingest: the bare loop, Petastorm, and dlspark."""

from __future__ import annotations

import io
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pyspark.sql import SparkSession

from benchmarks.runs import MAX_PIXELS
from dlspark.cluster.session import spark_session
from dlspark.contracts import ImageFormat
from dlspark.data.images import decode_image, encode_png
from dlspark.data.parquet_file import npy_header


@contextmanager
def two_processes() -> Iterator[Any]:
    """Give a pool of two processes."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        yield pool


@contextmanager
def spark_as_it_comes() -> Iterator[SparkSession]:
    """Give a session with two task slots and Spark's own settings."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    warnings.simplefilter("ignore", FutureWarning)  # Petastorm's, of the old pyarrow that it needs
    builder = SparkSession.builder.master("local[2]").config("spark.driver.memory", "4g")  # type: ignore[attr-defined]
    builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.log.level", "ERROR")
    spark: SparkSession = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()


def spark_of_dlspark() -> AbstractContextManager[SparkSession]:
    """Give the session that dlspark opens for local[2]."""
    return spark_session("local[2]", "dlspark benchmark")


def run_limit(
    pool: Any, files: list[str], image: ImageFormat, storage: str, decoder: str = "dlspark"
) -> None:
    """Read, decode, resize and encode in two processes; `decoder` is dlspark or pillow."""
    half = len(files) // 2
    tasks = [(part, image, storage, decoder) for part in (files[:half], files[half:])]
    pool.starmap(_bare_loop, tasks, chunksize=1)


def _bare_loop(files: list[str], image: ImageFormat, storage: str, decoder: str) -> int:
    header = npy_header((image.height, image.width, image.channels))
    num_bytes = 0
    for path in files:
        with open(path, "rb") as file:  # noqa: PTH123 - the bare limit
            data = file.read()
        if decoder == "pillow":
            pixels = _decode_with_pillow(data, image)
        else:
            pixels = decode_image(data, image, max_pixels=MAX_PIXELS)
        num_bytes += len(header + pixels.tobytes() if storage == "raw" else encode_png(pixels))
    return num_bytes


def _decode_with_pillow(data: bytes, image: ImageFormat) -> NDArray[np.uint8]:
    """Return the pixels of the centre, scaled to the size of the dataset."""
    with Image.open(io.BytesIO(data)) as picture:
        mode = "L" if image.channels == 1 else "RGB"
        if image.resize == "none":
            return np.asarray(picture.convert(mode))
        picture.draft(mode, (image.width, image.height))
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        size = (image.width, image.height)
        return np.asarray(picture.convert(mode).resize(size, Image.Resampling.BILINEAR, box))


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
        values = {"key": path, "label": labels[path.split("/")[-2]], "image": _read_with_cv2(path, image)}
        return dict_to_spark_row(schema, values)

    url = output.as_uri()
    with materialize_dataset(spark, url, schema, row_group_size_mb=16):
        rows = spark.sparkContext.parallelize(files).map(row)
        spark.createDataFrame(rows, schema.as_spark_schema()).write.mode("overwrite").parquet(url)


def _read_with_cv2(path: str, image: ImageFormat) -> NDArray[np.uint8]:
    """Return the pixels of the centre, scaled to the size of the dataset."""
    import cv2

    pixels = cv2.imread(path, cv2.IMREAD_GRAYSCALE if image.channels == 1 else cv2.IMREAD_COLOR)
    if image.resize == "none":
        return pixels  # type: ignore[return-value] # cv2 says any number
    height, width = pixels.shape[:2]  # type: ignore[union-attr] # None: not an image
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    centre = pixels[top : top + side, left : left + side]  # type: ignore[index] # as above
    return cv2.resize(centre, (image.width, image.height), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
