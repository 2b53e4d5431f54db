"""From the size an image has to the size the dataset wants: plain arithmetic, then Pillow's filter.

The filter is bilinear with antialias: it is widened by the scale, so that each source pixel counts. What is
cut off (shorter) is never computed: the filter runs on a box of the source whose corners may lie between
pixels, so nothing is rounded there. The only rounding is the content's size under `pad`: to the nearest
pixel, half up.

A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size from a part of its coefficients, at a fraction of the
cost. That is about a box filter over 2, 4 or 8 pixels in front of the bilinear one, and the result differs a
little from that of a full decode.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from dlspark.contracts import ImageFormat


class Placement(NamedTuple):
    """Which part of an image is scaled to which size."""

    width: int
    """Pixels of the scaled part."""
    height: int
    """Pixels of the scaled part."""
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of the part, in pixels of the source; centred."""

    def swap_sides(self) -> Placement:
        """Return the same for a picture that lies on its side; the box is centred, so any turn fits."""
        left, top, right, bottom = self.box
        return Placement(self.height, self.width, (top, left, bottom, right))


def place(width: int, height: int, image: ImageFormat) -> Placement:
    """Return what is to be done with an upright image of width x height pixels.

    none and exact: all of it becomes image.width x image.height. shorter: the largest centred part with the
    target's aspect does. pad: all of it becomes the largest size with its own aspect that fits; each side
    is rounded half up and has at least one pixel.
    """
    if image.resize == "shorter":
        # The side that limits stays whole, exactly; of the other the target's aspect takes a part.
        if image.width * height >= image.height * width:
            part_width, part_height = float(width), width * image.height / image.width
        else:
            part_width, part_height = height * image.width / image.height, float(height)
        box = (
            (width - part_width) / 2,
            (height - part_height) / 2,
            (width + part_width) / 2,
            (height + part_height) / 2,
        )
        return Placement(image.width, image.height, box)
    whole = (0.0, 0.0, float(width), float(height))
    if image.resize != "pad":
        return Placement(image.width, image.height, whole)
    if image.width * height <= image.height * width:
        return Placement(image.width, max(1, _round_half_up(height * image.width, width)), whole)
    return Placement(max(1, _round_half_up(width * image.height, height)), image.height, whole)


def draft(picture: JpegImageFile, mode: Literal["L", "RGB"], placement: Placement) -> Placement:
    """Ask for the smallest decode that nothing has to be enlarged from, and return the placement on it.

    Args:
        picture: an opened JPEG that is not loaded yet.
        mode: L asks for the stored luma as well.
        placement: on the full size, in the orientation of the file.
    """
    full_width = picture.width
    drafted = picture.draft(mode, (placement.width, placement.height))
    if drafted is None:
        return placement
    share = drafted[1][2] / full_width
    left, top, right, bottom = placement.box
    return placement._replace(box=(left * share, top * share, right * share, bottom * share))


def scale(picture: Image.Image, placement: Placement) -> Image.Image:
    """Return the placed part at its size; the picture itself where that is the whole picture as it is."""
    size = (placement.width, placement.height)
    whole = (0.0, 0.0, float(placement.width), float(placement.height))
    if picture.size == size and placement.box == whole:
        return picture
    return picture.resize(size, Image.Resampling.BILINEAR, box=placement.box)


def pad(picture: Image.Image, image: ImageFormat) -> Image.Image:
    """Return image.width x image.height pixels with the picture in the centre and black around it.

    An odd rest goes to the right and to the bottom.
    """
    canvas = Image.new(picture.mode, (image.width, image.height))
    canvas.paste(picture, ((image.width - picture.width) // 2, (image.height - picture.height) // 2))
    return canvas


def _round_half_up(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)
