"""The compiled search gives the same posts as a plain Python search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.index.fast_lists import search_kernel
from recsys.retrieval.index.fast_lists.simd import LANES

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
    found, score = search_kernel.search(
        coarse, 6, step, starts, sizes, codes.reshape(-1), rows, kept, query, 0.5, wanted, wanted, bits, share
    )
    by_code = plainly(coarse, N_LISTS, step, starts, sizes, codes, rows, allowed)
    visited = plainly(coarse, 6, step, starts, sizes, codes, rows, allowed)
    np.testing.assert_allclose(score, 0.5 + kept[found].astype(np.float32) @ query, rtol=1e-4, atol=1e-2)
    assert len(set(found.tolist())) == len(found) >= min(wanted, len(visited))
    assert set(found.tolist()) <= set(by_code)
    # Up to the rounding of 16-bit scores, every post found is at least as good as every post missed.
    unit = max(np.abs(step).sum() * 7.5, np.ptp(np.sort(coarse)[-6:])) / search_kernel.MAX_CODE_SCORE
    unit = max(unit, np.abs(step).max() / search_kernel.MAX_WEIGHT)
    rounding = unit * (7.5 * len(step) / 2 + 40)
    missed = [value for row, value in visited.items() if row not in set(found.tolist())]
    if missed and len(found) >= wanted:
        assert min(by_code[int(row)] for row in found) >= max(missed) - rounding


def test_without_a_bitmap_every_post_is_allowed():
    coarse, step, starts, sizes, codes, rows, kept, query = some_lists(1, 8)
    found, _ = search_kernel.search(
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


def test_empty_lanes_are_never_found_even_with_the_best_code():
    coarse, step, starts, sizes, codes, rows, kept, query = some_lists(2, 8)
    best = np.where(step > 0, 15, 0).reshape(-1, 2, 2)
    code = (best[:, 0] | best[:, 1] << 4).astype(np.uint8)
    empty = np.flatnonzero(rows < 0)
    codes[empty // LANES, :, empty % LANES] = code
    found, _ = search_kernel.search(
        coarse, 6, step, starts, sizes, codes.reshape(-1), rows, kept, query, 0.0, 10, 10, ALL, 1.0
    )
    assert len(found) >= 10
    assert (found >= 0).all()


def passes_of_a_search(monkeypatch, answers, share, allowed=ALL):
    """Run a search for 10 posts in 2 lists in which pass i finds answers[i] = (best posts, allowed ones among them).

    Returns: the arguments of each pass (lists, posts, share), and the rows found.
    """
    coarse, step, starts, sizes, codes, rows, kept, query = some_lists(3, 8)
    asked, left = [], list(answers)

    def best_by_code(coarse, lists, cut, n_lists, *words):
        *_, wanted, _, expected_share = words
        assert len(lists) == min(n_lists, N_LISTS)
        asked.append((n_lists, wanted, pytest.approx(expected_share)))
        return np.array([7], np.int32), np.array([1], np.int16), 1, *left.pop(0)

    monkeypatch.setattr(search_kernel, "_best_by_code", best_by_code)
    found, _ = search_kernel.search.py_func(
        coarse, 2, step, starts, sizes, codes.reshape(-1), rows, kept, query, 0.0, 5, 10, allowed, share
    )
    assert not left
    return asked, found


@pytest.mark.parametrize(
    ("share", "answers", "asked"),
    [
        (1.0, [(100, 90)], [(2, 10, 1.0)]),
        (1.0, [(100, 89), (100, 81)], [(2, 10, 1.0), (3, 11, 0.89)]),
        (0.8, [(100, 66)], [(2, 10, 0.8)]),  # 66 + 2 sqrt(66 * 0.2) > 0.9 * 80
        (0.8, [(100, 64), (100, 64)], [(2, 10, 0.8), (3, 12, 0.64)]),
        (0.8, [(100, 20), (100, 10), (100, 8)], [(2, 10, 0.8), (9, 40, 0.2), (19, 80, 0.1)]),
        (0.8, [(100, 1), (100, 10)], [(2, 10, 0.8), (17, 80, 0.1)]),  # at most 8 times as deep per pass
    ],
)
def test_a_search_goes_deeper_until_the_filter_allows_the_expected_share_of_the_best(
    share, answers, asked, monkeypatch
):
    passes, found = passes_of_a_search(monkeypatch, answers, share)
    assert passes == asked
    assert found.tolist() == [7]


def test_a_search_that_would_rescore_most_posts_scores_all_allowed_ones(monkeypatch):
    n_posts = len(some_lists(3, 8)[6])
    mask = np.arange(n_posts) % 3 == 0
    passes, found = passes_of_a_search(monkeypatch, [(100, 0), (100, 0)], 0.8, np.packbits(mask, bitorder="little"))
    assert passes == [(2, 10, 0.8), (17, 80, 0.1)]
    assert 10 * 8 < search_kernel._SCORE_ALL_ABOVE * n_posts < 10 * 8 * 8
    *_, kept, query = some_lists(3, 8)
    exact = np.where(mask, kept.astype(np.float32) @ query, -np.inf)
    assert set(np.argsort(-exact)[:5]) <= set(found.tolist())


@given(st.integers(1, 200), st.floats(0, 1), st.integers(0, 150), st.integers(0, 9))
def test_all_allowed_posts_are_scored_even_if_the_expected_number_is_wrong(n, share, expected, seed):
    rng = np.random.default_rng(seed)
    kept = rng.integers(0, 256, (n, SIZE)).astype(np.uint8)
    query, mask = rng.normal(size=SIZE).astype(np.float32), rng.random(n) < share
    rows, score = search_kernel.score_allowed(kept, query, 0.5, np.packbits(mask, bitorder="little"), expected, n)
    np.testing.assert_array_equal(rows, np.flatnonzero(mask))
    np.testing.assert_allclose(score, 0.5 + kept[rows].astype(np.float32) @ query, rtol=1e-4, atol=1e-2)
    best, best_score = search_kernel.score_allowed(kept, query, 0.5, np.packbits(mask, bitorder="little"), expected, 7)
    n_best = min(7, len(score))
    np.testing.assert_array_equal(np.sort(best_score)[-n_best:], np.sort(score)[-n_best:])
    assert n_best <= len(best) <= 7 + 8 + 7
    assert set(best.tolist()) <= set(rows.tolist())
