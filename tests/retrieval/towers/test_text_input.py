"""Words and pairs of words as rows of a table."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.offline.catalogue.text_hashes import tokens_of
from recsys.retrieval.towers.text_input import text_rows

TEXTS = ["red apple pie", "apple red pie", "red apple", "apple", ""]
TOKENS = tokens_of(pa.array(TEXTS), np.arange(5))
MANY = 1 << 20


def grams(post, ngrams=2):
    return {row for row in text_rows(TOKENS, MANY, ngrams)[post].tolist() if row}


def test_words_are_their_hashes_by_bucket_and_zero_is_none():
    rows = text_rows(TOKENS, 1000, 1)
    np.testing.assert_array_equal(rows, np.where(TOKENS >= 0, TOKENS % 1000 + 1, 0))
    assert rows.dtype == np.int32


def test_pairs_are_of_neighbours_in_their_order_besides_the_words():
    assert len(grams(0)) == 3 + 2
    assert grams(0, 1) == grams(1, 1) < grams(0)
    assert grams(0) & grams(1) == grams(0, 1)
    assert grams(2) - grams(2, 1) < grams(0)
    assert grams(3) == grams(3, 1)


def test_a_post_without_words_is_read_by_its_id():
    assert len(grams(4, 1)) == 2


@pytest.mark.parametrize("ngrams", [1, 2])
def test_rows_lie_within_the_table(ngrams):
    rng = np.random.default_rng(0)
    tokens = rng.integers(-1, 2**31 - 1, (500, 12)).astype(np.int32)
    rows = text_rows(tokens, 17, ngrams)
    assert rows.shape == (500, 12 if ngrams == 1 else 23)
    assert set(np.unique(rows)) == set(range(1, 18))
