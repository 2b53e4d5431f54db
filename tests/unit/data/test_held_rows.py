"""A row that is held encoded gives the pixels that ingest described, whichever decoder gives them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dlspark.contracts import ImageFormat
from dlspark.data.columns import FileColumns
from dlspark.data.held_rows import EncodedRows
from dlspark.data.images import decode_stored
from dlspark.errors import DatasetError

HEIGHT, WIDTH = 37, 53


def jpeg_of(channels: int, **options: Any) -> bytes:
    random = np.random.default_rng(channels).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    picture = Image.fromarray(random[..., 0] if channels == 1 else random).resize((WIDTH, HEIGHT))
    target = io.BytesIO()
    picture.save(target, "JPEG", **options)
    return target.getvalue()


def held(data: bytes, channels: Any) -> EncodedRows:
    columns = FileColumns(row_ids=np.array([11]), labels=np.array([0]), images=pa.array([data], pa.binary()))
    image = ImageFormat(height=HEIGHT, width=WIDTH, channels=channels, resize="none")
    return EncodedRows(columns, image, "part-0.parquet")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options", [{"quality": 30}, {"quality": 95}, {"subsampling": "4:4:4"}, {"progressive": True}], ids=str
)
def test_a_jpeg_is_decoded_to_the_pixels_of_ingest(channels: int, options: dict[str, Any]) -> None:
    data = jpeg_of(channels, **options)
    pixels = np.empty((2, HEIGHT, WIDTH, channels), dtype=np.uint8)
    held(data, channels).read(np.array([0, 0]), pixels)
    assert (pixels == decode_stored(data)).all()


def test_a_damaged_jpeg_is_named_with_its_row_and_file() -> None:
    pixels = np.empty((1, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with pytest.raises(DatasetError, match=r"row 0 \(row id 11\).*part-0\.parquet"):
        held(jpeg_of(3)[:40], 3).read(np.array([0]), pixels)
