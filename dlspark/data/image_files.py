"""The bytes of one image file to a picture in memory, decoded in full, or the reason why not.

A header that opens proves nothing, so every pixel is decoded. Pillow stops at the last row of a PNG and
misses a damaged checksum behind it; walking the chunks with zlib's CRC-32 finds it in a few microseconds. The
other formats carry no checksum: a flipped bit inside a JPEG may decode to other pixels and cannot be found.
"""

from __future__ import annotations

import io
import struct
import zlib

from PIL import ExifTags, Image, UnidentifiedImageError

from dlspark.data.image_modes import MODES
from dlspark.data.image_reasons import ImageError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read."""

_PNG_SIGNATURE_BYTES = 8
_PNG_DEPTH_AT = 24
_CHUNK_HEAD = struct.Struct(">I4s")
_CRC = struct.Struct(">I")
_ORIENTATION_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPING_TURNS = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))


def open_image(data: bytes, *, max_pixels: int, min_size: int = 1) -> Image.Image:
    """Read the header of an image file; no pixel is decoded.

    Args:
        data: the bytes of the file.
        max_pixels: of the whole image, as the header declares it.
        min_size: pixels of the shorter side, at least.

    Raises:
        ImageError: zero_size, unreadable_header, bomb, unsupported_mode, below_minimum_size, or
            truncated_body where the header itself says that the file is longer.
    """
    if not data:
        raise ImageError("zero_size", "the file has no bytes")
    picture = _open(data)
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageError("bomb", f"{width * height:,} pixels, allowed are {max_pixels:,}")
    if picture.mode not in MODES:
        raise ImageError("unsupported_mode", f"images of mode {picture.mode} have no documented 8-bit form")
    if min(width, height) < min_size:
        found = f"{height} x {width} (height x width)"
        raise ImageError("below_minimum_size", f"{found}, the shorter side must have {min_size}")
    return picture


def load_image(picture: Image.Image, data: bytes) -> None:
    """Decode the first frame of an opened picture in full.

    Args:
        picture: of `open_image`; nothing but its draft was touched since.
        data: the bytes that it was opened from.

    Raises:
        ImageError: truncated_body.
    """
    try:
        if picture.format == "PNG":
            _require_sound_chunks(data)
        picture.load()
    except (MemoryError, ImageError):
        raise
    except Exception as error:  # Pillow's decoders raise nearly any kind on damaged bytes
        raise ImageError("truncated_body", f"{type(error).__name__}: {error}") from error
    if picture.format == "PNG" and "transparency" in picture.info:
        _rescale_transparent_value(picture, data)


def read_turn(picture: Image.Image) -> Image.Transpose | None:
    """Return what makes the picture upright (EXIF or XMP orientation), None where it is upright.

    A JPEG's is known as soon as it is opened, the others' when they are loaded: a PNG may carry it behind its
    pixels, and Pillow turns a TIFF while it loads. An EXIF block that cannot be parsed counts as none, as in
    image viewers.
    """
    if _ORIENTATION_KEYS.isdisjoint(picture.info) or picture.format == "TIFF":
        return None
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - as in load_image
        return None
    return _TURNS.get(orientation)


def swaps_sides(turn: Image.Transpose | None) -> bool:
    """Return whether width and height change places."""
    return turn in _SWAPPING_TURNS


def png_depth(data: bytes) -> int:
    """Return the bits of one sample (1, 2, 4, 8, 16) of a PNG file that could be opened."""
    return data[_PNG_DEPTH_AT]


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("bomb", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # as in load_image
        # Pillow's WebP reader takes all of the file or nothing; its container says how much that is.
        if data[:4] == b"RIFF" and len(data) < int.from_bytes(data[4:8], "little") + 8:
            raise ImageError("truncated_body", "the WebP file is shorter than its header says") from error
        if isinstance(error, UnidentifiedImageError):
            raise ImageError(
                "unreadable_header", f"not an image of a known format ({', '.join(FORMATS)})"
            ) from error
        raise ImageError("unreadable_header", f"{type(error).__name__}: {error}") from error


def _require_sound_chunks(data: bytes) -> None:
    """Check length and CRC-32 of every chunk of a PNG file up to IEND (PNG specification, section 5.3)."""
    view, at, size = memoryview(data), _PNG_SIGNATURE_BYTES, len(data)
    name = b""
    while name != b"IEND":
        if at + _CHUNK_HEAD.size > size:
            raise ImageError("truncated_body", "the PNG file ends before its last chunk (IEND)")
        length, name = _CHUNK_HEAD.unpack_from(data, at)
        end = at + _CHUNK_HEAD.size + length
        if end + _CRC.size > size:
            raise ImageError("truncated_body", f"the PNG file ends within its chunk {name!r}")
        if zlib.crc32(view[at + 4 : end]) != _CRC.unpack_from(data, end)[0]:
            raise ImageError("truncated_body", f"the PNG chunk {name!r} at byte {at} has a wrong checksum")
        at = end + _CRC.size


def _rescale_transparent_value(picture: Image.Image, data: bytes) -> None:
    """Bring the transparent value of a PNG to the range of the pixels, which Pillow leaves in the file's.

    Pillow widens 2 and 4 bits to 8 and takes the high byte of RGB with 16 bits, but keeps the tRNS chunk's
    number as it is. Of RGB with 16 bits all colours with the same high bytes are transparent then.
    """
    depth, value = png_depth(data), picture.info["transparency"]
    if picture.mode == "L" and depth in (2, 4):
        picture.info["transparency"] = value * 255 // ((1 << depth) - 1)
    elif picture.mode == "RGB" and depth == 16:  # noqa: PLR2004
        picture.info["transparency"] = tuple(part >> 8 for part in value)
