"""The inner loops of a search through inverted lists of four-bit codes.

    coarse scores ─► which lists ─► their blocks ─► score of every code ─► the best of them, if allowed ─► exact scores

Takes plain arrays and one query; gives post rows and scores. Scores of codes are 16-bit integers. Their unit is chosen
per query so that one step of a nibble adds a whole number that fits into one byte. A block holds the codes of `LANES`
posts, two bytes of each post at a time, which is the order that byte products need (`simd`). How lists and codes are
built: `inverted_file`.

Shapes: L lists, D dimensions, P bytes a code, V visited blocks, N posts, M posts found.
"""

from __future__ import annotations

import numpy as np

from recsys.retrieval.index.fast_lists.jit import jit
from recsys.retrieval.index.fast_lists.simd import BYTES_PER_CALL, LANES, add_codes, lowest_bit, prefetch
from recsys.retrieval.index.fast_lists.top_k_kernel import (
    FLOOR,
    lanes_at_least,
    nth_best,
    nth_best_int16,
    pack_sort_keys,
)

MAX_CODE_SCORE = 15_000
"""Largest contribution of a code to a 16-bit score. The score of its list contributes at most as much again."""
MAX_WEIGHT = 127
"""Largest weight of a nibble in units of the score: it must fit into a signed byte."""

_BLOCKS_AHEAD = 16
"""Prefetch distance while scoring codes, in blocks."""
_ROWS_AHEAD = 48
"""Prefetch distance while looking up the posts of lanes, in lanes."""
_POSTS_AHEAD = 16
"""Prefetch distance while rescoring, in posts."""

_MIN_OF_EXPECTED = 0.9
"""Search deeper when the filter allows less than this fraction of the number of best posts that its overall share
predicts, by more than chance (`_STANDARD_ERRORS`)."""
_STANDARD_ERRORS = 2.0
"""Standard errors that count as chance. Without a filter the standard error is 0."""
_MAX_DEEPENING = 8.0
"""Largest factor by which one pass deepens the search; also used when none of the best posts is allowed."""
_SCORE_ALL_ABOVE = 0.5
"""Above this share of posts, scoring all in memory order (10 to 13 ns a post) is faster than rescoring single ones."""


@jit
def best_of_lists(  # type: ignore[no-untyped-def]
    query, n_lists, k, wanted, to_seen, centres, starts, sizes, number_of, step, codes, rows, kept, kept_scale, allowed,
    expected_share,
):  # fmt: skip
    """Search the lists for one query: about `wanted` of the best posts, unordered.

    It is one compiled call, because a Python call for each step would take as long as a whole search of few lists.

    Args:
        query: (D,) float32, finite.
        n_lists, k, wanted, allowed, expected_share: as in `search`; all others as in `InvertedFile`.
    Returns: sort keys of posts and scores (`pack_sort_keys`), (M,) int64, and the factor to multiply their scores by.
    """
    # 1. Scale the query, (D,), and transform it to the space of the lists, (D,) @ (D, D) -> (D,).
    scaled, largest = _scaled(query)
    seen = np.zeros(len(scaled), np.float32)
    for i in range(len(scaled)):
        for j in range(len(scaled)):
            seen[j] += scaled[i] * to_seen[i, j]
    # 2. Score every list by its centre, (L, D) @ (D,) -> (L,).
    coarse = np.empty(len(centres), np.float32)
    for i in range(len(centres)):
        total = np.float32(0)
        for j in range(len(seen)):
            total += centres[i, j] * seen[j]
        coarse[i] = total
    # 3. Score that one step of each nibble adds, (2 P,).
    per_step = np.empty(len(step), np.float32)
    for i in range(len(step)):
        per_step[i] = seen[number_of[i]] * step[i]
    # 4. Score codes, then rescore the best posts: rows and scores, (M,) each.
    factor, base = _byte_weights(scaled, kept_scale)
    found, score = search(
        coarse, n_lists, per_step, starts, sizes, codes.reshape(-1), rows, kept, factor, base, k, wanted, allowed,
        expected_share,
    )  # fmt: skip
    return pack_sort_keys(found, score), largest


@jit
def best_of_allowed(query, k, kept, kept_scale, allowed, n_allowed):  # type: ignore[no-untyped-def]
    """Score every allowed post, about `n_allowed` of them, and return the best; otherwise as `best_of_lists`."""
    scaled, largest = _scaled(query)
    factor, base = _byte_weights(scaled, kept_scale)
    rows, score = score_allowed(kept, factor, base, allowed, n_allowed, k)
    return pack_sort_keys(rows, score), largest


@jit
def _scaled(query):  # type: ignore[no-untyped-def]
    """Divide the query by its largest absolute value; returns both.

    Long after the build, the freshness part of a query is so large that products would overflow float32.
    """
    largest = np.float32(1e-30)
    for i in range(len(query)):
        largest = max(largest, abs(query[i]))
    return query / largest, largest


