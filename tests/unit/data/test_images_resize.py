"""The four ways to a size, against torch's own antialiased resize, and the reduced decode of JPEG files."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from dlspark.contracts import ImageFormat
from dlspark.data.image_resize import draft, place
from dlspark.data.images import decode_image, encode_png

MAX_PIXELS = 10_000_000
SIDES = st.integers(1, 3000)
TARGETS = st.integers(1, 300)


def format_of(
    height: int, width: int, resize: str, channels: int = 3, *, jpeg_scale: bool = True
) -> ImageFormat:
    return ImageFormat(
        height=height,
        width=width,
        channels=channels,
        resize=resize,
        jpeg_scale=jpeg_scale,  # type: ignore[arg-type]
    )


def photo(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    bands = [
        128 + 120 * np.sin(columns / 41) * np.cos(rows / 23),
        255 * columns / width,
        128 + 90 * np.sin((rows + 2 * columns) / 37),
    ]
    return np.stack(bands, axis=-1).astype(np.uint8)


def jpeg(pixels: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "JPEG", quality=95, exif=exif)
    return target.getvalue()


def decode(data: bytes, image: ImageFormat) -> np.ndarray:
    return decode_image(data, image, max_pixels=MAX_PIXELS).astype(int)


def by_torch(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    scaled = torch.nn.functional.interpolate(batch, (height, width), mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0).round().clamp(0, 255).numpy().astype(int)


NOISE = np.random.default_rng(3).integers(0, 256, (60, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (60, 17), (100, 200), (1, 1)])
def test_exact_stretches(height: int, width: int) -> None:
    found = decode(encode_png(NOISE), format_of(height, width, "exact"))
    assert np.abs(found - by_torch(NOISE, height, width)).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "scaled", "cut"),
    [
        (30, 30, (30, 48), np.s_[:, 9:39]),
        (20, 32, (20, 32), np.s_[:, :]),
        (10, 32, (20, 32), np.s_[5:15, :]),
        (120, 120, (120, 192), np.s_[:, 36:156]),
    ],
)
def test_shorter_covers_and_cuts_out_the_centre(
    height: int, width: int, scaled: tuple[int, int], cut: tuple[slice, slice]
) -> None:
    found = decode(encode_png(NOISE), format_of(height, width, "shorter"))
    assert np.abs(found - by_torch(NOISE, *scaled)[cut]).max() <= 1


def test_shorter_is_torchvisions_resize_and_centre_crop_where_nothing_is_rounded() -> None:
    transform = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(30), torchvision.transforms.CenterCrop(30)]
    )
    assert (
        decode(encode_png(NOISE), format_of(30, 30, "shorter")) == transform(Image.fromarray(NOISE))
    ).all()


@pytest.mark.parametrize(
    ("height", "width", "content", "at"),
    [
        (32, 32, (20, 32), (6, 0)),
        (30, 100, (30, 48), (0, 26)),
        (33, 32, (20, 32), (6, 0)),  # 13 rows are left: 6 above, 7 below
        (50, 12, (8, 12), (21, 0)),  # 7.5 rows become 8
        (5, 1, (1, 1), (2, 0)),  # 0.6 rows become 1
    ],
)
def test_pad_fits_in_the_centre_of_black(
    height: int, width: int, content: tuple[int, int], at: tuple[int, int]
) -> None:
    found = decode(encode_png(NOISE), format_of(height, width, "pad"))
    inside = np.zeros((height, width), dtype=bool)
    inside[at[0] : at[0] + content[0], at[1] : at[1] + content[1]] = True
    assert (found[~inside] == 0).all()
    assert np.abs(found[inside] - by_torch(NOISE, *content).reshape(-1, 3)).max() <= 1


@pytest.mark.parametrize("resize", ["none", "exact", "shorter", "pad"])
def test_the_right_size_is_left_alone(resize: str) -> None:
    assert (decode(encode_png(NOISE), format_of(60, 96, resize)) == NOISE).all()


@given(SIDES, SIDES, TARGETS, TARGETS)
def test_shorter_takes_the_largest_centred_part_with_the_targets_aspect(
    width: int, height: int, target_width: int, target_height: int
) -> None:
    placement = place(width, height, format_of(target_height, target_width, "shorter"))
    left, top, right, bottom = placement.box
    assert (placement.width, placement.height) == (target_width, target_height)
    assert min(left, top) == 0.0
    assert (left + right, top + bottom) == pytest.approx((width, height))
    assert right <= width
    assert bottom <= height
    assert (right - left) * target_height == pytest.approx((bottom - top) * target_width)


@given(SIDES, SIDES, TARGETS, TARGETS)
def test_pad_keeps_the_aspect_to_half_a_pixel(
    width: int, height: int, target_width: int, target_height: int
) -> None:
    placement = place(width, height, format_of(target_height, target_width, "pad"))
    factor = min(target_width / width, target_height / height)
    assert placement.box == (0, 0, width, height)
    assert 1 <= placement.width <= target_width
    assert 1 <= placement.height <= target_height
    assert target_width == placement.width or target_height == placement.height
    assert abs(placement.width - max(1, width * factor)) <= 0.5 + 1e-9
    assert abs(placement.height - max(1, height * factor)) <= 0.5 + 1e-9


@given(SIDES, SIDES, TARGETS, TARGETS, st.sampled_from(["exact", "shorter", "pad"]))
def test_a_jpeg_is_reduced_as_far_as_nothing_is_enlarged_for_it(
    width: int, height: int, target_width: int, target_height: int, resize: str
) -> None:
    target = io.BytesIO()
    Image.new("L", (8, 8)).save(target, "JPEG")
    with Image.open(target) as picture:
        assert isinstance(picture, JpegImageFile)
        # The header's size is all that the decision depends on.
        picture._size = (width, height)
        picture.tile = [picture.tile[0]._replace(extents=(0, 0, width, height))]
        full = place(width, height, format_of(target_height, target_width, resize))
        reduced = draft(picture, "L", full)
        scale = picture.decoderconfig[0]
    assert picture.size == (-(-width // scale), -(-height // scale))
    assert reduced.box == pytest.approx([edge / scale for edge in full.box])

    def part_over_target(at: int) -> float:
        part_width, part_height = full.box[2] - full.box[0], full.box[3] - full.box[1]
        return min(part_width / (full.width * at), part_height / (full.height * at))

    if scale > 1:
        assert part_over_target(scale) >= 1 - 1e-9
    if scale < 8:
        assert part_over_target(2 * scale) < 1


@pytest.mark.parametrize("resize", ["exact", "shorter", "pad"])
@pytest.mark.parametrize(("height", "width"), [(801, 1203), (1001, 603), (257, 511)])
def test_a_reduced_decode_comes_close_to_a_full_one(height: int, width: int, resize: str) -> None:
    data = jpeg(photo(height, width))
    full = decode(data, format_of(100, 100, resize, jpeg_scale=False))
    reduced = decode(data, format_of(100, 100, resize))
    assert (full != reduced).any()
    assert np.abs(full - reduced).mean() < 0.6
    assert np.abs(full - reduced).max() <= 8


def test_a_jpeg_that_would_be_enlarged_is_decoded_in_full() -> None:
    data = jpeg(photo(150, 199))
    for resize in ("exact", "shorter"):
        full = decode(data, format_of(100, 100, resize, jpeg_scale=False))
        assert (decode(data, format_of(100, 100, resize)) == full).all()


@pytest.mark.parametrize("resize", ["exact", "shorter", "pad"])
@pytest.mark.parametrize("jpeg_scale", [True, False])
@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_an_oriented_jpeg_is_the_upright_one_turned(resize: str, jpeg_scale: bool, orientation: int) -> None:
    pixels = photo(437, 811)
    upright = decode(jpeg(pixels), format_of(40, 80, resize, jpeg_scale=jpeg_scale))
    turned = upright[::-1, ::-1]
    if orientation == 6:
        turned = np.rot90(upright, -1)
    elif orientation == 7:
        turned = turned.swapaxes(0, 1)
    image = format_of(*turned.shape[:2], resize, jpeg_scale=jpeg_scale)
    assert (decode(jpeg(pixels, orientation), image) == turned).all()


def test_a_jpeg_becomes_the_luma_that_it_stores() -> None:
    data = jpeg(NOISE)  # strong colours, whose RGB is clipped
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    luma = torchvision.io.decode_jpeg(encoded, torchvision.io.ImageReadMode.GRAY)[0].numpy().astype(int)
    for resize in ("none", "exact"):
        assert np.abs(decode(data, format_of(60, 96, resize, 1))[:, :, 0] - luma).max() <= 1


def test_the_format_survives_json() -> None:
    image = format_of(3, 4, "shorter", jpeg_scale=False)
    assert ImageFormat(**json.loads(json.dumps(dataclasses.asdict(image)))) == image
