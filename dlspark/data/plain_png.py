"""A shortcut for the PNG files that small images mostly are: 8 bits, gray or RGB, and nothing special.

Pillow's reader of PNG files is Python code that costs several times more than the decoding of a small image.
Here the chunks are read at once and their bytes handed to Pillow's own decoder. Whatever is unusual or
damaged is left to the reader, which knows it or says what is wrong.
"""

from __future__ import annotations

import struct
import zlib

from PIL import Image

_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
"""Signature, length and name of the first chunk (PNG specification, sections 5.2 and 11.2.1)."""
_HEADER = struct.Struct(">IIBBBBB")
_CHUNK_HEAD = struct.Struct(">I4s")
_CRC_BYTES = 4
_FIRST_CHUNK_AT = 8
_MODES = {(8, 0, 0, 0, 0): "L", (8, 2, 0, 0, 0): "RGB"}
"""Pillow's modes by depth, colour type, compression, filter and interlace."""
_WITHOUT_EFFECT = frozenset({b"IHDR", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"pHYs", b"tIME"})
"""Chunks that leave the pixels as they are; not those of text, which may tell the orientation."""


def read_plain_png(data: bytes, *, max_pixels: int, min_size: int) -> Image.Image | None:
    """Return the picture in a plain PNG file, in mode L or RGB, decoded in full; None for any other file.

    Args:
        data: the bytes of the file.
        max_pixels: a larger picture gives None.
        min_size: a picture whose shorter side has fewer pixels gives None.
    """
    if not data.startswith(_START) or len(data) < len(_START) + _HEADER.size:
        return None
    width, height, *kind = _HEADER.unpack_from(data, len(_START))
    mode = _MODES.get(tuple(kind))
    if mode is None or width * height > max_pixels or min(width, height) < min_size:
        return None
    compressed = _compressed_pixels(data)
    if compressed is None:
        return None
    try:
        return Image.frombytes(mode, (width, height), compressed, "zip", mode)
    except (OSError, ValueError):
        return None


def _compressed_pixels(data: bytes) -> bytes | None:
    """Return the content of the IDAT chunks, if every chunk is sound and no other has an effect."""
    view, at, end = memoryview(data), _FIRST_CHUNK_AT, len(data) - _CRC_BYTES
    parts = []
    name = b""
    while name != b"IEND":
        content = at + _CHUNK_HEAD.size
        if content > end:
            return None
        length, name = _CHUNK_HEAD.unpack_from(data, at)
        at = content + length + _CRC_BYTES
        if at - _CRC_BYTES > end:
            return None
        if zlib.crc32(view[content - 4 : content + length]) != int.from_bytes(data[at - 4 : at]):
            return None
        if name == b"IDAT":
            parts.append(view[content : content + length])
        elif name not in _WITHOUT_EFFECT and name != b"IEND":
            return None
    return parts[0].tobytes() if len(parts) == 1 else b"".join(parts)
