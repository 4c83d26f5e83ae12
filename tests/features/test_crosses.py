"""Follow and history crosses equal their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.crosses import follow_crosses, history_shares

AUTHOR_OF = [0, 0, 0, 0, 1, 1, 1, 2, 2, -1, 1]
TOPIC_OF = [0, 0, 0, 0, 1, 1, 1, -1, -1, -1, 1]
AUTHOR_TOPIC = [0, 1, -1]


def kind(of_post, post):
    """Row -1 is a post the catalogue does not know."""
    return of_post[post] if post >= 0 else -1


follow_lists = st.lists(st.sets(st.integers(0, 2)).map(sorted), min_size=1, max_size=5)


def crosses(catalogue, lists, pairs):
    start = np.concatenate([[0], np.cumsum([len(follows) for follows in lists])]).astype(np.int64)
    follows = np.array([author for each in lists for author in each], np.int32)
    user, post = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    return follow_crosses(catalogue, start, follows, user, post)


@given(data=st.data(), lists=follow_lists)
def test_follow_crosses_equal_a_loop_over_the_follow_lists(catalogue, data, lists):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, len(lists) - 1), st.integers(-1, 10)), max_size=20))
    follows_author, share = crosses(catalogue, lists, pairs)
    assert share.dtype == np.float32
    for i, (user, post) in enumerate(pairs):
        followed = lists[user]
        assert follows_author[i] == (kind(AUTHOR_OF, post) in followed)
        topic = kind(TOPIC_OF, post)
        of_topic = [AUTHOR_TOPIC[author] == topic for author in followed]
        expected = np.mean(of_topic) if followed and topic >= 0 else np.nan
        np.testing.assert_equal(share[i], np.float32(expected))


def test_a_user_who_follows_nobody_has_no_share(catalogue):
    follows_author, share = crosses(catalogue, [[]], [(0, 0), (0, 9)])
    assert follows_author.tolist() == [False, False]
    assert np.isnan(share).all()


@pytest.mark.parametrize("lists", [[], [[0, 1]]])
def test_a_user_the_catalogue_does_not_know_follows_nobody(catalogue, lists):
    follows_author, share = crosses(catalogue, lists, [(-1, 0), (-1, -1)])
    assert follows_author.tolist() == [False, False]
    assert np.isnan(share).all()


def test_many_users_at_once_equal_each_user_alone(catalogue):
    lists = [[0, 1], [], [2], [1, 2]]
    pairs = [(user, post) for user in range(4) for post in range(10)]
    together = crosses(catalogue, lists, pairs)
    for user in range(4):
        alone = crosses(catalogue, [lists[user]], [(0, post) for post in range(10)])
        for of_all, of_one in zip(together, alone, strict=True):
            np.testing.assert_array_equal(of_all[10 * user : 10 * user + 10], of_one)


LANGUAGE_OF = [0, 1, -1, 0, 1, -1, 0, 1, -1, -1, 0]
MEDIUM_OF = [0, 1, 2, 3, -1, 0, 1, 2, 3, -1, 0]

histories = st.lists(st.lists(st.integers(-1, 10), min_size=4, max_size=4), min_size=1, max_size=4)


@given(data=st.data(), clicked=histories)
def test_history_shares_equal_a_loop_over_the_histories(catalogue, data, clicked):
    assert catalogue.language.tolist() == LANGUAGE_OF
    assert catalogue.media.tolist() == MEDIUM_OF
    pairs = data.draw(st.lists(st.tuples(st.integers(0, len(clicked) - 1), st.integers(-1, 10)), max_size=10))
    request, post = (np.array([pair[side] for pair in pairs], np.int32) for side in (0, 1))
    shares = history_shares(catalogue, np.array(clicked, np.int32), request, post)
    for share, kind_of, n_kinds in zip(shares, (LANGUAGE_OF, MEDIUM_OF), (2, 4), strict=True):
        assert share.dtype == np.float32
        for i, (row, candidate) in enumerate(pairs):
            kinds = [kind_of[p] for p in clicked[row] if p >= 0 and kind_of[p] >= 0]
            wanted = kind(kind_of, candidate)
            known = wanted >= 0 and kinds
            expected = (kinds.count(wanted) + 1) / (len(kinds) + n_kinds) if known else np.nan
            np.testing.assert_equal(share[i], np.float32(expected))


def test_a_user_without_clicks_has_no_shares(catalogue):
    none = np.empty((1, 0), np.int32)
    language, media = history_shares(catalogue, none, np.zeros(10, np.int32), np.arange(10, dtype=np.int32))
    assert np.isnan(language).all()
    assert np.isnan(media).all()
