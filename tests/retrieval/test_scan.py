"""The vectorised search equals the same search written plainly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval import scan
from recsys.retrieval.instructions import LANES

N_LISTS, SIZE = 12, 16
ALL = np.empty(0, np.uint8)


def some_lists(seed, code_bytes):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 90, N_LISTS).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(-(-sizes // LANES))]).astype(np.int64)
    rows = np.full(starts[-1] * LANES, -1, np.int32)
    order = rng.permutation(sizes.sum()).astype(np.int32)
    at = 0
    for number, size in enumerate(sizes):
        rows[starts[number] * LANES :][:size] = order[at : at + size]
        at += size
    codes = rng.integers(0, 256, (starts[-1], code_bytes // 2, LANES, 2)).astype(np.uint8)
    kept = rng.integers(0, 256, (sizes.sum(), SIZE)).astype(np.uint8)
    coarse = rng.normal(size=N_LISTS).astype(np.float32) * 3
    step = rng.normal(size=2 * code_bytes).astype(np.float32) / 20
    return coarse, step, starts, sizes, codes, rows, kept, rng.normal(size=SIZE).astype(np.float32)


def plainly(coarse, n_lists, step, starts, sizes, codes, rows, allowed):
    """Float score by code of every allowed post of the best lists, by row."""
    score = {}
    for number in np.argsort(-coarse)[:n_lists]:
        for nth in range(sizes[number]):
            place = starts[number] * LANES + nth
            pairs = codes[place // LANES, :, place % LANES].astype(int)
            numbers = np.concatenate([pairs % 16, pairs // 16], axis=1).reshape(-1)
            if allowed[rows[place]]:
                score[int(rows[place])] = coarse[number] + float((numbers - 7.5) @ step)
    return score


@pytest.mark.parametrize("code_bytes", [8, 16, 24])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [1.0, 0.5, 0.02])
def test_a_search_finds_the_best_by_code_and_scores_them_exactly(seed, code_bytes, share):
    coarse, step, starts, sizes, codes, rows, kept, query = some_lists(seed, code_bytes)
    allowed = np.random.default_rng(seed).random(sizes.sum()) < share
    bits = np.packbits(allowed, bitorder="little")
    wanted = 25 if share > 0.1 else 3
    found, score = scan.search(
        coarse, 6, step, starts, sizes, codes.reshape(-1), rows, kept, query, 0.5, wanted, wanted, bits, share
    )
    by_code = plainly(coarse, N_LISTS, step, starts, sizes, codes, rows, allowed)
    visited = plainly(coarse, 6, step, starts, sizes, codes, rows, allowed)
    np.testing.assert_allclose(score, 0.5 + kept[found].astype(np.float32) @ query, rtol=1e-4, atol=1e-2)
    assert len(set(found.tolist())) == len(found) >= min(wanted, len(visited))
    assert set(found.tolist()) <= set(by_code)
    # Whole numbers stand for the scores: what was found is at least as good as what was not, but for their rounding.
    unit = max(np.abs(step).sum() * 7.5, np.ptp(np.sort(coarse)[-6:])) / scan.SPAN
    unit = max(unit, np.abs(step).max() / scan.HEAVIEST)
    rounding = unit * (7.5 * len(step) / 2 + 40)
    missed = [value for row, value in visited.items() if row not in set(found.tolist())]
    if missed and len(found) >= wanted:
        assert min(by_code[int(row)] for row in found) >= max(missed) - rounding


def test_without_a_bitmap_every_post_may_appear():
    coarse, step, starts, sizes, codes, rows, kept, query = some_lists(1, 8)
    found, _ = scan.search(
        coarse,
        N_LISTS,
        step,
        starts,
        sizes,
        codes.reshape(-1),
        rows,
        kept,
        query,
        0.0,
        10**6,
        10**6,
        np.empty(0, np.uint8),
        1.0,
    )
    np.testing.assert_array_equal(np.sort(found), np.arange(sizes.sum()))


def test_empty_lanes_are_never_found_however_good_their_code_is():
    coarse, step, starts, sizes, codes, rows, kept, query = some_lists(2, 8)
    best = np.where(step > 0, 15, 0).reshape(-1, 2, 2)
    code = (best[:, 0] | best[:, 1] << 4).astype(np.uint8)
    empty = np.flatnonzero(rows < 0)
    codes[empty // LANES, :, empty % LANES] = code
    found, _ = scan.search(coarse, 6, step, starts, sizes, codes.reshape(-1), rows, kept, query, 0.0, 10, 10, ALL, 1.0)
    assert len(found) >= 10
    assert (found >= 0).all()


@given(st.sampled_from([1e-38, 1e-40, 1e-44, 0.0]), st.lists(st.integers(0, 50), min_size=1, max_size=300))
def test_numbers_too_close_to_tell_apart_count_as_equal(unit, steps):
    values = np.array(steps, np.float32) * np.float32(unit)
    cut = scan._nth_best(values, 10)
    assert (values >= cut).sum() >= min(10, len(values))


close = st.floats(-1e3, 1e3, width=32)
values = st.one_of(
    st.lists(close, min_size=1, max_size=300),
    st.lists(st.sampled_from([0.1, 0.1 + 1e-7, 0.3, 7.0]), min_size=1, max_size=300),
    st.lists(st.one_of(close, st.sampled_from([1e15, -1e15])), min_size=1, max_size=300),
)


@given(values, st.integers(1, 400))
def test_at_least_so_many_reach_the_nth_best_and_not_many_more(values, n):
    values = np.array(values, np.float32)
    cut = scan._nth_best(values, n)
    assert cut in values
    reach = int((values >= cut).sum())
    assert reach >= min(n, len(values))
    exact = np.sort(values)[-min(n, len(values))]
    assert reach <= (values >= exact).sum() + max(n, 64) / 8


scores = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=300),
    st.lists(st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 7.0, -7.0]), max_size=300),
)


@given(scores, st.integers(0, 2**31 - 1))
def test_integers_sort_as_scores_do_equal_ones_by_row_and_give_both_back(values, last):
    score = np.array(values, np.float32)
    rows = (last - np.random.default_rng(1).permutation(min(len(score), last + 1))).astype(np.int32)
    score = score[: len(rows)]
    key = np.sort(scan.sortable(rows, score))
    found, found_score = np.full(len(key) + 1, -1, np.int32), np.full(len(key) + 1, -np.inf, np.float32)
    scan.unsorted(key, np.float32(1), found, found_score)
    order = np.lexsort((rows, -score))
    np.testing.assert_array_equal(found, [*rows[order], -1])
    np.testing.assert_array_equal(found_score, [*score[order], -np.inf])
    first, first_score = np.empty(len(key) // 2, np.int32), np.empty(len(key) // 2, np.float32)
    scan.unsorted(key, np.float32(1), first, first_score)
    np.testing.assert_array_equal(first, found[: len(first)])
    np.testing.assert_array_equal(first_score, found_score[: len(first)])


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 150), st.integers(0, 9))
def test_all_that_may_appear_are_scored_however_many_were_expected(n, share, expected, seed):
    rng = np.random.default_rng(seed)
    kept = rng.integers(0, 256, (n, SIZE)).astype(np.uint8)
    query, mask = rng.normal(size=SIZE).astype(np.float32), rng.random(n) < share
    rows, score = scan.score_allowed(kept, query, 0.5, np.packbits(mask, bitorder="little"), expected, n)
    np.testing.assert_array_equal(rows, np.flatnonzero(mask))
    np.testing.assert_allclose(score, 0.5 + kept[rows].astype(np.float32) @ query, rtol=1e-4, atol=1e-2)
    best, best_score = scan.score_allowed(kept, query, 0.5, np.packbits(mask, bitorder="little"), expected, 7)
    assert best_score.min(initial=np.inf) >= np.sort(score)[-min(7, len(score)) :].min(initial=np.inf) - 1e-2
    assert min(7, len(score)) <= len(best) <= 7 + 8 + 7
    assert set(best.tolist()) <= set(rows.tolist())
