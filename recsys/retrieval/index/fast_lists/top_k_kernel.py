"""The best of many scores: where they begin, which they are, in order. Inner loops of a search.

Two kinds of scores: float32 of lists and posts, and 16-bit integers of codes, `LANES` to a block. It does not know
what is scored.
"""

from __future__ import annotations

import numpy as np

from recsys.retrieval.index.fast_lists.jit import jit
from recsys.retrieval.index.fast_lists.simd import LANES, lowest_bit, reaching

FLOOR = -32_768
"""16-bit score of lanes without a post, below every other."""
_BINS = 1024
"""Parts of the range of float scores that are told apart at once."""
_NARROW = np.float32(1e-36)
"""Width of such a part that tells nothing apart: one over a narrower one may be infinite."""
_SHIFT = 5
"""16-bit scores that fall together when the best are counted, as bits."""


@jit
def nth_best(values, n):  # type: ignore[no-untyped-def]
    """One of these numbers, that at least n of them reach, or all, and few more do but those that equal it."""
    n = max(n, 1)
    low = high = values[0]
    for i in range(len(values)):
        low, high = min(low, values[i]), max(high, values[i])
    above = 0
    while True:
        # Of the numbers from low to high, which are among the given ones, so that rounding moves none in or out.
        width = (high - low) / np.float32(_BINS)
        if not width > _NARROW:
            return low
        count = np.zeros(_BINS, np.int32)
        least, most = np.full(_BINS, high), np.full(_BINS, low)
        for i in range(len(values)):
            if low <= values[i] <= high:
                place = min(int((values[i] - low) / width), _BINS - 1)
                count[place] += 1
                least[place], most[place] = min(least[place], values[i]), max(most[place], values[i])
        place, reached = _BINS, above
        while place > 0 and reached < n:
            place -= 1
            reached += count[place]
        if count[place] * 8 <= max(n, 64) or (least[place] == low and most[place] == high):
            return least[place]
        # Too many of them lie together: look into that bin again.
        above = reached - count[place]
        low, high = least[place], most[place]


@jit
def least_of_best(score, wanted):  # type: ignore[no-untyped-def]
    """A score that at least `wanted` of these reach (and few more do), above that of empty lanes."""
    count = np.zeros(1 << (16 - _SHIFT), np.int32)
    for i in range(len(score)):
        count[(np.int32(score[i]) - FLOOR) >> _SHIFT] += 1
    reached = 0
    for place in range(len(count) - 1, -1, -1):
        reached += count[place]
        if reached >= wanted:
            return max((place << _SHIFT) + FLOOR, FLOOR + 1)
    return FLOOR + 1


@jit
def lanes_at_least(score, lowest):  # type: ignore[no-untyped-def]
    """Places of the scores that reach this one, in order."""
    place = np.empty(len(score), np.int32)
    n = 0
    for at in range(np.uint64(0), np.uint64(len(score)), np.uint64(LANES)):
        left = reaching(score, at, np.int16(lowest))
        while left:
            place[n] = np.int32(at) + np.int32(lowest_bit(left))
            n += 1
            left &= left - np.uint32(1)
    return place[:n]


@jit
def pack_sort_keys(rows, score):  # type: ignore[no-untyped-def]
    """An integer per row, (M,) int64, that is smaller the higher its score is; of equal scores, for smaller rows."""
    key, bits = np.empty(len(rows), np.int64), score.view(np.int32)
    for i in range(len(rows)):
        number = np.int64(bits[i])
        key[i] = ((-number if number >= 0 else number + (np.int64(1) << 31)) << 32) + rows[i]
    return key


@jit
def unpack_sort_keys(key, factor, rows, score):  # type: ignore[no-untyped-def]
    """Rows and scores of these integers, times this factor, into two arrays as far as they reach, then -1 and -inf."""
    n = min(len(key), len(rows))
    bits = np.empty(n, np.int32)
    for i in range(n):
        rows[i] = np.int32(key[i] & 0x7FFFFFFF)
        number = key[i] >> 32
        bits[i] = -number if number <= 0 else number - (np.int64(1) << 31)
    found = bits.view(np.float32)
    for i in range(n):
        score[i] = found[i] * factor
    rows[n:], score[n:] = -1, -np.inf
