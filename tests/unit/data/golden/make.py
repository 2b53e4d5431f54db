"""Write the golden set: small odd image files and expected.npz, the pixels that each must become.

    python tests/unit/data/golden/make.py

No expected pixel comes from dlspark or from Pillow's decoders. Lossless files are expected to give the arrays
that they are made of, put through the formula that dlspark/data/image_modes.py documents, here in numpy. JPEG
files are expected to give what torchvision's decoder makes of them, CMYK ones their inks through the formula;
test_images_golden.py says how much may differ. PNG files are written here byte by byte, since Pillow cannot
write most of them; the others with Pillow, which is only the writer.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
HERE = Path(__file__).parent
RNG = np.random.default_rng(20)
HEIGHT, WIDTH = 11, 13
RGB = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
ALPHA = RNG.choice(np.array([0, 60, 128, 255], dtype=np.uint8), (HEIGHT, WIDTH))
PALETTE = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
INDICES = RNG.integers(0, 16, (HEIGHT, WIDTH), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (HEIGHT, WIDTH, 3), dtype=np.uint16)
WHITE = 255
TURNS = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored, 1),
}
"""From the stored rows to the upright image (EXIF 2.3, tag 0x0112)."""


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def pack_rows(samples: Array, depth: int) -> bytes:
    """Return the filtered (type 0) rows of [h, w] or [h, w, channels] samples."""
    flat = samples.reshape(len(samples), -1)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in flat]
    elif depth == 8:
        rows = [row.astype(np.uint8).tobytes() for row in flat]
    else:
        bits = (flat[:, :, np.newaxis] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.reshape(-1)).tobytes() for row in bits]
    return b"".join(b"\0" + row for row in rows)


def png(
    samples: Array, depth: int, colour: int, *, before: bytes = b"", after: bytes = b"", adam7: bool = False
) -> bytes:
    """Return a PNG file; `before` and `after` are chunks around its pixels."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(adam7))
    passes = [(0, 0, 1, 1)]
    if adam7:  # first row, first column, steps between rows and columns (PNG specification, section 8.2)
        passes = [
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        ]
    parts = [samples[top::down, left::right] for top, left, down, right in passes]
    body = zlib.compress(b"".join(pack_rows(part, depth) for part in parts if part.size))
    pixels = chunk(b"IDAT", body[:50]) + chunk(b"IDAT", body[50:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    """Return an EXIF block with nothing but the orientation."""
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def save(pixels: Array, kind: str, *more: Array, mode: str | None = None, **options: Any) -> bytes:
    images = [
        Image.frombytes(mode, part.shape[1::-1], part.tobytes()) if mode else Image.fromarray(part)
        for part in (pixels, *more)
    ]
    if more:
        options |= {"save_all": True, "append_images": images[1:]}
    target = io.BytesIO()
    images[0].save(target, kind, **options)
    return target.getvalue()


def over_white(colour: Array, alpha: Array) -> Array:
    if colour.ndim > alpha.ndim:
        alpha = alpha[..., np.newaxis]
    weighted = colour.astype(int) * alpha + WHITE * (WHITE - alpha.astype(int))
    return np.rint(weighted / 255).astype(np.uint8)


def cmyk_to_rgb(inks: Array) -> Array:
    paper = 255 - inks.astype(float)
    return np.rint(paper[..., :3] * paper[..., 3:] / 255).astype(np.uint8)


def ycbcr_to_rgb(values: Array) -> Array:
    luma, blue, red = (values[..., band].astype(float) - (0, 128, 128)[band] for band in range(3))
    rgb = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    return np.clip(np.rint(np.stack(rgb, axis=-1)), 0, 255).astype(np.uint8)


def rgb_to_ycbcr(values: Array) -> Array:
    luma = values @ np.array([0.299, 0.587, 0.114])
    blue, red = (values[..., 2] - luma) / 1.772 + 128, (values[..., 0] - luma) / 1.402 + 128
    return np.clip(np.rint(np.stack([luma, blue, red], axis=-1)), 0, 255).astype(np.uint8)


def narrow(deep: Array) -> Array:
    return np.rint(deep / 257).astype(np.uint8)


def transparent(pixels: Array, where: Array) -> Array:
    result = pixels.copy()
    result[where] = WHITE
    return result


def by_torchvision(data: bytes) -> Array:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return torchvision.io.decode_jpeg(encoded).permute(1, 2, 0).numpy()


def png_files() -> dict[str, tuple[bytes, Array]]:
    palette = chunk(b"PLTE", PALETTE.tobytes())
    alphas = np.array([255, 0, 128] + [255] * 13, dtype=np.uint8)
    bits, quarter = GRAY >> 7, GRAY >> 6
    high = (DEEP_RGB >> 8).astype(np.uint8)
    clear = np.equal(high, high[2, 3]).all(axis=2)
    files = {
        "gray.png": (png(GRAY, 8, 0), GRAY),
        "rgb.png": (png(RGB, 8, 2), RGB),
        "rgb_interlaced.png": (png(RGB, 8, 2, adam7=True), RGB),
        "gray_1_bit.png": (png(bits, 1, 0), bits * np.uint8(255)),
        "gray_1_bit_transparent.png": (
            png(bits, 1, 0, before=chunk(b"tRNS", b"\0\0")), np.full_like(GRAY, WHITE)),
        "gray_2_bits_transparent.png": (
            png(quarter, 2, 0, before=chunk(b"tRNS", b"\0\1")),
            transparent(quarter * np.uint8(85), quarter == 1)),
        "gray_4_bits.png": (png(INDICES, 4, 0), INDICES * np.uint8(17)),
        "gray_16_bits.png": (png(DEEP, 16, 0), narrow(DEEP)),
        "gray_16_bits_transparent.png": (
            png(DEEP, 16, 0, before=chunk(b"tRNS", struct.pack(">H", DEEP[1, 1]))),
            transparent(narrow(DEEP), np.equal(DEEP, DEEP[1, 1]))),
        "rgb_16_bits.png": (png(DEEP_RGB, 16, 2), high),
        "rgb_16_bits_transparent.png": (
            png(DEEP_RGB, 16, 2, before=chunk(b"tRNS", struct.pack(">HHH", *DEEP_RGB[2, 3]))),
            transparent(high, clear)),
        "palette.png": (png(INDICES, 4, 3, before=palette), PALETTE[INDICES]),
        "palette_transparent.png": (
            png(INDICES, 8, 3, before=palette + chunk(b"tRNS", alphas.tobytes())),
            over_white(PALETTE[INDICES], alphas[INDICES])),
        "rgb_transparent.png": (
            png(RGB, 8, 2, before=chunk(b"tRNS", struct.pack(">HHH", *RGB[4, 5]))),
            transparent(RGB, np.equal(RGB, RGB[4, 5]).all(axis=2))),
        "rgba.png": (png(np.dstack([RGB, ALPHA]), 8, 6), over_white(RGB, ALPHA)),
        "gray_alpha.png": (png(np.dstack([GRAY, ALPHA]), 8, 4), over_white(GRAY, ALPHA)),
        "animated.png": (animated_png(RGB, 255 - RGB), RGB),
        "exif_behind_pixels.png": (png(RGB, 8, 2, after=chunk(b"eXIf", exif(6))), TURNS[6](RGB)),
    }  # fmt: skip
    for orientation, turn in TURNS.items():
        data = png(RGB, 8, 2, before=chunk(b"eXIf", exif(orientation)))
        files[f"orientation_{orientation}.png"] = (data, turn(RGB))
    return files


def animated_png(first: Array, second: Array) -> bytes:
    """Return a PNG with two frames (PNG specification, third edition, section 11.3.6)."""

    def control(number: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0))

    before = chunk(b"acTL", struct.pack(">II", 2, 0)) + control(0)
    body = zlib.compress(pack_rows(second, 8))
    after = control(1) + chunk(b"fdAT", struct.pack(">I", 2) + body)
    return png(first, 8, 2, before=before, after=after)


def jpeg_files() -> dict[str, tuple[bytes, Array]]:
    rows, columns = np.mgrid[0:24, 0:40]
    photo = np.stack([rows * 10, columns * 6, 128 + 90 * np.sin(rows / 5 + columns / 9)], axis=-1).astype(
        np.uint8
    )
    plain = {
        "rgb_420.jpg": save(photo, "JPEG", quality=90, subsampling="4:2:0"),
        "rgb_444.jpg": save(photo, "JPEG", quality=90, subsampling="4:4:4"),
        "rgb_progressive.jpg": save(photo, "JPEG", quality=90, progressive=True),
        "gray.jpg": save(photo[:, :, 2], "JPEG", quality=90),
    }
    files = {name: (data, by_torchvision(data)) for name, data in plain.items()}
    for orientation, turn in TURNS.items():
        block = b"Exif\0\0" + exif(orientation)
        data = save(photo[:, :, 2], "JPEG", quality=90, exif=block)
        files[f"orientation_{orientation}.jpg"] = (data, turn(files["gray.jpg"][1]))

    inks = np.repeat(np.repeat(RNG.integers(0, 256, (2, 3, 4), dtype=np.uint8), 8, axis=0), 8, axis=1)
    # Pillow writes inks inverted and with Adobe's marker, as Photoshop does.
    files["cmyk_adobe.jpg"] = (save(inks, "JPEG", mode="CMYK", quality=100), cmyk_to_rgb(inks))
    components = np.dstack([255 - rgb_to_ycbcr(inks[..., :3]), inks[..., 3]])
    ycck = bytearray(save(components, "JPEG", mode="CMYK", quality=100))
    transform = ycck.index(b"Adobe") + 11
    ycck[transform] = 2  # the first three components are YCbCr
    files["ycck_adobe.jpg"] = (bytes(ycck), cmyk_to_rgb(inks))
    return files


def other_files() -> dict[str, tuple[bytes, Array]]:
    ycbcr = rgb_to_ycbcr(RGB)
    return {
        "rgb.bmp": (save(RGB, "BMP"), RGB),
        "gray.bmp": (save(GRAY, "BMP"), GRAY),
        "one_bit.bmp": (save(GRAY > 127, "BMP"), (GRAY > 127) * np.uint8(255)),
        "animated.gif": (save(GRAY, "GIF", 255 - GRAY), GRAY),
        "rgb_lossless.webp": (save(RGB, "WEBP", lossless=True), RGB),
        "rgba_lossless.webp": (
            save(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), over_white(RGB, ALPHA)),
        "animated_lossless.webp": (save(RGB, "WEBP", 255 - RGB, lossless=True), RGB),
        "pages.tif": (save(RGB, "TIFF", 255 - RGB, compression="tiff_lzw"), RGB),
        "gray_16_bits.tif": (save(DEEP, "TIFF"), narrow(DEEP)),
        "cmyk.tif": (
            save(np.dstack([RGB, GRAY]), "TIFF", mode="CMYK"), cmyk_to_rgb(np.dstack([RGB, GRAY]))),
        "ycbcr.tif": (save(ycbcr, "TIFF", mode="YCbCr"), ycbcr_to_rgb(ycbcr)),
        "orientation_6.tif": (save(RGB, "TIFF", tiffinfo={274: 6}), TURNS[6](RGB)),
        "gray_16_bits.pgm": (
            b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP.astype(">u2").tobytes(), narrow(DEEP)),
    }  # fmt: skip


def main() -> None:
    files = png_files() | jpeg_files() | other_files()
    for name, (data, _) in files.items():
        (HERE / name).write_bytes(data)
    expected = {
        name: pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis] for name, (_, pixels) in files.items()
    }
    np.savez_compressed(HERE / "expected.npz", **expected)


if __name__ == "__main__":
    main()
