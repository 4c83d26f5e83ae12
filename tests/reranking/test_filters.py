import contracts
import pytest
import worlds
from hypothesis import given
from hypothesis import strategies as st

from recsys.reranking.author_cap import AuthorCap
from recsys.reranking.duplicates import Duplicates
from recsys.reranking.filters import Blocked, NotVisible, ReturnedBefore

FILTERS = {
    "not_visible": NotVisible,
    "blocked": Blocked,
    "returned_before": ReturnedBefore,
    "duplicate": Duplicates,
    "author_cap": lambda catalogue: AuthorCap(catalogue, 1),
}


@pytest.mark.parametrize("reason", FILTERS)
@given(world=worlds.scored_posts(), data=st.data())
def test_every_filter_keeps_or_removes_each_candidate_and_says_why(reason, world, data):
    catalogue, candidates = world
    some_posts = st.lists(st.integers(0, catalogue.n_posts - 1), max_size=5)
    context = worlds.context(
        limit=data.draw(st.integers(1, 5)),
        blocks=data.draw(st.lists(st.integers(0, 4), max_size=3)),
        returned=data.draw(some_posts),
    )
    contracts.check_filter(FILTERS[reason](catalogue), context, candidates, reason)


@pytest.mark.parametrize("reason", FILTERS)
def test_every_filter_adds_to_what_earlier_ones_removed(reason):
    catalogue = worlds.catalogue([0, 0, 0, 1, 1], group=[0, 0, 2, 3, 4], visible=[True, True, False, True, True])
    candidates = worlds.candidates([0, 1, 2, 3, 4])
    candidates = candidates.where(candidates.post_row != 3, reason)
    candidates = candidates.where(candidates.post_row != 4, "earlier")
    context = worlds.context(limit=1, blocks=[0], returned=[0])
    kept = contracts.check_filter(FILTERS[reason](catalogue), context, candidates, reason)
    assert len(kept) < 3
    assert kept.removed[reason].tolist()[0] == 3


def test_nothing_to_remove_leaves_no_reason():
    catalogue = worlds.catalogue([0, 1, 2])
    candidates = worlds.candidates([2, 0])
    for make in FILTERS.values():
        kept = make(catalogue)(worlds.context(blocks=[1], returned=[1]), candidates)
        assert kept.post_row.tolist() == [2, 0]
        assert kept.removed == {}


def test_hidden_and_future_posts_are_removed():
    catalogue = worlds.catalogue(
        [0] * 4, visible=[True, False, True, True], created_at=[0, 0, worlds.NOW, worlds.NOW + 1]
    )
    kept = NotVisible(catalogue)(worlds.context(), worlds.candidates([0, 1, 2, 3]))
    assert kept.post_row.tolist() == [0, 2]
    assert kept.removed["not_visible"].tolist() == [1, 3]


def test_posts_by_blocked_and_by_unknown_authors_are_removed():
    catalogue = worlds.catalogue([0, 1, -1, 2])
    kept = Blocked(catalogue)(worlds.context(blocks=[1]), worlds.candidates([0, 1, 2, 3]))
    assert kept.post_row.tolist() == [0, 3]
    assert kept.removed["blocked"].tolist() == [1, 2]


def test_unknown_authors_pass_for_a_user_who_blocks_nobody():
    kept = Blocked(worlds.catalogue([0, -1]))(worlds.context(), worlds.candidates([0, 1]))
    assert kept.post_row.tolist() == [0, 1]


def test_a_returned_post_and_its_copies_are_removed():
    catalogue = worlds.catalogue([0, 1, 2, 3], group=[0, 1, 0, 3])
    kept = ReturnedBefore(catalogue)(worlds.context(returned=[0]), worlds.candidates([0, 1, 2, 3]))
    assert kept.post_row.tolist() == [1, 3]
    assert kept.removed["returned_before"].tolist() == [0, 2]
