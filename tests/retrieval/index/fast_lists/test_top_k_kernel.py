"""Selecting the best scores gives the same as sorting."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.index.fast_lists.simd import LANES
from recsys.retrieval.index.fast_lists.top_k_kernel import (
    FLOOR,
    lanes_at_least,
    nth_best,
    nth_best_int16,
    pack_sort_keys,
    unpack_sort_keys,
)


@given(st.sampled_from([1e-38, 1e-40, 1e-44, 0.0]), st.lists(st.integers(0, 50), min_size=1, max_size=300))
def test_numbers_too_close_to_tell_apart_count_as_equal(unit, steps):
    values = np.array(steps, np.float32) * np.float32(unit)
    cut = nth_best(values, 10)
    assert (values >= cut).sum() >= min(10, len(values))


close = st.floats(-1e3, 1e3, width=32)
values = st.one_of(
    st.lists(close, min_size=1, max_size=300),
    st.lists(st.sampled_from([0.1, 0.1 + 1e-7, 0.3, 7.0]), min_size=1, max_size=300),
    st.lists(st.one_of(close, st.sampled_from([1e15, -1e15])), min_size=1, max_size=300),
)


@given(values, st.integers(1, 400))
def test_at_least_n_values_reach_the_nth_best_and_not_many_more(values, n):
    values = np.array(values, np.float32)
    cut = nth_best(values, n)
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
def test_sort_keys_order_by_score_then_row_and_unpack_to_both(values, last):
    score = np.array(values, np.float32)
    rows = (last - np.random.default_rng(1).permutation(min(len(score), last + 1))).astype(np.int32)
    score = score[: len(rows)]
    key = np.sort(pack_sort_keys(rows, score))
    found, found_score = np.full(len(key) + 1, -1, np.int32), np.full(len(key) + 1, -np.inf, np.float32)
    unpack_sort_keys(key, np.float32(1), found, found_score)
    order = np.lexsort((rows, -score))
    np.testing.assert_array_equal(found, [*rows[order], -1])
    np.testing.assert_array_equal(found_score, [*score[order], -np.inf])
    first, first_score = np.empty(len(key) // 2, np.int32), np.empty(len(key) // 2, np.float32)
    unpack_sort_keys(key, np.float32(1), first, first_score)
    np.testing.assert_array_equal(first, found[: len(first)])
    np.testing.assert_array_equal(first_score, found_score[: len(first)])


@given(st.lists(st.integers(FLOOR, 32_767), max_size=5), st.integers(0, 9), st.integers(1, 300))
def test_lanes_that_reach_the_nth_best_score_are_the_best(extremes, seed, wanted):
    """Scores with the same upper 11 bits count as equal; empty lanes are never among the best."""
    rng = np.random.default_rng(seed)
    score = rng.normal(0, rng.choice([3.0, 300.0, 9000.0]), 8 * LANES).clip(FLOOR, 32_767).astype(np.int16)
    score[rng.random(len(score)) < 0.2] = FLOOR
    score[: len(extremes)] = extremes
    lowest = nth_best_int16(score, wanted)
    found = lanes_at_least(score, lowest)
    np.testing.assert_array_equal(found, np.flatnonzero(score >= lowest))
    exact = np.sort(score)[-min(wanted, len(score))]
    np.testing.assert_array_equal(found, np.flatnonzero((score >> 5 >= exact >> 5) & (score > FLOOR)))
