"""Odd files and the pixels that they must become; golden/make.py says where those come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlspark.contracts import ImageFormat
from dlspark.data.images import ImageError, decode_for_ingest, decode_image, decode_stored, measure_image

GOLDEN = Path(__file__).parent / "golden"
with np.load(GOLDEN / "expected.npz") as archive:
    EXPECTED = dict(archive)
NAMES = sorted(EXPECTED)
TOLERANCE = {
    "ycck_adobe.jpg": 2,  # two roundings: YCbCr to inks, inks to RGB
    "cmyk_adobe.jpg": 1,  # JPEG at quality 100
    "ycbcr.tif": 1,  # fixed-point against floating-point conversion
    # torchvision has a libjpeg of its own
    "rgb_420.jpg": 1,
    "rgb_444.jpg": 1,
    "rgb_progressive.jpg": 1,
    **{name: 1 for name in NAMES if name.startswith("orientation_") and name.endswith(".jpg")},
    "gray.jpg": 1,
}
KEPT = {
    *("gray.png", "rgb.png", "rgb_interlaced.png", "orientation_1.png"),
    *("gray.jpg", "rgb_420.jpg", "rgb_444.jpg", "rgb_progressive.jpg", "orientation_1.jpg"),
}
MAX_PIXELS = 10_000
LARGEST_GOLDEN_BYTES = 200_000


def format_of(pixels: np.ndarray, **options: object) -> ImageFormat:
    height, width, channels = pixels.shape
    values = {"height": height, "width": width, "channels": channels, "resize": "none"} | options
    return ImageFormat(**values)  # type: ignore[arg-type]


def pixels_or_reason(data: bytes, image: ImageFormat) -> tuple[np.ndarray | None, str | None]:
    try:
        return decode_image(data, image, max_pixels=MAX_PIXELS), None
    except ImageError as error:
        return None, error.reason


def test_every_file_has_its_pixels_and_the_set_stays_small() -> None:
    files = [file for file in GOLDEN.iterdir() if file.suffix not in (".npz", ".py") and file.is_file()]
    assert sorted(file.name for file in files) == NAMES
    assert sum(file.stat().st_size for file in files) < LARGEST_GOLDEN_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_pixels(name: str) -> None:
    expected = EXPECTED[name]
    pixels = decode_image((GOLDEN / name).read_bytes(), format_of(expected), max_pixels=MAX_PIXELS)
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= TOLERANCE.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_measured_size_is_that_of_the_pixels(name: str) -> None:
    height, width, channels = EXPECTED[name].shape
    # a GIF has a palette, and its colours are not looked at
    natural = 3 if name.endswith(".gif") else channels
    assert measure_image((GOLDEN / name).read_bytes(), max_pixels=MAX_PIXELS) == (height, width, natural)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("resize", ["none", "exact", "pad"])
def test_a_file_is_kept_only_where_it_stands_for_its_pixels(name: str, resize: str) -> None:
    data = (GOLDEN / name).read_bytes()
    image = format_of(EXPECTED[name], resize=resize)
    decoded = decode_for_ingest(data, image, max_pixels=MAX_PIXELS, min_size=1, refuse_constant=False)
    assert decoded.keeps_file == (name in KEPT)
    assert (decoded.pixels == decode_image(data, image, max_pixels=MAX_PIXELS)).all()
    if decoded.keeps_file:
        assert (decode_stored(data) == decoded.pixels).all()


@pytest.mark.parametrize("options", [{"channels": 3}, {"height": 12}, {"width": 40, "height": 40}])
@pytest.mark.parametrize("resize", ["exact", "shorter", "pad"])
def test_a_changed_file_is_not_kept(options: dict[str, int], resize: str) -> None:
    image = format_of(EXPECTED["gray.jpg"], resize=resize, **options)
    data = (GOLDEN / "gray.jpg").read_bytes()
    kept = decode_for_ingest(data, image, max_pixels=MAX_PIXELS, min_size=1, refuse_constant=False).keeps_file
    assert not kept


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_anywhere_gives_all_pixels_or_none(name: str) -> None:
    data, expected = (GOLDEN / name).read_bytes(), EXPECTED[name]
    whole = decode_image(data, format_of(expected), max_pixels=MAX_PIXELS)
    for length in [*range(1, len(data) - 30, 11), *range(max(1, len(data) - 30), len(data))]:
        pixels, reason = pixels_or_reason(data[:length], format_of(expected))
        if pixels is None:
            assert reason in ("unreadable_header", "truncated_body"), length
        else:
            assert (pixels == whole).all(), length


@pytest.mark.parametrize("name", ["gray.png", "palette_transparent.png", "exif_behind_pixels.png"])
def test_any_changed_byte_of_a_png_is_found(name: str) -> None:
    data, image = bytearray((GOLDEN / name).read_bytes()), format_of(EXPECTED[name])
    for at in range(len(data)):
        data[at] ^= 4
        with pytest.raises(ImageError):
            decode_image(bytes(data), image, max_pixels=MAX_PIXELS)
        data[at] ^= 4
