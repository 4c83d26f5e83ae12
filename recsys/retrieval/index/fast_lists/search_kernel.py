"""The inner loops of a search through inverted lists of four-bit codes.

    coarse scores ─► which lists ─► their blocks ─► score of every code ─► the best of them, if allowed ─► exact scores

Takes plain arrays, gives rows and scores of one query. Scores of codes are 16-bit integers in a unit of the query's
own, in which one step of a number of a code adds a whole number of one byte. Blocks hold `LANES` codes, two bytes of
each after the other, as byte products take them (`instructions`). It does not know how lists and codes were made
(`inverted_file`).
"""

from __future__ import annotations

import numpy as np

from recsys.retrieval.index.fast_lists.jit import jit
from recsys.retrieval.index.fast_lists.simd import BYTES_PER_CALL, LANES, add_codes, lowest_bit, prefetch
from recsys.retrieval.index.fast_lists.top_k_kernel import (
    FLOOR,
    lanes_at_least,
    least_of_best,
    nth_best,
    pack_sort_keys,
)

SPAN = 15_000
"""Largest part of a 16-bit score that codes make up; their list adds as much again."""
HEAVIEST = 127
"""Weight of a number, in units of the score, at most: a byte."""

_AHEAD = 16
"""Blocks between the one that is read and the one that is asked for from memory."""
_ROWS_AHEAD = 48
"""Lanes between the one whose post is looked up and the one that is asked for."""
_POSTS_AHEAD = 16
"""Posts between the one that is rescored and the one that is asked for."""

_AS_EXPECTED = 0.9
"""A search looks deeper where less than this share of what is expected of the best may appear, and not by chance."""
_CHANCE = 2.0
"""Standard errors of a share that count as chance; there is none where all posts may appear."""
_DEEPEST = 8.0
"""Times as many at once: where none of the best may appear, nothing says how far the first that may is."""
_MANY = 0.5
"""Share of all posts that take as long, found by code and scored one by one, as all in order of memory: 10 to 13 ns a
post."""


@jit
def best_of_lists(  # type: ignore[no-untyped-def]
    query, n_lists, k, wanted, to_seen, centres, starts, sizes, number_of, step, codes, rows, kept, kept_scale, allowed,
    expected_share,
):  # fmt: skip
    """The best posts of one query, about `wanted` of them, in no order: a search in one call, since a call from Python
    for each of its steps takes as long as a whole search of few lists.

    Args:
        query: (D,) float32, finite.
        n_lists, k, wanted, allowed, expected_share: as of `search`; all others as of `InvertedFile`.
    Returns: integers (`pack_sort_keys`) of posts and scores, (M,), and what their scores are to be multiplied by.
    """
    scaled, largest = _scaled(query)
    seen = np.zeros(len(scaled), np.float32)
    for i in range(len(scaled)):
        for j in range(len(scaled)):
            seen[j] += scaled[i] * to_seen[i, j]
    coarse = np.empty(len(centres), np.float32)
    for i in range(len(centres)):
        total = np.float32(0)
        for j in range(len(seen)):
            total += centres[i, j] * seen[j]
        coarse[i] = total
    per_step = np.empty(len(step), np.float32)
    for i in range(len(step)):
        per_step[i] = seen[number_of[i]] * step[i]
    factor, base = _of_kept(scaled, kept_scale)
    found, score = search(
        coarse, n_lists, per_step, starts, sizes, codes.reshape(-1), rows, kept, factor, base, k, wanted, allowed,
        expected_share,
    )  # fmt: skip
    return pack_sort_keys(found, score), largest


@jit
def best_of_allowed(query, k, kept, kept_scale, allowed, n_allowed):  # type: ignore[no-untyped-def]
    """The best of all posts that may appear, about `n_allowed`, each scored; otherwise as `best_of_lists`."""
    scaled, largest = _scaled(query)
    factor, base = _of_kept(scaled, kept_scale)
    rows, score = score_allowed(kept, factor, base, allowed, n_allowed, k)
    return pack_sort_keys(rows, score), largest


@jit
def _scaled(query):  # type: ignore[no-untyped-def]
    """The query with 1 for its largest number, and what that was: freshness far from the build makes numbers so large
    that products would leave float32."""
    largest = np.float32(1e-30)
    for i in range(len(query)):
        largest = max(largest, abs(query[i]))
    return query / largest, largest


@jit
def _of_kept(query, kept_scale):  # type: ignore[no-untyped-def]
    """Weights of kept bytes, (D,), and what to add, so that this gives the score."""
    factor, base = np.empty(len(query), np.float32), np.float32(0)
    for i in range(len(query)):
        factor[i] = query[i] * kept_scale[0, i]
        base += query[i] * kept_scale[1, i]
    return factor, base


