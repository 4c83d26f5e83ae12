"""A bitmap says of each post what its mask said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.index.bitmap import Bitmap

masks = st.lists(st.booleans(), min_size=1, max_size=70).map(lambda bits: np.array(bits, bool))


@given(masks)
def test_every_post_is_as_in_the_mask(mask):
    bitmap = Bitmap.of(mask)
    np.testing.assert_array_equal(bitmap.has(np.arange(len(mask), dtype=np.int32)), mask)
    assert bitmap.n_posts == len(mask)
    assert bitmap.share == mask.mean()


@given(masks, st.data())
def test_posts_left_out_are_gone_and_no_other(mask, data):
    rows = np.array(data.draw(st.lists(st.integers(-1, len(mask) - 1), max_size=20)), np.int32)
    before = Bitmap.of(mask)
    after = before.without(rows)
    expected = mask.copy()
    expected[rows[rows >= 0]] = False
    np.testing.assert_array_equal(after.has(np.arange(len(mask), dtype=np.int32)), expected)
    np.testing.assert_array_equal(before.has(np.arange(len(mask), dtype=np.int32)), mask)
    assert after.share == pytest.approx(expected.mean())


def test_bits_behind_the_last_post_are_refused():
    assert Bitmap(np.array([0b111], np.uint8), 3, 1.0).share == 1.0
    with pytest.raises(ValueError, match="no bit set behind the last, got 1111"):
        Bitmap(np.array([0b1111], np.uint8), 3, 1.0)


@given(masks)
def test_two_bitmaps_let_through_what_both_do(mask):
    other = np.arange(len(mask)) % 3 == 0
    both = Bitmap.of(mask) & Bitmap.of(other)
    np.testing.assert_array_equal(both.has(np.arange(len(mask), dtype=np.int32)), mask & other)
