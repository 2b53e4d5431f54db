"""What a picture looks like, in 63 bits to find candidates and in 256 small integers to check them.

Both come from the 16 x 16 lowest coefficients of a cosine transform of the luma (pHash, Zauner 2010), taken
about the centre of what stands out from the border: so a shifted digit keeps them. The bits are the signs of
the lowest 8 x 8 but the mean. The common threshold, their median, would not survive a flip; zero does, so
the hashes of all eight flips and rotations are one hash with bits swapped and inverted. For the check each of
five rings of frequencies is scaled to the same length: blur and brightness change the rings as wholes and are
forgiven, while handwritten ones that only agree in their coarse shape fall apart.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlspark.data.audit.symmetry import TRANSFORMS, coefficient_order, coefficient_signs

SIZE = 16
"""Frequencies of a side."""
NUM_BITS = 63

_HASH_SIZE = 8
_INTERLEAVE = 9
_CHUNK_VALUES = 2**23
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
"""ITU-R BT.601."""
_MAX_OFFSET = 0.15
"""Of the centre from the middle, in sides."""
_NOISE = 0.15
"""What stands out by less than this share of the most outstanding pixel has no weight in the centre."""
_RING_BORDERS = (0.5, 3.5, 6.5, 9.5, 12.5, 15.5)
_MIN_RING = 0.02
"""A ring with less than this share of the picture's length is noise and is not scaled up any more."""
_MIN_LENGTH = 0.25
"""Root mean square of the coefficients' part of a picture, in grey levels, below which it is flat."""


class Looks(NamedTuple):
    """How n pictures look."""

    hashes: NDArray[np.uint64]
    """uint64 [n], 63 bits."""
    descriptors: NDArray[np.int8]
    """int8 [n, 256]: equalised coefficients, each row scaled to a maximum of 127."""
    is_flat: NDArray[np.bool_]
    """bool [n]: nothing can be seen in it, so that hash and descriptor say nothing."""


