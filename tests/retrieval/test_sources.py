"""Every source: best first, no repeats, only posts that exist, are visible and are not excluded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tastes import END, clicks_of, request, trained, two_tastes
from worlds import NOW, catalogue, context, rows

from recsys.config import IndexConfig
from recsys.retrieval.index import PostIndex
from recsys.retrieval.sources import Followed, Trending, TwoTower
from recsys.types import DAY


@pytest.fixture(scope="module")
def cat():
    visible = np.random.default_rng(8).random(400) < 0.8
    return replace(two_tastes(), visible=visible)


@pytest.fixture(scope="module")
def towers(cat):
    return trained(cat, clicks_of(cat))


@pytest.fixture(scope="module", params=["exact", "lists"])
def sources(request, cat, towers):
    vectors = towers.post_vectors(cat)
    lists = IndexConfig(nlist_factor=0.5, code_bytes=8)
    index = PostIndex.exact(vectors) if request.param == "exact" else PostIndex.lists(vectors, vectors, lists)
    return TwoTower(cat, towers, index), Followed(cat), Trending(cat)


moments = st.sampled_from([-1, 0, DAY, 5 * DAY, END, END + DAY])
posts = st.lists(st.integers(-1, 399), max_size=60)


@given(moments, posts, posts, st.lists(st.integers(0, 7), max_size=4), st.integers(1, 450))
def test_no_source_brings_a_post_twice_or_one_that_may_not_be_seen(sources, cat, now, exclude, trending, follows, k):
    asked = request(now, history=[0, 2, 4], follows=follows, trending=trending)
    for source in sources:
        found = source(asked, k, rows(exclude))
        assert found.dtype == np.int32
        assert len(found) == len(set(found.tolist())) <= k
        assert (found >= 0).all()
        assert cat.visible[found].all()
        assert (cat.created_at[found] <= now).all()
        assert not set(found.tolist()) & set(exclude)


@given(moments, posts, st.integers(1, 450))
def test_the_two_towers_bring_as_many_as_there_are(sources, cat, now, exclude, k):
    eligible = set(np.flatnonzero(cat.visible & (cat.created_at <= now)).tolist()) - set(exclude)
    assert len(sources[0](request(now), k, rows(exclude))) == min(k, len(eligible))


def test_the_two_towers_bring_the_best_scores_first(cat, towers):
    index = PostIndex.exact(towers.post_vectors(cat))
    asked = request(history=[300, 302], language=0)
    found = TwoTower(cat, towers, index)(asked, 50)
    assert (cat.topic[found] == 0).all()


FOLLOWED = catalogue([0, 1, 0, 2, 0, -1, 1], created_at=[5, 7, 9, 8, 9, 3, NOW + 1])


def followed(*authors, k=9, exclude=()):
    return Followed(FOLLOWED)(replace(context(), follows=rows(authors)), k, rows(exclude)).tolist()


def test_followed_authors_bring_their_newest_posts_and_ties_go_to_the_lowest_row():
    assert followed(0, 1) == [2, 4, 1, 0]


def test_followed_authors_bring_no_more_than_asked():
    assert followed(0, 1, k=2) == [2, 4]
    assert followed(0, 1, k=2, exclude=[2]) == [4, 1]


def test_an_author_followed_twice_or_not_known_changes_nothing():
    assert followed(0, -1, 0) == [2, 4, 0]


def test_who_follows_nobody_gets_nothing_from_followed_authors():
    assert followed() == []


def test_trending_keeps_its_order_and_drops_repeats():
    asked = replace(context(), trending=rows([3, 6, 1, 3, -1, 0]))
    assert Trending(FOLLOWED)(asked, 9).tolist() == [3, 1, 0]
    assert Trending(FOLLOWED)(asked, 1, rows([3])).tolist() == [1]