@jit
def search(  # type: ignore[no-untyped-def]
    coarse, n_lists, per_step, starts, sizes, codes, rows, kept, factor, base, k, wanted, allowed, expected_share
):
    """The best posts of one query, about `wanted` of them, in no order.

    Args:
        coarse: score of the query with every list's centre, (L,) float32.
        n_lists: lists to visit, at least.
        per_step: what one step of each number of a code adds to the score, (2 P,) float32.
        starts: first block of each list, (L + 1,).
        sizes: posts of each list, (L,).
        codes: two numbers of four bits to a byte, (blocks * P * LANES,) uint8: for each of the `LANES` codes of a block
            two bytes, then the next two; the first two of four numbers are the low halves.
        rows: post row of each lane, (blocks * LANES,).
        kept: what exact scores are made of, (N, D), any kind of number.
        factor: (D,) float32 and `base`: score = base + kept[row] @ factor.
        allowed: bitmap of posts that may appear, little-endian; empty allows all.
        k: how many of them will be asked for; `wanted` is more, since codes tell only about how good a post is.
        expected_share: about what share of posts is allowed.
    Returns: rows and scores, (M,) each, M >= min(k, allowed posts of the lists visited).
    """
    while True:
        cut = nth_best(coarse, n_lists)
        lists, n_visited = np.empty(len(coarse) + 1, np.int32), 0
        for i in range(len(coarse)):
            lists[n_visited] = i  # without a branch: nobody can predict which are visited
            n_visited += coarse[i] >= cut
        lists = lists[:n_visited]
        found, found_score, lowest, reach, may = _best_by_code(
            coarse, lists, cut, n_lists, per_step, starts, sizes, codes, rows, k, wanted, allowed, expected_share
        )
        chance = _CHANCE * np.sqrt(may * max(1 - expected_share, 0.0))
        if may + chance >= _AS_EXPECTED * expected_share * reach:
            break
        # What may not appear is what this user would like best, so that what may lies deeper, and closer together.
        deeper = min(expected_share * reach / may, _DEEPEST) if may else _DEEPEST
        n_lists, wanted, expected_share = int(n_lists * deeper) + 1, int(wanted * deeper), expected_share / deeper
        if wanted > _MANY * len(kept):
            return score_allowed(kept, factor, base, allowed, int(expected_share * len(kept)), k)
    return _exact(kept, found, found_score, lowest, factor, base)


