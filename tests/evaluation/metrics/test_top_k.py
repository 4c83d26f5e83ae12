"""Metrics of ranked lists equal cases worked out by hand."""

from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluation.metrics.top_k import found, hit_at, mean_interval, ndcg_at, recall_at

YES, NO = True, False


def rows(*values):
    return np.array(values, np.int32)


def test_recall_is_the_share_of_all_relevant_items_even_when_they_are_more_than_k():
    hit = np.array([[YES, NO, YES, YES]])
    assert recall_at(hit, np.array([5]), 3) == pytest.approx([2 / 5])


def test_ndcg_discounts_by_the_logarithm_of_the_place():
    hit = np.array([[NO, YES, NO, YES], [NO, NO, NO, NO]])
    gain = 1 / log2(3) + 1 / log2(5)
    assert ndcg_at(hit, np.array([2, 2]), 4) == pytest.approx([gain / (1 + 1 / log2(3)), 0])


def test_ndcg_is_one_when_k_places_are_hits_though_more_items_are_relevant():
    assert ndcg_at(np.array([[YES, YES, NO]]), np.array([9]), 2) == pytest.approx([1])


def test_a_hit_after_place_k_does_not_count():
    hit, one = np.array([[NO, NO, YES]]), np.array([1])
    assert [*recall_at(hit, one, 2), *ndcg_at(hit, one, 2), *hit_at(hit, 2)] == [0, 0, 0]


def test_the_hit_rate_counts_a_user_once():
    assert hit_at(np.array([[YES, YES], [NO, NO]]), 2).tolist() == [1, 0]


def test_an_item_is_found_only_in_its_own_users_list():
    lists = np.array([[3, 1], [1, 2]], np.int32)
    assert found(lists, rows(0, 1), rows(3, 3)).tolist() == [[YES, NO], [NO, NO]]


def test_the_end_of_a_short_list_is_never_a_hit():
    # The previous user's last item and this user's -1 have neighbouring keys.
    lists = np.array([[0, 1], [0, -1]], np.int32)
    assert found(lists, rows(0, 0), rows(0, 1)).tolist() == [[YES, YES], [NO, NO]]


def test_a_list_that_names_an_item_twice_is_refused():
    with pytest.raises(ValueError, match="at most once"):
        found(np.array([[4, 4]], np.int32), rows(0), rows(4))


@given(st.data())
def test_found_equals_a_lookup_in_sets(data):
    n_users, n_items = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    k = data.draw(st.integers(1, n_items))
    lists = np.array([data.draw(st.permutations(range(n_items)))[:k] for _ in range(n_users)], np.int32)
    pairs = data.draw(st.lists(st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items - 1)), max_size=12))
    user, item = (rows(*column) for column in zip(*pairs, strict=True)) if pairs else (rows(), rows())
    expected = [[(row, item) in pairs for item in items] for row, items in enumerate(lists.tolist())]
    assert found(lists, user, item).tolist() == expected


def test_the_interval_is_two_standard_errors_of_the_mean():
    values = np.array([0.0, 0.2, 0.4, 0.6])
    half = 1.96 * np.std(values, ddof=1) / 2
    assert mean_interval(values) == pytest.approx([0.3 - half, 0.3 + half])


def test_one_user_has_no_interval():
    assert mean_interval(np.array([0.5])) is None
