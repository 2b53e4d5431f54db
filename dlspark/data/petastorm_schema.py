"""What makes the Parquet files a Petastorm dataset: its schema (Unischema), stored in `_common_metadata`.

`petastorm.make_reader` then gives typed rows with the pixels as arrays. It unpickles that schema when it
opens a folder, so it is for datasets one wrote oneself; dlspark itself never opens a dataset that way (see
readers). Petastorm's own `materialize_dataset` writes the same two entries, but runs a Spark task for each
file to count its row groups, which are known here, and leaves the session's Hadoop settings changed where it
fails.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from petastorm.codecs import CompressedImageCodec, DataframeColumnCodec, NdarrayCodec, ScalarCodec
from petastorm.etl.dataset_metadata import ROW_GROUPS_PER_FILE_KEY, UNISCHEMA_KEY
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.unischema import Unischema, UnischemaField
from petastorm.utils import add_to_dataset_metadata
from pyspark.sql.types import IntegerType, LongType, StringType

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data.parquet_file import Storage


def dataset_schema(image: ImageFormat, form: Storage) -> Unischema:
    """Return the Petastorm schema of a dataset.

    `image` is a uint8 array: [H, W, C] for storage raw; for storage encoded [H, W, 3], or [H, W] for gray, as
    Petastorm's image codec gives it (with OpenCV, which is an extra of Petastorm).
    """
    shape: tuple[int, ...] = (image.height, image.width, image.channels)
    codec: DataframeColumnCodec = NdarrayCodec()
    if form == "encoded":
        codec = _png_codec()
        shape = shape if image.channels > 1 else shape[:2]
    return Unischema(
        "DlsparkRow",
        [
            UnischemaField("row_id", np.int64, (), ScalarCodec(LongType()), False),
            UnischemaField("key", np.str_, (), ScalarCodec(StringType()), False),
            UnischemaField("label", np.int32, (), ScalarCodec(IntegerType()), False),
            UnischemaField("image", np.uint8, shape, codec, False),
        ],
    )


def add_schema(dataset: str, schema: Unischema, files: Sequence[str]) -> None:
    """Add Petastorm's metadata to a folder of complete Parquet files.

    Args:
        dataset: URL of the folder; it holds no `_common_metadata` yet.
        schema: of its rows.
        files: paths of all files, relative to the folder; each has one row group.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pyarrow's, of its legacy file systems and dataset
        filesystem, path = get_filesystem_and_path_or_paths(storage.as_uri(dataset), hdfs_driver="libhdfs")
        opened = pq.ParquetDataset(path, filesystem=filesystem, validate_schema=False)
        add_to_dataset_metadata(opened, UNISCHEMA_KEY, pickle.dumps(schema))
        add_to_dataset_metadata(opened, ROW_GROUPS_PER_FILE_KEY, json.dumps(dict.fromkeys(files, 1)))


def _png_codec() -> CompressedImageCodec:
    # Its constructor demands OpenCV, which only its encode() and decode() use; the description needs none.
    codec = CompressedImageCodec.__new__(CompressedImageCodec)
    codec._image_codec, codec._quality = ".png", 80
    return codec
