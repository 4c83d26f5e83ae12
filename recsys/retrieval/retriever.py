"""From all posts to a few hundred candidates: every source is asked, their answers are merged.

Takes a request's `Context` and the posts to leave out, gives `Candidates`. It does not know why a post was left out,
nor how candidates are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from recsys.config import SourcesConfig
from recsys.errors import ReleaseError
from recsys.offline.catalogue import Catalogue
from recsys.retrieval.index import PostIndex
from recsys.retrieval.sources import NOTHING, CandidateSource, Followed, Trending, TwoTower
from recsys.retrieval.towers import Towers, tower_scores
from recsys.retrieval.users import UserBatch
from recsys.types import Candidates, Context, Floats, Rows


def merge(
    found: Sequence[Rows], bits: Sequence[int], places: Sequence[int], budget: int
) -> tuple[Rows, NDArray[np.uint16]]:
    """Join the sources' answers, each post once with the bits of all sources that brought it.

    Every source first gets its guaranteed places, by its own order; what is left is filled by the first source's
    further posts, then the second's, and so on.

    Args:
        found: post rows of each source, best first, without repeats within one.
        places: guaranteed places of each source; their sum must not exceed `budget`.
    Returns: rows and bits, (C,), C = min(budget, distinct posts).
    """
    rows = np.concatenate(found)
    bit = np.repeat(np.array(bits, np.uint16), [len(posts) for posts in found])
    guaranteed = np.concatenate([np.arange(len(posts)) < n for posts, n in zip(found, places, strict=True)])
    order = np.argsort(~guaranteed, kind="stable")
    distinct, first, of_distinct = np.unique(rows[order], return_index=True, return_inverse=True)
    brought = np.zeros(len(distinct), np.uint16)
    np.bitwise_or.at(brought, of_distinct, bit[order])
    chosen = np.argsort(first)[:budget]
    return distinct[chosen].astype(np.int32), brought[chosen]


class Retriever:
    """All sources behind one call. Holds nothing that changes; safe to share between threads."""

    def __init__(
        self, catalogue: Catalogue, towers: Towers, index: PostIndex, post_vectors: Floats, config: SourcesConfig
    ) -> None:
        """
        Args:
            post_vectors: what the index was built from, (N, D).
        Raises: ReleaseError when the parts do not belong together.
        """
        towers.check_catalogue(catalogue)
        wanted = (catalogue.n_posts, towers.embedding_size)
        for name, shape in (("index", (index.n_posts, index.embedding_size)), ("post vectors", post_vectors.shape)):
            if shape != wanted:
                raise ReleaseError(
                    f"the {name} must hold (posts, dimensions) = {wanted} as catalogue and towers do, got {shape}; "
                    "serve all from one release"
                )
        self.config = config
        self._catalogue, self._towers, self._post_vectors = catalogue, towers, np.asarray(post_vectors)
        self._sources: tuple[tuple[CandidateSource, int], ...] = (
            (TwoTower(catalogue, towers, index), config.two_tower),
            (Followed(catalogue), config.followed),
            (Trending(catalogue), config.trending),
        )

    def __call__(self, context: Context, exclude: Rows = NOTHING) -> Candidates:
        """Candidates up to the budget, exactly the budget wherever so many posts are visible and not excluded.

        Args:
            exclude: posts to leave out, as rows; -1 is ignored.
        """
        budget = self.config.budget
        found = [source(context, budget, exclude) for source, _ in self._sources]
        rows, bits = merge(
            found, [source.bit for source, _ in self._sources], [places for _, places in self._sources], budget
        )
        return Candidates(post_row=rows, sources=bits, retrieval_score=self.scores(context, rows))

    def scores(self, context: Context, post_row: Rows) -> Floats:
        """Similarity of the user to any posts, (C,)."""
        user = self._towers.user_vectors(self._catalogue, UserBatch.from_context(context))
        now = np.array([context.now], np.int64)
        return tower_scores(self._towers, self._catalogue, user, self._post_vectors, post_row, now)
