"""What makes the Parquet files a Petastorm dataset: its schema (Unischema), stored in `_common_metadata`.

`petastorm.make_reader` then gives typed rows with the pixels as arrays. It unpickles that schema when it
opens a folder, so it is for datasets one wrote oneself; dlspark itself never opens a dataset that way (see
readers). Petastorm's own `materialize_dataset` writes the same two entries, but runs a Spark task for each
file to count its row groups, which are known here, and leaves the session's Hadoop settings changed where it
fails.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
from petastorm.codecs import CompressedImageCodec, DataframeColumnCodec, NdarrayCodec, ScalarCodec
from petastorm.etl.dataset_metadata import ROW_GROUPS_PER_FILE_KEY, UNISCHEMA_KEY
from petastorm.unischema import Unischema, UnischemaField
from pyspark.sql.types import BinaryType, IntegerType, LongType, StringType

from dlspark import storage
from dlspark.contracts import ImageFormat
from dlspark.data.parquet_file import SCHEMA, Storage

SCHEMA_NAME = "_common_metadata"


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
            UnischemaField("parent_id", np.int64, (), ScalarCodec(LongType()), False),
            UnischemaField("pixel_hash", np.bytes_, (), ScalarCodec(BinaryType()), False),
            UnischemaField("source_hash", np.bytes_, (), ScalarCodec(BinaryType()), False),
            UnischemaField("source_bytes", np.int64, (), ScalarCodec(LongType()), False),
            UnischemaField("source_version", np.int64, (), ScalarCodec(LongType()), False),
            UnischemaField("source_height", np.int32, (), ScalarCodec(IntegerType()), False),
            UnischemaField("source_width", np.int32, (), ScalarCodec(IntegerType()), False),
        ],
    )


def add_schema(dataset: str, schema: Unischema, files: Sequence[str]) -> None:
    """Add Petastorm's metadata to a folder of complete Parquet files.

    Args:
        dataset: URL of the folder.
        schema: of its rows.
        files: paths of all files, relative to the folder; each has one row group.
    """
    entries = {
        UNISCHEMA_KEY: pickle.dumps(schema),
        ROW_GROUPS_PER_FILE_KEY: json.dumps(dict.fromkeys(files, 1)),
    }
    target = io.BytesIO()
    pq.write_metadata(SCHEMA.with_metadata(entries), target)
    storage.write_bytes(storage.join(dataset, SCHEMA_NAME), target.getvalue())


def _png_codec() -> CompressedImageCodec:
    # Its constructor demands OpenCV, which only its encode() and decode() use; the description needs none.
    codec = CompressedImageCodec.__new__(CompressedImageCodec)
    codec._image_codec, codec._quality = ".png", 80
    return codec
