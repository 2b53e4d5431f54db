"""The shortcut for plain PNG files gives what Pillow's reader gives, and leaves everything else to it."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from dlspark.data.plain_png import read_plain_png


def png(mode: str, size: tuple[int, int] = (9, 7), **options: Any) -> bytes:
    height_width = size[::-1]
    channels = {"L": (), "1": (), "I;16": ()}.get(mode, (len(mode),))
    kind = np.uint16 if mode == "I;16" else np.uint8
    values = np.random.default_rng(0).integers(0, 256, (*height_width, *channels)).astype(kind)
    target = io.BytesIO()
    Image.fromarray(values > 127 if mode == "1" else values).save(target, "PNG", **options)
    return target.getvalue()


def read(data: bytes) -> Image.Image | None:
    return read_plain_png(data, max_pixels=1000, min_size=1)


def split_idat(data: bytes) -> bytes:
    """Cut the one IDAT chunk of a file into two."""
    at = data.index(b"IDAT") - 4
    length = int.from_bytes(data[at : at + 4])
    content, rest = data[at + 8 : at + 8 + length], data[at + 12 + length :]
    return data[:at] + chunk(b"IDAT", content[:5]) + chunk(b"IDAT", content[5:]) + rest


def chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def with_chunk(data: bytes, added: bytes) -> bytes:
    return data[:33] + added + data[33:]


PLAIN = {
    "gray": png("L"),
    "colour": png("RGB"),
    "one pixel": png("L", (1, 1)),
    "two parts": split_idat(png("RGB")),
    "resolution": png("L", dpi=(72, 72)),
    "bytes behind the end": png("L") + b"more",
    "pixels that end early": png("L")[:33] + chunk(b"IDAT", zlib.compress(b"\0" * 20)) + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_have_the_pixels_that_pillow_reads(name: str) -> None:
    picture, expected = read(PLAIN[name]), Image.open(io.BytesIO(PLAIN[name]))
    assert picture is not None
    assert (picture.mode, picture.size) == (expected.mode, expected.size)
    assert picture.tobytes() == expected.tobytes()


def _text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "an orientation may be here")
    return info


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


GRAY = png("L")
OTHERS = {
    "no PNG": b"not an image",
    "empty": b"",
    "only its start": GRAY[:20],
    "cut in the pixels": GRAY[: GRAY.index(b"IDAT") + 20],
    "without its end": GRAY[:-12],
    "a flipped bit": GRAY[:60] + bytes([GRAY[60] ^ 1]) + GRAY[61:],
    "no pixels": GRAY[:33] + chunk(b"IEND", b""),
    "bilevel": png("1"),
    "alpha": png("RGBA"),
    "16 bits": png("I;16"),
    "orientation": png("L", exif=_exif()),
    "text": png("L", pnginfo=_text()),
    "transparent value": with_chunk(GRAY, chunk(b"tRNS", b"\0\7")),
    "palette": with_chunk(GRAY, chunk(b"PLTE", b"\0\1\2")),
    "more than max_pixels": png("L", (1001, 1)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_left_to_pillow(name: str) -> None:
    assert read(OTHERS[name]) is None


def test_a_picture_below_the_minimum_is_left_to_the_reader() -> None:
    assert read_plain_png(GRAY, max_pixels=1000, min_size=8) is None
