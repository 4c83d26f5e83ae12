"""Select the best of many scores: find a threshold, list the scores that reach it, sort them.

Two kinds of scores: float32 (lists and posts) and 16-bit integers (codes, `LANES` to a block). Thresholds come from
histograms, which are faster than sorting. This module does not know what is scored.
"""

from __future__ import annotations

import numpy as np

from recsys.retrieval.index.fast_lists.jit import jit
from recsys.retrieval.index.fast_lists.simd import LANES, at_least_mask, lowest_bit

FLOOR = -32_768
"""16-bit score of empty lanes; every other score is higher."""
_BINS = 1024
"""Bins of the histogram of float scores."""
_MIN_BIN_WIDTH = np.float32(1e-36)
"""Narrower bins are not used: 1 / width could be infinite."""
_SHIFT = 5
"""Low bits that the histogram of 16-bit scores ignores."""


@jit
def nth_best(values, n):  # type: ignore[no-untyped-def]
    """Approximate n-th largest of these values, (M,) float32.

    Returns: one of the values. At least min(n, M) values reach it. At most max(n, 64) / 8 of them are below the exact
        n-th largest.
    """
    n = max(n, 1)
    low = high = values[0]
    for i in range(len(values)):
        low, high = min(low, values[i]), max(high, values[i])
    above = 0
    while True:
        # 1. Histogram of the values in [low, high]. Both ends are values themselves, so rounding moves none in or out.
        width = (high - low) / np.float32(_BINS)
        if not width > _MIN_BIN_WIDTH:
            return low
        count = np.zeros(_BINS, np.int32)
        least, most = np.full(_BINS, high), np.full(_BINS, low)
        for i in range(len(values)):
            if low <= values[i] <= high:
                place = min(int((values[i] - low) / width), _BINS - 1)
                count[place] += 1
                least[place], most[place] = min(least[place], values[i]), max(most[place], values[i])
        # 2. From the top, find the bin that holds the n-th largest value.
        place, reached = _BINS, above
        while place > 0 and reached < n:
            place -= 1
            reached += count[place]
        # 3. Its smallest value is the answer, unless it holds too many values.
        if count[place] * 8 <= max(n, 64) or (least[place] == low and most[place] == high):
            return least[place]
        # 4. Otherwise split this bin again.
        above = reached - count[place]
        low, high = least[place], most[place]


@jit
def nth_best_int16(score, wanted):  # type: ignore[no-untyped-def]
    """Approximate `wanted`-th largest 16-bit score, rounded down to a multiple of 32.

    At least `wanted` scores reach it, if there are so many. The result is above `FLOOR`: empty lanes never reach it.
    """
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
    """Indexes of the scores, (lanes,) int16, that are at least `lowest`, ascending, (M,) int32."""
    place = np.empty(len(score), np.int32)
    n = 0
    for at in range(np.uint64(0), np.uint64(len(score)), np.uint64(LANES)):
        left = at_least_mask(score, at, np.int16(lowest))
        while left:
            place[n] = np.int32(at) + np.int32(lowest_bit(left))
            n += 1
            left &= left - np.uint32(1)
    return place[:n]


@jit
def pack_sort_keys(rows, score):  # type: ignore[no-untyped-def]
    """Pack score and row into one sort key per post, (M,) int64.

    Ascending keys mean descending scores; equal scores are in order of row. The upper 32 bits hold the negated bits of
    the score, the lower 32 the row.
    """
    key, bits = np.empty(len(rows), np.int64), score.view(np.int32)
    for i in range(len(rows)):
        number = np.int64(bits[i])
        key[i] = ((-number if number >= 0 else number + (np.int64(1) << 31)) << 32) + rows[i]
    return key


@jit
def unpack_sort_keys(key, factor, rows, score):  # type: ignore[no-untyped-def]
    """Write the rows and scores of sort keys (`pack_sort_keys`) into two arrays; scores are multiplied by `factor`.

    Keys beyond the end of the arrays are dropped. Positions beyond the last key get row -1 and score -inf.
    """
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
