from collections import Counter

import numpy as np
import worlds
from hypothesis import given
from hypothesis import strategies as st

from recsys.reranking.author_cap import AuthorCap


def capped(author, cap, limit, score=None, shown=None):
    catalogue = worlds.catalogue(author)
    context = worlds.context(limit=limit, shown_authors=shown)
    return AuthorCap(catalogue, cap)(context, worlds.candidates(range(len(author)), score))


def test_an_authors_best_posts_are_kept():
    kept = capped([0, 0, 0, 1], cap=2, limit=3, score=[0.1, 0.3, 0.2, 0.05])
    assert kept.post_row.tolist() == [1, 2, 3]
    assert kept.removed["author_cap"].tolist() == [0]


def test_the_cap_is_relaxed_only_as_far_as_the_slate_needs():
    assert capped([0, 0, 0, 0, 1], cap=1, limit=2).post_row.tolist() == [0, 4]
    assert capped([0, 0, 0, 0, 1], cap=1, limit=3).post_row.tolist() == [0, 1, 4]
    assert capped([0, 0, 0, 0, 1], cap=1, limit=20).post_row.tolist() == [0, 1, 2, 3, 4]


def test_posts_shown_on_earlier_pages_count():
    kept = capped([0, 0, 1, 1], cap=2, limit=2, shown={900: 1, 901: 2, 555: 9})
    # One more of the first author fits, none of the second; the slate of two relaxes the cap by one.
    assert kept.post_row.tolist() == [0, 1, 2]
    assert capped([0, 0, 1, 1], cap=2, limit=1, shown={900: 1, 901: 2}).post_row.tolist() == [0]


def test_the_cap_does_not_apply_to_unknown_authors():
    assert len(capped([-1, -1, -1, 0], cap=1, limit=2, shown={555: 3})) == 4


def test_an_empty_candidate_list_stays_empty():
    assert len(capped([], cap=2, limit=20)) == 0


@given(
    worlds.scored_posts(),
    st.integers(1, 3),
    st.integers(1, 10),
    st.dictionaries(st.integers(900, 906), st.integers(0, 4)),
)
def test_the_cap_is_never_exceeded_unless_the_slate_would_come_up_short(world, cap, limit, shown):
    catalogue, candidates = world
    kept = AuthorCap(catalogue, cap)(worlds.context(limit=limit, shown_authors=shown), candidates)
    lost = kept.removed.get("author_cap", np.empty(0, np.int32))
    assert Counter(kept.post_row.tolist()) + Counter(lost.tolist()) == Counter(candidates.post_row.tolist())

    def fitting(cap: int) -> int:
        """Candidates that fit under a cap, counted author by author."""
        authors = Counter(catalogue.author[candidates.post_row].tolist())
        unknown = authors.pop(-1, 0)
        return unknown + sum(min(n, max(cap - shown.get(900 + author, 0), 0)) for author, n in authors.items())

    lowest = next(c for c in range(cap, 100) if fitting(c) >= min(limit, len(candidates)))
    assert len(kept) == fitting(lowest)
    kept_authors = Counter(catalogue.author[kept.post_row].tolist())
    for author, n in kept_authors.items():
        assert author == -1 or n + shown.get(900 + author, 0) <= lowest
    for row in lost.tolist():  # no post was removed in favour of a worse one of the same author
        same = catalogue.author[kept.post_row] == catalogue.author[row]
        score = candidates.score[candidates.post_row == row][0]
        assert (kept.score[same] >= score).all()
