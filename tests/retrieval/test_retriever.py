"""The retriever keeps every source's places, fills the budget and names the sources of each candidate."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import rows

from recsys.config import SourcesConfig
from recsys.errors import ReleaseError
from recsys.features.users import UserBatch
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.retriever import Retriever, merge
from recsys.types import DAY, Source

from .tastes import END, clicks_of, learned_sources, request, trained, two_tastes

TT, FO, TR = Source.TWO_TOWER, Source.FOLLOWED, Source.TRENDING
BITS = (TT, FO, TR)


def merged(found, places, budget):
    post_row, bits = merge([rows(posts) for posts in found], BITS, places, budget)
    return dict(zip(post_row.tolist(), bits.tolist(), strict=True))


def test_each_source_gets_its_places_and_the_first_fills_the_rest():
    assert merged([[1, 2, 3, 4, 5], [6, 7, 8], [9, 10]], (2, 1, 1), 6) == {1: TT, 2: TT, 6: FO, 9: TR, 3: TT, 4: TT}


def test_a_post_of_several_sources_takes_one_place_and_has_all_their_bits():
    assert merged([[1, 2, 3], [2, 8], [8, 1]], (1, 1, 1), 3) == {1: TT | TR, 2: TT | FO, 8: FO | TR}


def test_places_that_a_source_cannot_fill_go_to_the_others_in_order():
    assert merged([[1], [6, 7, 8], [9, 10]], (2, 1, 1), 5) == {1: TT, 6: FO, 9: TR, 7: FO, 8: FO}


def test_sources_without_posts_give_no_candidates():
    assert merged([[], [], []], (2, 1, 1), 5) == {}


found = st.lists(st.lists(st.integers(0, 40), unique=True, max_size=25), min_size=3, max_size=3)


@given(found, st.tuples(*[st.integers(0, 8)] * 3), st.integers(0, 20))
def test_the_merge_keeps_places_loses_nothing_and_repeats_nothing(found, places, spare):
    budget = sum(places) + spare
    post_row, bits = merge([rows(posts) for posts in found], BITS, places, budget)
    every = {post for posts in found for post in posts}
    assert len(post_row) == len(set(post_row.tolist())) == min(budget, len(every))
    assert set(post_row.tolist()) <= every
    for posts, n in zip(found, places, strict=True):
        assert set(posts[:n]) <= set(post_row.tolist())
    for post, bit in zip(post_row.tolist(), bits.tolist(), strict=True):
        assert bit == sum(b for b, posts in zip(BITS, found, strict=True) if post in posts)
    # What is left goes to the first source: nobody else has more than its places while it has posts to give.
    if not set(found[0]) <= set(post_row.tolist()):
        for posts, n in list(zip(found, places, strict=True))[1:]:
            assert set(post_row.tolist()) & set(posts[n:]) <= {
                *found[0],
                *found[1][: places[1]],
                *found[2][: places[2]],
            }


CONFIG = SourcesConfig(budget=60, two_tower=30, followed=10, trending=8, fresh=6, covisited=6)
PLACES = {TT: 30, FO: 10, TR: 8, Source.FRESH: 6, Source.COVISITED: 6}


@pytest.fixture(scope="module")
def cat():
    return replace(two_tastes(), visible=np.random.default_rng(8).random(400) < 0.9)


@pytest.fixture(scope="module")
def towers(cat):
    return trained(cat, clicks_of(cat))


@pytest.fixture(scope="module")
def parts(cat, towers):
    vectors = towers.post_vectors(cat)
    return cat, towers, PostIndex.exact(vectors), vectors, learned_sources(cat, clicks_of(cat))


@pytest.fixture(scope="module")
def retriever(parts):
    return Retriever(*parts, CONFIG)


def asked(**changes):
    trending = np.random.default_rng(4).permutation(400)[:80]
    return request(**({"history": [300, 302], "follows": [1, 3], "trending": trending, "language": 0} | changes))


def test_candidates_fill_the_budget_and_each_source_its_places(retriever, cat):
    candidates = retriever(asked())
    assert len(candidates) == len(set(candidates.post_row.tolist())) == 60
    for bit, places in PLACES.items():
        assert (candidates.sources & bit > 0).sum() >= places
    assert candidates.missing_sources == ()
    assert cat.visible[candidates.post_row].all()


def test_every_candidate_names_the_sources_that_found_it(retriever):
    context = asked()
    candidates = retriever(context)
    for source, _ in retriever.sources:
        brought = np.isin(candidates.post_row, source(retriever.query(context), 60))
        np.testing.assert_array_equal(candidates.sources & source.bit > 0, brought)
        assert brought.any()


@pytest.mark.parametrize("n_excluded", [0, 60, 250, 330, 400])
def test_excluded_posts_do_not_make_the_result_short(retriever, cat, n_excluded):
    context = asked()
    # The worst case: the best posts of the sources are excluded.
    liked = [*retriever(context).post_row, *range(400)]
    exclude = rows(list(dict.fromkeys(liked))[:n_excluded])
    candidates = retriever(context, exclude)
    left = set(np.flatnonzero(cat.visible).tolist()) - set(exclude.tolist())
    assert len(candidates) == min(60, len(left))
    assert set(candidates.post_row.tolist()) <= left


def test_every_candidate_has_the_inner_product_as_its_score(retriever, parts):
    cat, towers, _, vectors, _ = parts
    context = asked()
    candidates = retriever(context)
    user = towers.user_vectors(cat, UserBatch.from_context(context))
    np.testing.assert_allclose(candidates.retrieval_score, vectors[candidates.post_row] @ user[0], rtol=1e-4)
    assert len(np.unique(candidates.sources)) > 2


def test_no_candidate_comes_from_the_future(retriever, cat):
    candidates = retriever(asked(now=3 * DAY))
    assert (cat.created_at[candidates.post_row] <= 3 * DAY).all()
    assert len(candidates) == 60


def test_an_unknown_user_gets_a_full_budget(retriever):
    candidates = retriever(request())
    assert len(candidates) == 60
    assert np.isfinite(candidates.retrieval_score).all()


def test_before_the_first_post_there_are_no_candidates(retriever):
    assert len(retriever(asked(now=-1))) == 0


def test_unknown_excluded_rows_are_ignored(retriever):
    np.testing.assert_array_equal(retriever(asked(), rows([-1])).post_row, retriever(asked()).post_row)


def test_parts_of_different_releases_are_refused(parts):
    cat, towers, index, vectors, learned = parts
    with pytest.raises(ReleaseError, match=r"index must hold .*\(400, 16\).* got \(399, 16\)"):
        Retriever(cat, towers, PostIndex.exact(vectors[:399]), vectors, learned, CONFIG)
    with pytest.raises(ReleaseError, match="post vectors must hold"):
        Retriever(cat, towers, index, vectors[:399], learned, CONFIG)
    with pytest.raises(ReleaseError, match="must be built from the release's post vectors"):
        Retriever(cat, towers, PostIndex.exact(vectors + 1), vectors, learned, CONFIG)
    with pytest.raises(ReleaseError, match="topics"):
        Retriever(replace(cat, topics=("cooking",)), towers, index, vectors, learned, CONFIG)
    with pytest.raises(ReleaseError, match=r"sources were learned with .* = \(400, 7\), the catalogue has \(400, 8\)"):
        Retriever(cat, towers, index, vectors, replace(learned, author_shown=learned.author_shown[:7]), CONFIG)


def test_opposite_tastes_share_few_candidates(cat, towers, parts):
    alone = Retriever(*parts, SourcesConfig(budget=60, two_tower=60, followed=0, trending=0, fresh=0, covisited=0))
    cook, fan = (alone(request(END, history=[n, n + 2, n + 4])).post_row.tolist() for n in (300, 301))
    assert len(set(cook) & set(fan)) < 10


class Failing:
    """A source that raises."""

    def __init__(self, bit):
        self.bit = bit

    def __call__(self, query, k):
        raise RuntimeError("no idea")


def with_failing(parts, failing):
    retriever = Retriever(*parts, CONFIG)
    retriever.sources = tuple(
        (next((f for f in failing if f.bit == source.bit), source), places) for source, places in retriever.sources
    )
    return retriever


@pytest.mark.parametrize("bit", list(Source))
def test_a_failing_source_is_skipped_and_named_and_the_others_fill_its_places(parts, bit, caplog):
    retriever = with_failing(parts, [Failing(bit)])
    for _ in range(3):
        candidates = retriever(asked())
        assert len(candidates) == 60
        assert candidates.missing_sources == (bit.name.lower(),)
        assert not (candidates.sources & bit).any()
        assert np.isfinite(candidates.retrieval_score).all()
    # The failure is logged once, with its traceback.
    assert len(caplog.records) == caplog.text.count("Traceback") == 1
    assert f"source {bit.name.lower()} is left out of a feed: RuntimeError: no idea" in caplog.text


def test_the_user_tower_runs_once_per_request(parts, monkeypatch):
    tower, runs = type(parts[1]).user_vectors, []
    monkeypatch.setattr(type(parts[1]), "user_vectors", lambda *words: runs.append(1) or tower(*words))
    Retriever(*parts, CONFIG)(asked())
    assert len(runs) == 1


def test_when_all_sources_fail_the_newest_posts_are_returned(parts, cat):
    candidates = with_failing(parts, [Failing(bit) for bit in Source])(asked(), rows([399]))
    assert candidates.missing_sources == ("two_tower", "followed", "trending", "fresh", "covisited")
    expected = [post for post in range(398, -1, -1) if cat.visible[post]][:60]
    assert candidates.post_row.tolist() == expected
    assert not candidates.sources.any()


def test_the_newest_posts_fill_the_places_of_failed_sources_that_others_cannot_fill(parts, cat):
    retriever = with_failing(parts, [Failing(TT), Failing(TR), Failing(Source.FRESH)])
    candidates = retriever(asked(follows=[1], history=[]))
    followed = candidates.sources == FO
    assert 0 < followed.sum() < 60
    assert not candidates.sources[~followed].any()
    assert len(set(candidates.post_row.tolist())) == 60
    newest = [post for post in range(399, -1, -1) if cat.visible[post]]
    left = [post for post in newest if post not in candidates.post_row[followed]]
    assert candidates.post_row[~followed].tolist() == left[: (~followed).sum()]


def test_when_the_towers_fail_the_feed_has_no_two_tower_scores(parts, monkeypatch):
    def fail(*_):
        raise IndexError("no such row")

    retriever = Retriever(*parts, CONFIG)
    monkeypatch.setattr(type(parts[1]), "user_vectors", fail)
    candidates = retriever(asked())
    assert candidates.missing_sources == ("two_tower",)
    assert len(candidates) == 60
    assert not candidates.retrieval_score.any()
    with pytest.raises(IndexError):
        retriever.scores(retriever.query(asked()), candidates.post_row)


def test_the_same_request_gets_the_same_candidates(parts):
    first, second = (Retriever(*parts, CONFIG)(asked()) for _ in range(2))
    np.testing.assert_array_equal(first.post_row, second.post_row)
    np.testing.assert_array_equal(first.sources, second.sources)
