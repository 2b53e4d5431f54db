"""One encoded image file to uint8 pixels, the same way at ingest, in evaluation and in serving.

A file is decoded in full, since a header that opens proves nothing. What each kind of image becomes:

- palette: its colours; 1 bit: 0 or 255; gray with 16 bits: round(value / 257); RGB with 16 bits: high byte;
- any transparency (alpha channel or transparent colour): laid over white;
- CMYK and YCbCr: Pillow's conversion to RGB, colour profiles are not applied;
- RGB to gray: ITU-R 601-2 luma; gray to RGB: three equal channels;
- EXIF orientation: applied before the size is looked at; several frames: the first.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dlspark.contracts import ImageFormat

Reason = Literal["zero_size", "unreadable_header", "truncated_body", "bomb", "unsupported_mode", "wrong_size"]
"""Why an image is refused.

zero_size: no bytes; unreadable_header: no image of a known format; truncated_body: the pixels cannot be
decoded in full; bomb: more bytes or pixels than allowed; unsupported_mode: values with no documented meaning
as 8 bits (floating point, LAB); wrong_size: another size than the dataset's, where none is to be resized.
"""

IMAGE_EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
"""Names with these endings, in any case, are listed as images; the content decides the format."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_DEEP_GRAY_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}) | _DEEP_GRAY_MODES
_GRAY_MODES = frozenset({"1", "L", "LA"}) | _DEEP_GRAY_MODES


class ImageError(ValueError):
    """One image cannot become pixels; ingest quarantines it under `reason`."""

    def __init__(self, reason: Reason, message: str) -> None:
        """Keep the reason code beside the message."""
        super().__init__(reason, message)
        self.reason, self.message = reason, message

    def __str__(self) -> str:
        """Return reason and message."""
        return f"{self.reason}: {self.message}"


def decode_image(data: bytes, image: ImageFormat, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode one image file.

    Args:
        data: the bytes of the file.
        image: the size and the channels to give.
        max_pixels: an image with more pixels is refused before it is decoded. Pillow's own limit (twice
            PIL.Image.MAX_IMAGE_PIXELS, 178,956,970 pixels) holds as well.

    Returns:
        uint8 [H, W, C], in [0, 255], C-contiguous. Resizing is bilinear with antialias: the filter is widened
        by the scale, so that each source pixel counts.

    Raises:
        ImageError: the image cannot be decoded, or has another size and is not to be resized.
    """
    picture = _upright(data, max_pixels)
    picture = _eight_bit(picture, image.channels)
    if picture.size != (image.width, image.height):
        if image.resize == "none":
            raise ImageError(
                "wrong_size",
                f"{picture.height} x {picture.width} (height x width), not {image.height} x {image.width}",
            )
        picture = picture.resize((image.width, image.height), Image.Resampling.BILINEAR)
    return np.asarray(picture).reshape(image.height, image.width, image.channels)


def measure_image(data: bytes, *, max_pixels: int) -> tuple[int, int, Literal[1, 3]]:
    """Return the height, width (pixels, upright) and natural channels (1 if gray, else 3) of an image.

    Raises:
        ImageError: the image cannot be decoded.
    """
    picture = _upright(data, max_pixels)
    return picture.height, picture.width, 1 if picture.mode in _GRAY_MODES else 3


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return uint8 [H, W, 1] or [H, W, 3] pixels as a PNG file, without loss."""
    target = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(target, "PNG")
    return target.getvalue()


def decode_png(data: bytes) -> NDArray[np.uint8]:
    """Return the uint8 [H, W, C] pixels that `encode_png` was given."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        pixels = np.asarray(picture)
    return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels  # noqa: PLR2004 - gray has no channel axis


def _upright(data: bytes, max_pixels: int) -> Image.Image:
    """Decode the first frame in full and turn it as its EXIF orientation says."""
    if not data:
        raise ImageError("zero_size", "the file has no bytes")
    picture = _open(data)
    if picture.width * picture.height > max_pixels:
        raise ImageError("bomb", f"{picture.width * picture.height:,} pixels, allowed are {max_pixels:,}")
    if picture.mode not in _MODES:
        raise ImageError("unsupported_mode", f"images of mode {picture.mode} have no documented 8-bit form")
    try:
        if picture.format == "PNG":
            # Decoding stops at the last row and so misses a damaged checksum; verify() reads each of them.
            _open(data).verify()
        picture.load()
        ImageOps.exif_transpose(picture, in_place=True)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly any kind on damaged bytes
        raise ImageError("truncated_body", f"{type(error).__name__}: {error}") from error
    return picture


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("bomb", str(error)) from error
    except UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise ImageError("unreadable_header", f"not an image of a known format ({known})") from error
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ImageError("unreadable_header", f"{type(error).__name__}: {error}") from error


def _eight_bit(picture: Image.Image, channels: Literal[1, 3]) -> Image.Image:
    """Return mode L or RGB."""
    if picture.mode in _DEEP_GRAY_MODES:
        deep = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        picture = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white.convert("RGB")
    return picture.convert("L" if channels == 1 else "RGB")
