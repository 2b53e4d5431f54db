"""What each kind of pixel becomes with 8 bits, gray or RGB.

- palette: its colours; 1 bit: 0 or 255;
- gray with 16 bits: round(value / 257), wider integers are clipped to 16 bits first; RGB with 16 bits: the
  high byte;
- any transparency (alpha channel, transparent palette entries or one transparent value): laid over white;
- CMYK: (255 - ink)(255 - black) / 255, a JPEG's inks read inverted, as Adobe writes them; YCbCr: as JFIF
  says; colour profiles are not applied;
- RGB to gray: ITU-R 601-2 luma; gray to RGB: three equal channels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

_DEEP_GRAY_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N"})
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}) | _DEEP_GRAY_MODES
"""Pillow's modes that become 8 bits as documented here."""
_GRAY_MODES = frozenset({"1", "L", "LA"}) | _DEEP_GRAY_MODES


def natural_channels(picture: Image.Image) -> Literal[1, 3]:
    """Return 1 for an image that can only hold gray, else 3."""
    return 1 if picture.mode in _GRAY_MODES else 3


def mode_of(channels: Literal[1, 3]) -> Literal["L", "RGB"]:
    """Return Pillow's name of 8-bit gray or RGB."""
    return "L" if channels == 1 else "RGB"


def to_eight_bit(picture: Image.Image, channels: Literal[1, 3]) -> Image.Image:
    """Return a loaded picture in mode L or RGB: itself where it is that already."""
    mode = mode_of(channels)
    if picture.mode == mode and "transparency" not in picture.info:
        return picture
    if picture.mode in _DEEP_GRAY_MODES:
        picture = _narrow(picture)
    elif picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white.convert("RGB")
    return picture.convert(mode)


def _narrow(picture: Image.Image) -> Image.Image:
    deep = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
    transparent = picture.info.get("transparency")
    if transparent is not None:
        deep[deep == transparent] = 65535
    return Image.fromarray(((deep + 128) // 257).astype(np.uint8))
