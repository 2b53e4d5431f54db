from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dlspark.contracts import ImageFormat
from dlspark.data.images import ImageError, decode_image, decode_stored, encode_png, measure_image

MAX_PIXELS = 10_000
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def decode(
    data: bytes, *, channels: int = 3, height: int = 6, width: int = 9, resize: str = "none"
) -> np.ndarray:
    image = ImageFormat(height=height, width=width, channels=channels, resize=resize)  # type: ignore[arg-type]
    pixels = decode_image(data, image, max_pixels=MAX_PIXELS)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (height, width, channels)
    return pixels


def reason_of(data: bytes, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)  # type: ignore[arg-type]
    return caught.value.reason


def test_rgb_and_gray_keep_their_values() -> None:
    assert (decode(file_of(Image.fromarray(RGB))) == RGB).all()
    assert (decode(file_of(Image.fromarray(GRAY)), channels=1)[:, :, 0] == GRAY).all()
    assert (decode(file_of(Image.fromarray(GRAY))) == GRAY[:, :, np.newaxis]).all()


def test_rgb_becomes_luma() -> None:
    luma = np.asarray(Image.fromarray(RGB).convert("L"))
    assert (decode(file_of(Image.fromarray(RGB)), channels=1)[:, :, 0] == luma).all()
    expected = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luma - expected).max() <= 1


def test_one_bit_is_black_and_white() -> None:
    bits = GRAY > 128
    assert (decode(file_of(Image.fromarray(bits)), channels=1)[:, :, 0] == bits * 255).all()


def test_a_palette_becomes_its_colours() -> None:
    image = Image.fromarray(RGB).quantize(54)
    assert (decode(file_of(image)) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    alpha = np.zeros((6, 9), dtype=np.uint8)
    alpha[:, 4:] = 255
    image = Image.fromarray(np.dstack([GRAY, GRAY, GRAY, alpha]))
    if mode == "P":
        image = Image.fromarray(GRAY).convert("P")
        data = file_of(image, transparency=int(GRAY[0, 0]))
        clear = GRAY[0, 0]
        assert (decode(data)[clear == GRAY] == 255).all()
        return
    pixels = decode(file_of(image.convert(mode)))
    assert (pixels[:, :4] == 255).all()
    assert (pixels[:, 4:] == GRAY[:, 4:, np.newaxis]).all()


def test_half_transparent_lies_half_way_to_white() -> None:
    image = Image.new("RGBA", (9, 6), (100, 0, 200, 128))
    assert np.abs(decode(file_of(image))[0, 0].astype(int) - (177, 127, 227)).max() <= 1


def test_sixteen_bits_are_rounded_to_eight() -> None:
    deep = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
    for kind in ("PNG", "TIFF"):
        pixels = decode(file_of(Image.fromarray(deep), kind), channels=1)
        assert (pixels[:, :, 0] == np.rint(deep / 257)).all()


def test_cmyk_becomes_rgb() -> None:
    image = Image.fromarray(RGB).convert("CMYK")
    assert (decode(file_of(image, "TIFF")) == np.asarray(image.convert("RGB"))).all()


def test_exif_orientation_is_applied_before_the_size_is_compared() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    data = file_of(Image.fromarray(RGB), exif=exif)
    assert (decode(data, height=9, width=6) == np.rot90(RGB, -1)).all()
    assert measure_image(data, max_pixels=MAX_PIXELS) == (9, 6, 3)


def test_the_first_frame_counts() -> None:
    frames = [Image.new("L", (9, 6), value) for value in (10, 200)]
    data = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data, channels=1) == 10).all()


def test_resize_is_exact_and_averages_when_it_shrinks() -> None:
    stripes = np.zeros((60, 90), dtype=np.uint8)
    stripes[:, ::2] = 200
    pixels = decode(file_of(Image.fromarray(stripes)), channels=1, resize="exact")
    assert np.abs(pixels[:, 1:-1].astype(int) - 100).max() <= 12


def test_another_size_is_refused_where_none_is_to_be_resized() -> None:
    assert reason_of(file_of(Image.new("L", (6, 9)))) == "wrong_size"


def test_no_bytes() -> None:
    assert reason_of(b"") == "zero_size"


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_has_no_header(data: bytes) -> None:
    assert reason_of(data) == "unreadable_header"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_a_file_cut_short_is_refused_and_not_half_decoded(kind: str) -> None:
    data = file_of(Image.fromarray(RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)), kind)
    assert reason_of(data[: len(data) * 2 // 3], height=60, width=90) in (
        "truncated_body",
        "unreadable_header",
    )


def test_a_png_with_one_flipped_byte_in_its_pixels_is_refused() -> None:
    data = bytearray(file_of(Image.fromarray(RGB), compress_level=0))
    data[data.index(b"IDAT") + 40] ^= 1
    assert reason_of(bytes(data)) == "truncated_body"


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 200, 51, 8, 0, 0, 0, 0)  # 10,200 pixels, and none of them follows
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert reason_of(data) == "bomb"


def test_floating_point_has_no_documented_meaning() -> None:
    assert reason_of(file_of(Image.fromarray(GRAY.astype(np.float32)), "TIFF")) == "unsupported_mode"


@pytest.mark.parametrize(
    ("image", "channels"),
    [(Image.fromarray(GRAY), 1), (Image.fromarray(RGB), 3), (Image.new("1", (9, 6)), 1)],
)
def test_measure_tells_gray_from_colour(image: Image.Image, channels: int) -> None:
    assert measure_image(file_of(image), max_pixels=MAX_PIXELS) == (6, 9, channels)


@pytest.mark.parametrize("pixels", [RGB, GRAY[:, :, np.newaxis]])
def test_png_keeps_every_pixel(pixels: np.ndarray) -> None:
    assert (decode_stored(encode_png(pixels)) == pixels).all()


def test_an_error_survives_the_way_from_executor_to_driver() -> None:
    error = pickle.loads(pickle.dumps(ImageError("bomb", "too big")))  # noqa: S301 - our own bytes
    assert (error.reason, str(error)) == ("bomb", "bomb: too big")
