"""Every source: best first, no repeats, only posts that exist, are visible and are not excluded."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import NOW, catalogue, context, rows

from recsys.config import IndexConfig, SourcesConfig
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.fast_lists import inverted_file, search_kernel
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.sources import Allowed, Covisited, Followed, Fresh, Query, Trending, TwoTower
from recsys.retrieval.sources import fresh as fresh_source
from recsys.retrieval.sources.neighbours import Neighbours
from recsys.types import DAY, HOUR

from ..tastes import END, clicks_of, learned_sources, request, trained, two_tastes

SETTINGS = SourcesConfig(fresh_window_s=2 * 86_400)


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
    lists = IndexConfig(kind="fast_lists", nlist_factor=0.5, code_bytes=8)
    index = PostIndex.exact(vectors) if request.param == "exact" else PostIndex.build(vectors, vectors, lists)
    learned = learned_sources(cat, clicks_of(cat))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inverted_file, "SCORE_ALL_BELOW", 1)  # otherwise so few posts are scored without lists
        yield (
            TwoTower(index),
            Followed(cat),
            Trending(cat),
            Fresh(cat, learned.author_shown, SETTINGS),
            Covisited(learned.neighbours, SETTINGS),
        )


moments = st.sampled_from([-1, 0, DAY, 5 * DAY, END, END + DAY])
posts = st.lists(st.integers(-1, 399), max_size=60)


@given(moments, posts, posts, st.lists(st.integers(0, 7), max_size=4), st.integers(1, 450))
def test_sources_return_only_allowed_posts_without_repeats(sources, cat, towers, now, exclude, trending, follows, k):
    asked = request(now, history=[0, 2, 4], follows=follows, trending=trending)
    allowed = Allowed(cat)(now, rows(exclude))
    for source in sources:
        query = Query(asked, allowed, partial(towers.user_vectors, cat))
        found = source(query, k)
        np.testing.assert_array_equal(source(query, k), found)
        assert found.dtype == np.int32
        assert len(found) == len(set(found.tolist())) <= k
        assert (found >= 0).all()
        assert cat.visible[found].all()
        assert (cat.created_at[found] <= now).all()
        assert not set(found.tolist()) & set(exclude)


@given(moments, posts, st.integers(1, 450))
def test_the_two_towers_return_k_posts_or_all_allowed(sources, cat, towers, now, exclude, k):
    eligible = set(np.flatnonzero(cat.visible & (cat.created_at <= now)).tolist()) - set(exclude)
    query = Query(request(now), Allowed(cat)(now, rows(exclude)), partial(towers.user_vectors, cat))
    assert len(sources[0](query, k)) == min(k, len(eligible))


def test_the_two_towers_return_posts_of_the_users_taste(cat, towers):
    index = PostIndex.exact(towers.post_vectors(cat))
    asked = request(history=[300, 302], language=0)
    query = Query(asked, Allowed(cat)(asked.now, rows([])), partial(towers.user_vectors, cat))
    found = TwoTower(index)(query, 50)
    assert (cat.topic[found] == 0).all()


FOLLOWED = catalogue([0, 1, 0, 2, 0, -1, 1], created_at=[5, 7, 9, 8, 9, 3, NOW + 1])


def allowed(exclude=(), cat=FOLLOWED, now=NOW):
    return Allowed(cat)(now, rows(exclude))


def found_by(source, asked, k, bitmap):
    """Call a source that must not use the user vector."""
    return source(
        Query(asked, bitmap, lambda users: pytest.fail("this source must not use the user vector")), k
    ).tolist()


def followed(*authors, k=9, exclude=()):
    return found_by(Followed(FOLLOWED), replace(context(), follows=rows(authors)), k, allowed(exclude))


def test_followed_returns_the_newest_posts_with_ties_by_row():
    assert followed(0, 1) == [2, 4, 1, 0]


def test_followed_returns_at_most_k_posts():
    assert followed(0, 1, k=2) == [2, 4]
    assert followed(0, 1, k=2, exclude=[2]) == [4, 1]


def test_duplicate_and_unknown_followed_authors_are_ignored():
    assert followed(0, -1, 0) == [2, 4, 0]


def test_a_user_who_follows_nobody_gets_no_followed_posts():
    assert followed() == []


def test_trending_keeps_its_order_and_drops_repeats():
    asked = replace(context(), trending=rows([3, 6, 1, 3, -1, 0]))
    assert found_by(Trending(FOLLOWED), asked, 9, allowed()) == [3, 1, 0]
    assert found_by(Trending(FOLLOWED), asked, 1, allowed([3])) == [1]


def test_every_other_trending_post_is_from_the_topics_of_the_users_clicks():
    cat = replace(catalogue([0] * 8), topic=rows([0, 0, 0, 0, 1, 1, 2, 1]), topics=("a", "b", "c"))
    asked = replace(context(), trending=rows([0, 1, 2, 3, 6, 4, 5]), history=rows([7]))
    assert found_by(Trending(cat), asked, 9, allowed(cat=cat)) == [0, 4, 1, 5, 2, 3, 6]
    assert found_by(Trending(cat), replace(asked, history=rows([])), 3, allowed(cat=cat)) == [0, 1, 2]


AGES = np.array([1, 2, 3, 4, 5, 30, 40]) * HOUR
FRESH = replace(
    catalogue([0, 1, 2, 0, 1, 2, 0], created_at=NOW - AGES),
    language=rows([0, 0, 0, 1, 0, 0, 0]),
    languages=("de", "en"),
)


def fresh(request_id=1, k=9, language=-1, shown=(0, 0, 0), exclude=()):
    source = Fresh(FRESH, np.array(shown, np.int64), SourcesConfig(fresh_window_s=6 * 3600))
    asked = context()
    asked = replace(asked, request=replace(asked.request, request_id=request_id), language=language)
    return found_by(source, asked, k, allowed(exclude, FRESH))


def test_fresh_posts_are_those_of_the_last_hours_and_the_newest_comes_first():
    assert sorted(fresh()) == [0, 1, 2, 3, 4]
    assert fresh(k=1) == [0]


def test_fresh_posts_are_in_the_users_language_where_it_is_known():
    assert sorted(fresh(language=0)) == [0, 1, 2, 4]
    assert fresh(language=1) == [3]


def test_with_very_many_posts_the_draw_still_covers_the_whole_window(monkeypatch):
    monkeypatch.setattr(fresh_source, "_MAX_POSTS", 2)
    assert fresh(k=1) == [0]
    second = {fresh(request_id, k=2)[1] for request_id in range(400)}
    assert second == {1, 2, 3, 4}
    assert fresh(language=1) == [3]
    assert fresh(language=5) == []


def test_over_many_requests_every_fresh_post_is_drawn():
    second = [fresh(request_id, k=2)[1] for request_id in range(400)]
    assert min(np.bincount(second, minlength=5)[1:5]) > 50


def test_posts_of_authors_with_many_impressions_are_drawn_less_often():
    # After the newest, post 0, comes the draw: posts 2 (author 2), 1 and 4 (author 1) and 3 (author 0).
    asked = [fresh(request_id, k=2, shown=(0, 10_000, 0))[1] for request_id in range(400)]
    second = np.bincount(asked, minlength=5)
    assert second[4] < 0.1 * second[2]
    assert second[3] > 100


def test_posts_of_unknown_authors_can_be_fresh():
    cat = catalogue([-1, -1], created_at=[NOW - HOUR, NOW - 2 * HOUR])
    assert found_by(Fresh(cat, np.zeros(0, np.int64), SETTINGS), context(), 5, allowed(cat=cat)) == [0, 1]


# Post 0 is clicked with 1 (0.5) and 2 (0.4), post 3 with 2 (0.3) and 0 (0.9), post 4 with nobody.
TOGETHER = Neighbours(
    np.array([0, 2, 2, 2, 4, 4], np.int64), rows([1, 2, 0, 2]), np.array([0.5, 0.4, 0.9, 0.3], np.float32)
)


def covisited(history, fading=1.0, k=9, exclude=()):
    source = Covisited(TOGETHER, SourcesConfig(covisited_fading=fading))
    everything = Bitmap.of(np.ones(5, bool)).without(rows(exclude))
    return found_by(source, replace(context(), history=rows(history)), k, everything)


def test_the_last_clicks_vote_for_their_neighbours():
    assert covisited([0]) == [1, 2]
    assert covisited([0, 3]) == [2, 1]
    assert covisited([0, 3], k=1) == [2]


def test_clicked_posts_are_not_returned_again():
    assert covisited([3]) == [0, 2]
    assert 0 not in covisited([3, 0])


def test_later_clicks_count_more():
    assert covisited([0, 3], fading=0.1) == [1, 2]
    assert covisited([3, 0], fading=0.1) == [2, 1]


def test_a_user_without_known_clicks_gets_no_covisited_posts():
    assert covisited([]) == covisited([4]) == covisited([-1]) == []


def test_excluded_posts_are_not_covisited_candidates():
    assert covisited([0], exclude=[1]) == [2]


def test_both_compiled_searches_run_before_the_first_request(cat, towers, monkeypatch):
    ran = []
    monkeypatch.setattr(
        inverted_file, "SCORE_ALL_BELOW", 16_000
    )  # the fixture above restores it only after the last test
    for name in ("best_of_lists", "best_of_allowed"):
        monkeypatch.setattr(
            inverted_file.search_kernel,
            name,
            lambda *words, name=name, way=getattr(search_kernel, name): ran.append(name) or way(*words),
        )
    vectors = towers.post_vectors(cat)
    TwoTower(PostIndex.build(vectors, vectors, IndexConfig(kind="fast_lists", nlist_factor=0.5, code_bytes=8)))
    assert set(ran) == {"best_of_lists", "best_of_allowed"}
