"""Pairs of hashes that differ in few bits, without comparing all with all.

The 63 bits are cut into max_distance + 1 bands. Two hashes that differ in at most max_distance bits agree
in one band at least (pigeonhole), so only rows with the same value in a band are compared: at max_distance 8
in 9 bands of 7 bits, about 7% of all pairs if the values are even. The rows of a bucket are compared as a
product of matrices of +1 and -1, which counts the agreeing bits at the speed of the processor. A bucket that
very many rows fall into would cost its square: the rows beyond a limit are left out there, and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dlspark.data.audit.perceptual_hash import NUM_BITS, transformed_hashes, unpack
from dlspark.data.audit.records import KINDS, PAIR, PROBE, STORED

_QUERIES = 2048
_STORED = 8192
_VALUE_BITS = 25


def band_borders(max_distance: int) -> list[int]:
    """Return the first bit of each band, and NUM_BITS; for max_distance in [2, 31]."""
    return [NUM_BITS * band // (max_distance + 1) for band in range(max_distance + 2)]


def buckets_of(hashes: NDArray[np.uint64], max_distance: int) -> NDArray[np.uint32]:
    """Return the bucket of each hash in each band, a number of band and value: uint32 [bands, n]."""
    borders = band_borders(max_distance)
    found = np.empty((len(borders) - 1, len(hashes)), dtype=np.uint32)
    for band, (low, high) in enumerate(pairwise(borders)):
        values = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        found[band] = values.astype(np.uint32) | np.uint32(band << _VALUE_BITS)
    return found


def probes_of(
    hashes: NDArray[np.uint64], addresses: NDArray[np.int64], *, side: int, max_distance: int
) -> NDArray[np.void]:
    """Return the rows in all their buckets: once as stored, and once as a query under each transform.

    Args:
        hashes: uint64 [n].
        addresses: int64 [n].
        side: of the pictures in pixels, the shorter one.
        max_distance: bits.

    Returns:
        PROBE [9 n bands].
    """
    parts = []
    for transform, turned in [(STORED, hashes), *enumerate(transformed_hashes(hashes, side))]:
        for buckets in buckets_of(turned, max_distance):
            part = np.empty(len(hashes), dtype=PROBE)
            part["bucket"], part["transform"] = buckets, transform
            part["address"], part["hash"] = addresses, turned
            parts.append(part)
    return np.concatenate(parts)


def compare(
    probes: NDArray[np.void], *, max_distance: int, max_bucket_rows: int
) -> Iterator[tuple[NDArray[np.void], int]]:
    """Yield the close pairs of each bucket, and how many of its rows were left out.

    A pair that shares several buckets comes from the first of them only; under several transforms it comes
    once for each.

    Args:
        probes: PROBE; all of each of its buckets.
        max_distance: as for the probes.
        max_bucket_rows: stored rows of a bucket that are compared.
    """
    order = np.lexsort((probes["address"], probes["bucket"]))
    probes = probes[order]
    starts = np.flatnonzero(np.diff(probes["bucket"], prepend=np.uint32(2**32 - 1)))
    for bucket in np.split(probes, starts[1:]):
        stored = bucket[bucket["transform"] == STORED]
        queries = bucket[bucket["transform"] != STORED]
        num_left_out = max(0, len(stored) - max_bucket_rows)
        if num_left_out:
            stored = stored[:max_bucket_rows]
            queries = queries[queries["address"] <= stored["address"][-1]]
        for start in range(0, len(queries), _QUERIES):
            yield _compare(stored, queries[start : start + _QUERIES], max_distance), 0
        yield np.empty(0, dtype=PAIR), num_left_out


def _compare(stored: NDArray[np.void], queries: NDArray[np.void], max_distance: int) -> NDArray[np.void]:
    # Both are in the order of their addresses, and a pair has the smaller address stored.
    stored = stored[: np.searchsorted(stored["address"], queries["address"][-1])]
    found = []
    query_signs = _signs(queries["hash"])
    for start in range(0, len(stored), _STORED):
        part = stored[start : start + _STORED]
        agreeing = query_signs @ _signs(part["hash"]).T
        query, place = np.divmod(np.flatnonzero(agreeing >= 64 - 2 * max_distance), len(part))
        is_pair = part["address"][place] < queries["address"][query]
        query, place = query[is_pair], place[is_pair]
        pairs = np.empty(len(query), dtype=PAIR)
        pairs["a"], pairs["b"] = part["address"][place], queries["address"][query]
        pairs["kind"], pairs["transform"] = KINDS.index("near"), queries["transform"][query]
        pairs["distance"] = (64 - agreeing[query, place]) / 2
        different = part["hash"][place] ^ queries["hash"][query]
        found.append(pairs[_is_first(different, queries["bucket"][0], max_distance)])
    return np.concatenate(found) if found else np.empty(0, dtype=PAIR)


def _is_first(different: NDArray[np.uint64], bucket: int, max_distance: int) -> NDArray[np.bool_]:
    """Tell which pairs differ in every band before that of the bucket."""
    earlier = buckets_of(different, max_distance)[: int(bucket) >> _VALUE_BITS]
    return np.asarray(((earlier & np.uint32((1 << _VALUE_BITS) - 1)) != 0).all(axis=0))


def _signs(hashes: NDArray[np.uint64]) -> NDArray[np.float32]:
    return unpack(hashes).astype(np.float32) * 2.0 - 1.0
