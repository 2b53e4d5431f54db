"""Broken and unwanted files, each with the one reason it must be refused for."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dlspark.contracts import ImageFormat
from dlspark.data.images import ImageError, decode_for_ingest, decode_image, decode_stored, encode_png

pytestmark = pytest.mark.faults(scenario=4)

GOLDEN = Path(__file__).parent / "golden"
NOISE = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
MAX_PIXELS = 10_000


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def reason_of(
    data: bytes, *, height: int = 60, width: int = 90, channels: int = 3, resize: str = "none"
) -> str:
    image = ImageFormat(height=height, width=width, channels=channels, resize=resize)  # type: ignore[arg-type]
    with pytest.raises(ImageError) as caught:
        decode_image(data, image, max_pixels=MAX_PIXELS)
    return caught.value.reason


def ingest(
    data: bytes, *, min_size: int = 1, refuse_constant: bool = True, resize: str = "pad"
) -> np.ndarray:
    image = ImageFormat(height=8, width=12, channels=3, resize=resize)  # type: ignore[arg-type]
    return decode_for_ingest(
        data, image, max_pixels=MAX_PIXELS, min_size=min_size, refuse_constant=refuse_constant
    ).pixels


def bomb(side: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("PPM", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
@pytest.mark.parametrize("resize", ["none", "shorter"])
def test_a_body_cut_short(kind: str, options: dict[str, bool], resize: str) -> None:
    data = file_of(Image.fromarray(NOISE), kind, **options)
    assert reason_of(data[: len(data) * 2 // 3], resize=resize, height=60, width=90) == "truncated_body"


def test_a_tiff_cut_short_has_lost_its_directory_or_its_rows() -> None:
    at_the_end = file_of(Image.fromarray(NOISE), "TIFF", compression="tiff_lzw")
    assert at_the_end[4:8] != b"\x08\0\0\0"
    assert reason_of(at_the_end[: len(at_the_end) * 2 // 3]) == "unreadable_header"
    in_front = file_of(Image.fromarray(NOISE), "TIFF")
    assert in_front[4:8] == b"\x08\0\0\0"
    assert reason_of(in_front[: len(in_front) * 2 // 3]) == "truncated_body"


def test_a_reduced_jpeg_cut_short() -> None:
    data = file_of(Image.fromarray(NOISE), "JPEG")
    assert reason_of(data[: len(data) * 2 // 3], height=7, width=7, resize="exact") == "truncated_body"


def test_a_cmyk_jpeg_cut_short() -> None:
    data = (GOLDEN / "cmyk_adobe.jpg").read_bytes()
    assert reason_of(data[:-60], height=16, width=24) == "truncated_body"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero_size"),
        (b"\0", "unreadable_header"),
        (b"This is the text of photo.jpg\n", "unreadable_header"),
        (b"<html><body>404 Not Found</body></html>", "unreadable_header"),
        (b"\x89PNG\r\n\x1a\n", "unreadable_header"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0", "unreadable_header"),
        (file_of(Image.fromarray(NOISE))[:33], "unreadable_header"),  # signature and IHDR
        (file_of(Image.fromarray(NOISE), "BMP")[:54], "truncated_body"),
        (file_of(Image.fromarray(NOISE), "GIF")[:13], "unreadable_header"),
    ],
)
def test_no_more_than_a_header(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


@pytest.mark.parametrize(
    ("name", "shift", "reason"),
    [
        (b"IHDR", 4, "unreadable_header"),
        (b"IDAT", 40, "truncated_body"),
        (b"IEND", 4, "truncated_body"),
    ],
)
def test_a_damaged_chunk_of_a_png(name: bytes, shift: int, reason: str) -> None:
    data = bytearray(file_of(Image.fromarray(NOISE), compress_level=0))
    data[data.index(name) + shift] ^= 1
    assert reason_of(bytes(data)) == reason


def test_a_png_without_its_end() -> None:
    data = file_of(Image.fromarray(NOISE))
    assert reason_of(data[:-12]) == "truncated_body"


@pytest.mark.parametrize("side", [101, 50_000])
@pytest.mark.parametrize("resize", ["none", "exact"])
def test_a_small_file_that_declares_many_pixels(side: int, resize: str) -> None:
    assert reason_of(bomb(side), resize=resize) == "bomb"


@pytest.mark.parametrize(("side", "reason"), [(100, "truncated_body"), (101, "bomb")])
def test_a_jpeg_counts_with_its_full_size_also_where_it_is_reduced(side: int, reason: str) -> None:
    data = file_of(Image.new("RGB", (side, side)), "JPEG")[:-20]
    assert reason_of(data, height=8, width=8, resize="exact") == reason


def test_a_damaged_exif_block_counts_as_none() -> None:
    data = file_of(Image.fromarray(NOISE), "PNG", exif=b"Exif\0\0no block at all")
    image = ImageFormat(height=60, width=90, channels=3, resize="none")
    assert (decode_image(data, image, max_pixels=MAX_PIXELS) == NOISE).all()


def test_the_shorter_side_of_the_original_counts_for_the_smallest_size() -> None:
    data = file_of(Image.fromarray(NOISE))
    ingest(data, min_size=60)
    with pytest.raises(ImageError, match=r"60 x 90 .* must have 61") as caught:
        ingest(data, min_size=61)
    assert caught.value.reason == "below_minimum_size"


@pytest.mark.parametrize("resize", ["exact", "shorter", "pad"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("image", [Image.new("L", (30, 30), 7), Image.new("RGB", (30, 30), (9, 130, 30))])
def test_an_image_of_one_colour_is_refused_by_ingest_only(image: Image.Image, kind: str, resize: str) -> None:
    data = file_of(image, kind)
    with pytest.raises(ImageError) as caught:
        ingest(data, resize=resize)
    assert caught.value.reason == "constant_image"
    kept = ingest(data, resize=resize, refuse_constant=False)
    served = ImageFormat(height=8, width=12, channels=3, resize=resize)  # type: ignore[arg-type]
    assert (decode_image(data, served, max_pixels=MAX_PIXELS) == kept).all()


def test_one_other_pixel_in_one_channel_is_enough() -> None:
    pixels = np.full((8, 12, 3), 50, dtype=np.uint8)
    pixels[7, 11, 2] = 51
    assert (ingest(encode_png(pixels)) == pixels).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated_body"),
        (b"GIF89a", "truncated_body"),
        (encode_png(NOISE)[:500], "truncated_body"),
        (file_of(Image.fromarray(NOISE).convert("RGBA")), "unsupported_mode"),
        (file_of(Image.fromarray(NOISE).convert("P")), "unsupported_mode"),
    ],
)
def test_what_no_ingest_has_stored(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_stored(data)
    assert caught.value.reason == reason