def look_at(pixels: NDArray[np.uint8]) -> Looks:
    """Return how pictures look.

    Args:
        pixels: uint8 [n, H, W, C], n > 0; of sides below 16 pixels the frequencies that they have are used.
    """
    per_chunk = max(1, _CHUNK_VALUES // int(np.prod(pixels.shape[1:])))
    parts = [
        _look(_coefficients(pixels[start : start + per_chunk])) for start in range(0, len(pixels), per_chunk)
    ]
    return Looks(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def transformed_hashes(hashes: NDArray[np.uint64], side: int) -> NDArray[np.uint64]:
    """Return the hashes of pictures under all transforms: uint64 [8, n], in the order of TRANSFORMS.

    Args:
        hashes: uint64 [n].
        side: of the pictures in pixels, the shorter one; frequencies that they lack have no bits to invert.
    """
    bits = unpack(hashes)[:, :NUM_BITS]
    found = np.empty((len(TRANSFORMS), len(hashes)), dtype=np.uint64)
    for place in range(len(TRANSFORMS)):
        inverted = _BIT_INVERTED[place] & (side > _BIT_FREQUENCY)
        found[place] = _pack(bits[:, _BIT_SOURCE[place]] ^ inverted)
    return found


def unpack(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the bits of hashes: uint8 [n, 64]; the last one is 0."""
    little = np.ascontiguousarray(hashes, dtype="<u8")
    return np.unpackbits(little.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")


def similarities(
    one: NDArray[np.int8], other: NDArray[np.int8], transforms: NDArray[np.int8]
) -> NDArray[np.float32]:
    """Return the correlation of n pairs of descriptors, the second of each under a transform.

    Args:
        one: int8 [n, 256].
        other: int8 [n, 256].
        transforms: int8 [n]: places in TRANSFORMS.

    Returns:
        float32 [n], in [-1, 1].
    """
    found = np.empty(len(one), dtype=np.float32)
    for place in np.unique(transforms).tolist():
        chosen = np.flatnonzero(transforms == place)
        turned = unit(other[chosen])[:, DESCRIPTOR_SOURCE[place]] * DESCRIPTOR_SIGN[place]
        found[chosen] = np.einsum("nd,nd->n", unit(one[chosen]), turned)
    return found


def unit(descriptors: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return descriptors with length 1: float32 [n, 256]; a flat one stays 0."""
    values = descriptors.astype(np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", values, values))
    return np.asarray(values / np.maximum(lengths, 1.0)[:, None], dtype=np.float32)


def _coefficients(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return float32 [n, 16, 16] about the centre of each picture; the mean is 0."""
    luma = pixels.astype(np.float32)
    luma = luma @ _LUMA if luma.shape[3] == _LUMA.size else luma[..., 0]
    height, width = luma.shape[1:]
    border = np.concatenate([luma[:, 0], luma[:, -1], luma[:, 1:-1, 0], luma[:, 1:-1, -1]], axis=1)
    luma -= border.mean(axis=1)[:, None, None]
    weight = np.abs(luma)
    weight = np.maximum(weight - _NOISE * weight.max(axis=(1, 2), keepdims=True), 0.0)
    total = np.maximum(weight.sum(axis=(1, 2)), 1e-6)
    down, right = ((np.arange(side, dtype=np.float32) + 0.5) / side - 0.5 for side in (height, width))
    centre_y = np.clip(weight.sum(axis=2) @ down / total, -_MAX_OFFSET, _MAX_OFFSET)
    centre_x = np.clip(weight.sum(axis=1) @ right / total, -_MAX_OFFSET, _MAX_OFFSET)
    rows, columns = _waves(down, centre_y), _waves(right, centre_x)
    found = rows @ luma @ columns.transpose(0, 2, 1)
    lacking = min(height, width)
    found[:, lacking:] = 0.0
    found[:, :, lacking:] = 0.0
    found[:, 0, 0] = 0.0
    return np.asarray(found / np.float32(height * width), dtype=np.float32)


def _waves(places: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return orthonormal cosines, the middle of the picture moved to its centre: float32 [n, 16, side]."""
    frequencies = np.arange(SIZE, dtype=np.float32)
    scale = np.where(frequencies == 0, 1.0, np.sqrt(2.0)).astype(np.float32)
    phase = places[None] - centres[:, None] + np.float32(0.5)
    waves = np.cos(np.pi * frequencies[None, :, None] * phase[:, None])
    return np.asarray(scale[None, :, None] * waves, dtype=np.float32)


def _look(coefficients: NDArray[np.float32]) -> Looks:
    flat = coefficients.reshape(len(coefficients), -1)
    lengths = np.sqrt(np.einsum("nd,nd->n", flat, flat))
    hashes = _pack(flat[:, _HASH_PLACES] > 0)
    equal = np.zeros_like(flat)
    for ring in _RINGS:
        part = flat * ring
        size = np.sqrt(np.einsum("nd,nd->n", part, part))
        equal += part / np.maximum(np.maximum(size, _MIN_RING * lengths), 1e-6)[:, None]
    largest = np.maximum(np.abs(equal).max(axis=1), 1e-6)
    descriptors = np.rint(equal * (127.0 / largest)[:, None]).astype(np.int8)
    return Looks(hashes, descriptors, lengths < _MIN_LENGTH)


def _pack(bits: NDArray[np.bool_] | NDArray[np.uint8]) -> NDArray[np.uint64]:
    wide = np.zeros((len(bits), 64), dtype=np.uint8)
    wide[:, :NUM_BITS] = bits
    packed = np.packbits(wide, axis=1, bitorder="little").view("<u8")
    return np.asarray(packed.reshape(-1), dtype=np.uint64)


def _hash_places() -> NDArray[np.int64]:
    """Return the places of the hashed coefficients; neighbours in the hash are of low and high frequency."""
    places = [(u, v) for u in range(_HASH_SIZE) for v in range(_HASH_SIZE) if u or v]
    places.sort(key=lambda place: (place[0] + place[1], place))
    spread = [place for start in range(_INTERLEAVE) for place in places[start::_INTERLEAVE]]
    return np.array([u * SIZE + v for u, v in spread])


def _rings() -> NDArray[np.float32]:
    frequencies = np.arange(SIZE)
    radius = np.hypot(frequencies[:, None], frequencies[None]).reshape(-1)
    borders = pairwise(_RING_BORDERS)
    return np.stack([(low <= radius) & (radius < high) for low, high in borders]).astype(np.float32)


DESCRIPTOR_SOURCE = np.stack([coefficient_order(transform, SIZE) for transform in TRANSFORMS])
"""int64 [8, 256]: see coefficient_order."""
DESCRIPTOR_SIGN = np.stack([coefficient_signs(transform, SIZE) for transform in TRANSFORMS])
"""float32 [8, 256]: see coefficient_signs."""
_RINGS = _rings()
_HASH_PLACES = _hash_places()
_BIT_OF_PLACE = {place: bit for bit, place in enumerate(_HASH_PLACES.tolist())}
_BIT_SOURCE = np.array(
    [[_BIT_OF_PLACE[place] for place in source[_HASH_PLACES].tolist()] for source in DESCRIPTOR_SOURCE]
)
_BIT_INVERTED = DESCRIPTOR_SIGN[:, _HASH_PLACES] < 0
_BIT_FREQUENCY = np.maximum(_HASH_PLACES // SIZE, _HASH_PLACES % SIZE)