@jit
def _byte_weights(query, kept_scale):  # type: ignore[no-untyped-def]
    """Turn the query, (D,), into `factor`, (D,), and `base`: score = base + kept[row] @ factor."""
    factor, base = np.empty(len(query), np.float32), np.float32(0)
    for i in range(len(query)):
        factor[i] = query[i] * kept_scale[0, i]
        base += query[i] * kept_scale[1, i]
    return factor, base


@jit
def search(  # type: ignore[no-untyped-def]
    coarse, n_lists, per_step, starts, sizes, codes, rows, kept, factor, base, k, wanted, allowed, expected_share
):
    """Find about `wanted` of the best posts of one query, unordered.

    Args:
        coarse: score of every list's centre, (L,) float32.
        n_lists: lists to visit, at least.
        per_step: score that one step of each nibble adds, (2 P,) float32.
        starts: first block of each list, (L + 1,).
        sizes: number of posts in each list, (L,).
        codes: `InvertedFile.codes` flattened, (blocks * P * LANES,) uint8. A block holds two bytes of each of its
            `LANES` codes, then the next two bytes of each, and so on. Two bytes hold four nibbles: the first two are
            the low halves.
        rows: post row of each lane, (blocks * LANES,).
        kept: vectors for rescoring, (N, D), of any number type.
        factor, base: (D,) float32 and a number: rescored score = base + kept[row] @ factor.
        k: number of results that the caller will use.
        wanted: number of posts to rescore; more than k, because scores of codes are approximate.
        allowed: bitmap of the allowed posts, little-endian; empty allows all.
        expected_share: approximate share of posts that is allowed.
    Returns: rows and scores, (M,) each, M >= min(k, allowed posts of the visited lists).
    """
    while True:
        # 1. Choose the lists: those whose centre reaches the score of the n_lists-th best.
        cutoff = nth_best(coarse, n_lists)
        lists, n_visited = np.empty(len(coarse) + 1, np.int32), 0
        for i in range(len(coarse)):
            lists[n_visited] = i  # no branch: the processor could not predict it
            n_visited += coarse[i] >= cutoff
        lists = lists[:n_visited]
        # 2. Score their codes. Of all posts, `n_best` score like the best k allowed ones; `n_best_allowed` are allowed.
        found, found_score, lowest, n_best, n_best_allowed = _best_by_code(
            coarse, lists, cutoff, n_lists, per_step, starts, sizes, codes, rows, k, wanted, allowed, expected_share
        )
        # 3. Stop if the filter allows as many of the best posts as its overall share predicts.
        chance = _STANDARD_ERRORS * np.sqrt(n_best_allowed * max(1 - expected_share, 0.0))
        if n_best_allowed + chance >= _MIN_OF_EXPECTED * expected_share * n_best:
            break
        # 4. Otherwise the filter removes the posts that this user likes best (posts returned before, for example). The
        # best allowed posts rank lower, and their scores are closer together: search again, deeper.
        deeper = min(expected_share * n_best / n_best_allowed, _MAX_DEEPENING) if n_best_allowed else _MAX_DEEPENING
        n_lists, wanted, expected_share = int(n_lists * deeper) + 1, int(wanted * deeper), expected_share / deeper
        if wanted > _SCORE_ALL_ABOVE * len(kept):
            return score_allowed(kept, factor, base, allowed, int(expected_share * len(kept)), k)
    # 5. Rescore the posts whose code reaches `lowest`.
    return _rescore(kept, found, found_score, lowest, factor, base)


