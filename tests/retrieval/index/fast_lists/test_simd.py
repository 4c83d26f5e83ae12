"""Vector instructions give the same results as plain sums and comparisons, at every vector width."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.retrieval.index.fast_lists.simd import (
    BYTES_PER_CALL,
    LANES,
    WIDTH,
    at_least_mask,
    lowest_bit,
    make_add_codes,
)

WIDTHS = [width for width in (0, 32, 64) if width <= WIDTH]


def compiled(width):
    add_codes = make_add_codes(width)

    @numba.njit
    def add(codes, at, weights, first, sums, out):
        add_codes(codes, np.uint64(at), weights, np.uint64(first), sums, np.uint64(out))

    return add


ADD = {width: compiled(width) for width in WIDTHS}


@numba.njit
def places(scores, at, least):
    left = at_least_mask(scores, np.uint64(at), np.int16(least))
    found = np.zeros(LANES, np.bool_)
    while left:
        found[lowest_bit(left)] = True
        left &= left - np.uint32(1)
    return found


def added(codes, weights, sums):
    """Plain sums: `codes` is (BYTES_PER_CALL / 2, LANES, 2), with four weights per index of the first axis."""
    low, high = (codes & 15).astype(int), (codes >> 4).astype(int)
    fours = weights.astype(int).reshape(-1, 2, 2)
    return sums + np.einsum("pln,pn->l", low, fours[:, 0]) + np.einsum("pln,pn->l", high, fours[:, 1])


@pytest.mark.parametrize("width", WIDTHS)
@given(
    codes=arrays(np.uint8, (BYTES_PER_CALL // 2, LANES, 2)),
    weights=arrays(np.int8, 2 * BYTES_PER_CALL, elements=st.integers(-127, 127)),
    sums=arrays(np.int16, LANES, elements=st.integers(-2000, 2000)),
    before=st.integers(0, 3),
)
def test_codes_are_added_as_by_plain_sums_at_any_alignment(width, codes, weights, sums, before):
    around = np.concatenate([np.full(before, 7), sums, [9]]).astype(np.int16)
    shifted = np.concatenate([np.full(before, 255, np.uint8), codes.reshape(-1)])
    of_these = np.concatenate([np.full(before, 99, np.int8), weights])
    ADD[width](shifted, before, of_these, before, around, before)
    np.testing.assert_array_equal(around[before:-1], added(codes, weights, sums))
    assert (around[:before] == 7).all()
    assert around[-1] == 9


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("weight", [-127, 127])
def test_the_largest_codes_and_weights_fit(width, weight):
    codes, weights = (
        np.full((BYTES_PER_CALL // 2, LANES, 2), 255, np.uint8),
        np.full(2 * BYTES_PER_CALL, weight, np.int8),
    )
    sums = np.zeros(LANES, np.int16)
    ADD[width](codes.reshape(-1), 0, weights, 0, sums, 0)
    np.testing.assert_array_equal(sums, 15 * weight * 2 * BYTES_PER_CALL)


@given(arrays(np.int16, LANES + 2), st.integers(-(2**15), 2**15 - 1))
def test_the_mask_marks_the_scores_that_are_at_least_the_threshold(scores, least):
    np.testing.assert_array_equal(places(scores, 1, least), scores[1:-1] >= least)
    np.testing.assert_array_equal(places(scores, 1, scores[5]), scores[1:-1] >= scores[5])