@jit
def _best_by_code(  # type: ignore[no-untyped-def]
    coarse, lists, cut, n_lists, per_step, starts, sizes, codes, rows, k, wanted, allowed, expected_share
):  # fmt: skip
    """Posts of these lists that may appear, and their scores by code; the score that about `wanted` of them reach; how
    many of all posts are about as good as the best k of them, and how many of those may appear."""
    of_visited = coarse[lists]
    best, near = of_visited.max(), nth_best(of_visited, max(n_lists // 4, 1))
    unit = max(np.abs(per_step).sum() * np.float32(7.5), best - cut, np.float32(1e-30)) / np.float32(SPAN)
    unit = max(unit, np.abs(per_step).max() / np.float32(HEAVIEST))
    weight = np.empty(len(per_step), np.int8)
    middle = 0
    for i in range(len(per_step)):
        weight[i] = np.int8(round(per_step[i] / unit))
        middle += weight[i]
    blocks, bias, lanes, n_near = _blocks_to_visit(lists, coarse, near, best, unit, starts, sizes)
    score = _score_blocks(codes, blocks, bias, lanes, weight, np.int64(np.floor(7.5 * middle)))
    ask = int(wanted / max(expected_share, 0.01)) + 1
    while True:
        if 2 * ask > n_near * LANES:
            n_near = len(blocks)  # a few near lists say too little
        lowest = least_of_best(score[: n_near * LANES], ask)
        lane = lanes_at_least(score, lowest)
        found, found_score = _allowed_rows(lane, score, blocks, rows, allowed)
        if len(found) >= wanted or lowest == FLOOR + 1:
            break
        # Filters left too few of the best: the next best are read out too.
        ask *= 4
    of_results, reach, may = least_of_best(found_score, k), 0, 0
    for i in range(len(lane)):
        reach += score[lane[i]] >= of_results
    for i in range(len(found)):
        may += found_score[i] >= of_results
    return found, found_score, least_of_best(found_score, wanted), reach, may


@jit
def score_allowed(kept, factor, base, allowed, n_allowed, k):  # type: ignore[no-untyped-def]
    """Rows and exact scores of the best k, or few more, of about `n_allowed` posts, all that may appear."""
    rows = np.empty(2 * n_allowed + 64, np.int32)
    n, whole = 0, len(allowed) // 4
    words = allowed[: 4 * whole].view(np.uint32)
    for at in range(whole + 1):
        if at < whole:
            left = words[at]
        else:
            left = np.uint32(0)
            for byte in range(4 * whole, len(allowed)):
                left |= np.uint32(allowed[byte]) << np.uint32(8 * (byte - 4 * whole))
        if left == 0:
            continue
        if n + 32 > len(rows):
            longer = np.empty(2 * len(rows), np.int32)
            longer[:n] = rows[:n]
            rows = longer
        while left:
            rows[n] = np.int32(32 * at) + np.int32(lowest_bit(left))
            n += 1
            left &= left - np.uint32(1)
    rows, score = _exact(kept, rows[:n], np.zeros(n, np.int16), 0, factor, base)
    if n <= k:
        return rows, score
    best = score >= nth_best(score, k)
    return rows[best], score[best]


@jit
def _blocks_to_visit(lists, coarse, near, best, unit, starts, sizes):  # type: ignore[no-untyped-def]
    """Blocks of these lists, those that reach `near` first; their list's score in units below the best, their filled
    lanes; and how many are near."""
    n = 0
    for i in lists:
        n += starts[i + 1] - starts[i]
    blocks, bias, lanes = np.empty(n, np.int32), np.empty(n, np.int16), np.empty(n, np.int32)
    n = n_near = 0
    for turn in range(2):
        for i in lists:
            if (coarse[i] >= near) == (turn == 0):
                below, left = np.int16((coarse[i] - best) / unit), sizes[i]
                for block in range(starts[i], starts[i + 1]):
                    blocks[n], bias[n], lanes[n] = block, below, min(left, LANES)
                    left -= LANES
                    n += 1
        if turn == 0:
            n_near = n
    return blocks, bias, lanes, n_near


@jit
def _score_blocks(codes, blocks, bias, lanes, weight, middle):  # type: ignore[no-untyped-def]
    """Score of every lane: its list's, and of each number of its code (number - 7.5) * weight."""
    # Places are unsigned: a signed one might count from the end, and looking whether it does takes time.
    width, size, turn = np.uint64(LANES), np.uint64(len(weight) // 2 * LANES), np.uint64(BYTES_PER_CALL)
    score = np.empty(len(blocks) * LANES, np.int16)
    last = len(blocks) - 1
    for i in range(len(blocks)):
        ahead = np.uint64(blocks[min(i + _AHEAD, last)]) * size
        for line in range(np.uint64(0), size, np.uint64(64)):
            prefetch(codes, ahead + line)
        out = np.uint64(i) * width
        start = np.int16(bias[i] - middle)
        for j in range(width):
            score[out + j] = start
        at = np.uint64(blocks[i]) * size
        for byte in range(np.uint64(0), np.uint64(len(weight) // 2), turn):
            add_codes(codes, at + byte * width, weight, np.uint64(2) * byte, score, out)
        for j in range(lanes[i], LANES):
            score[out + np.uint64(j)] = FLOOR
    return score


@jit
def _allowed_rows(lane, score, blocks, rows, allowed):  # type: ignore[no-untyped-def]
    """Post rows at these lanes, and their scores, without those that are not allowed."""
    found, found_score = np.empty(len(lane), np.int32), np.empty(len(lane), np.int16)
    n = 0
    for place in range(len(lane)):
        i = lane[place]
        later = lane[min(place + _ROWS_AHEAD, len(lane) - 1)]
        prefetch(rows, np.uint64(blocks[later // LANES]) * np.uint64(LANES) + np.uint64(later % LANES))
        row = rows[np.int64(blocks[i // LANES]) * LANES + i % LANES]
        if len(allowed) == 0 or (allowed[row >> 3] >> (row & 7)) & 1:
            found[n], found_score[n] = row, score[i]
            n += 1
    return found[:n], found_score[:n]


@jit
def _exact(kept, found, found_score, lowest, factor, base):  # type: ignore[no-untyped-def]
    """Rows whose score by their code is high enough, and their scores by what is kept of them."""
    chosen = np.empty(len(found), np.int32)
    n = 0
    for i in range(len(found)):
        chosen[n] = found[i]
        n += found_score[i] >= lowest
    score = np.empty(n, np.float32)
    flat, size = kept.reshape(-1), np.uint64(len(factor))
    per_line = np.uint64(64 // kept.itemsize)
    for i in range(n):
        ahead = np.uint64(chosen[min(i + _POSTS_AHEAD, n - 1)]) * size
        for j in range(np.uint64(0), size, per_line):
            prefetch(flat, ahead + j)
        at, total = np.uint64(chosen[i]) * size, np.float32(0)
        for j in range(size):
            total += np.float32(flat[at + j]) * factor[j]
        score[i] = base + total
    return chosen[:n], score