@jit
def _best_by_code(  # type: ignore[no-untyped-def]
    coarse, lists, cutoff, n_lists, per_step, starts, sizes, codes, rows, k, wanted, allowed, expected_share
):  # fmt: skip
    """Score the codes of these lists and read out the best allowed posts.

    Returns:
        found, found_score: rows and 16-bit scores of allowed posts, (M,) each.
        lowest: score that about `wanted` of them reach.
        n_best: number of posts, allowed or not, that score at least as high as the k-th best allowed one.
        n_best_allowed: how many of those are allowed.
    """
    # 1. Choose the unit of the 16-bit scores so that neither codes nor lists overflow, and each weight fits a byte.
    of_visited = coarse[lists]
    best, near = of_visited.max(), nth_best(of_visited, max(n_lists // 4, 1))
    unit = max(np.abs(per_step).sum() * np.float32(7.5), best - cutoff, np.float32(1e-30)) / np.float32(MAX_CODE_SCORE)
    unit = max(unit, np.abs(per_step).max() / np.float32(MAX_WEIGHT))
    # 2. Weight of each nibble in that unit, (2 P,) int8. Nibbles are centred at 7.5; `middle` sums the weights.
    weight = np.empty(len(per_step), np.int8)
    middle = 0
    for i in range(len(per_step)):
        weight[i] = np.int8(round(per_step[i] / unit))
        middle += weight[i]
    # 3. Score all lanes of the visited blocks, (V * LANES,) int16.
    blocks, bias, lanes, n_near = _blocks_to_visit(lists, coarse, near, best, unit, starts, sizes)
    score = _score_blocks(codes, blocks, bias, lanes, weight, np.int64(np.floor(7.5 * middle)))
    # 4. Read out the best lanes. If a share s is allowed, wanted / s lanes give about `wanted` allowed posts. The
    # threshold comes from the nearest lists only, so it can only be too low.
    n_read = int(wanted / max(expected_share, 0.01)) + 1
    while True:
        if 2 * n_read > n_near * LANES:
            n_near = len(blocks)  # the nearest lists are too few to estimate from
        lowest = nth_best_int16(score[: n_near * LANES], n_read)
        lane = lanes_at_least(score, lowest)
        found, found_score = _allowed_rows(lane, score, blocks, rows, allowed)
        if len(found) >= wanted or lowest == FLOOR + 1:
            break
        # The filter allows too few of them: read out more.
        n_read *= 4
    # 5. Count the posts that reach the score of the k-th best allowed one: all, and allowed ones.
    kth_score, n_best, n_best_allowed = nth_best_int16(found_score, k), 0, 0
    for i in range(len(lane)):
        n_best += score[lane[i]] >= kth_score
    for i in range(len(found)):
        n_best_allowed += found_score[i] >= kth_score
    return found, found_score, nth_best_int16(found_score, wanted), n_best, n_best_allowed


@jit
def score_allowed(kept, factor, base, allowed, n_allowed, k):  # type: ignore[no-untyped-def]
    """Score every allowed post; returns rows and scores of the best k or a few more.

    `n_allowed` estimates their number, for the first allocation.
    """
    # 1. List the rows of set bits, 32 bits of the bitmap at a time.
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
    # 2. Score them, (n,), and keep those that reach the k-th best score.
    rows, score = _rescore(kept, rows[:n], np.zeros(n, np.int16), 0, factor, base)
    if n <= k:
        return rows, score
    best = score >= nth_best(score, k)
    return rows[best], score[best]


@jit
def _blocks_to_visit(lists, coarse, near, best, unit, starts, sizes):  # type: ignore[no-untyped-def]
    """List the blocks of these lists, those of lists that score at least `near` first.

    Returns:
        blocks: (V,).
        bias: score of each block's list minus the best list's, in units, (V,) int16.
        lanes: filled lanes of each block, (V,).
        n_near: number of blocks of the lists that score at least `near`.
    """
    n = 0
    for i in lists:
        n += starts[i + 1] - starts[i]
    blocks, bias, lanes = np.empty(n, np.int32), np.empty(n, np.int16), np.empty(n, np.int32)
    n = n_near = 0
    for far in range(2):
        for i in lists:
            if (coarse[i] >= near) == (far == 0):
                below, left = np.int16((coarse[i] - best) / unit), sizes[i]
                for block in range(starts[i], starts[i + 1]):
                    blocks[n], bias[n], lanes[n] = block, below, min(left, LANES)
                    left -= LANES
                    n += 1
        if far == 0:
            n_near = n
    return blocks, bias, lanes, n_near


@jit
def _score_blocks(codes, blocks, bias, lanes, weight, middle):  # type: ignore[no-untyped-def]
    """Score every lane, (V * LANES,) int16: its list's score plus the sum of (nibble - 7.5) * weight.

    `weight` is (2 P,) int8, `middle` 7.5 times its sum. For the others see `_blocks_to_visit`.
    """
    # Indexes are unsigned: numba adds a check for negative ones otherwise.
    width, size, n_bytes = np.uint64(LANES), np.uint64(len(weight) // 2 * LANES), np.uint64(BYTES_PER_CALL)
    score = np.empty(len(blocks) * LANES, np.int16)
    last = len(blocks) - 1
    for i in range(len(blocks)):
        # 1. Prefetch a later block, P * LANES bytes.
        ahead = np.uint64(blocks[min(i + _BLOCKS_AHEAD, last)]) * size
        for line in range(np.uint64(0), size, np.uint64(64)):
            prefetch(codes, ahead + line)
        # 2. Start every lane with its list's score.
        out = np.uint64(i) * width
        start = np.int16(bias[i] - middle)
        for j in range(width):
            score[out + j] = start
        # 3. Add the nibbles of all lanes, BYTES_PER_CALL bytes of each code at a time.
        at = np.uint64(blocks[i]) * size
        for byte in range(np.uint64(0), np.uint64(len(weight) // 2), n_bytes):
            add_codes(codes, at + byte * width, weight, np.uint64(2) * byte, score, out)
        # 4. Empty lanes get the lowest score.
        for j in range(lanes[i], LANES):
            score[out + np.uint64(j)] = FLOOR
    return score


@jit
def _allowed_rows(lane, score, blocks, rows, allowed):  # type: ignore[no-untyped-def]
    """Look up the posts at these lanes and drop those that are not allowed; returns rows and scores."""
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
def _rescore(kept, found, found_score, lowest, factor, base):  # type: ignore[no-untyped-def]
    """Rescore the posts whose 16-bit score is at least `lowest`: base + kept[row] @ factor.

    Returns: rows and scores, (M,) each.
    """
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
