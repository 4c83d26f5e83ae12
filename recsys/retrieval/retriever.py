"""From all posts to a few hundred candidates: every source is asked, their answers are merged.

Takes a request's `Context` and the posts to leave out, gives `Candidates`. A source that fails is left out and named;
the others fill its places. It does not know why a post was left out, nor how candidates are ranked.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from recsys.config import SourcesConfig
from recsys.errors import ReleaseError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.index.index import PostIndex, digest
from recsys.retrieval.sources import Allowed, CandidateSource, Covisited, Followed, Fresh, Query, Trending, TwoTower
from recsys.retrieval.sources.learned import LearnedSources
from recsys.retrieval.towers.inference import Towers, tower_scores
from recsys.types import Candidates, Context, Floats, Rows

log = logging.getLogger(__name__)

NOTHING: Rows = np.empty(0, np.int32)

_UNKNOWN_SCORE = 0.0
"""`tower_score`'s default in `features.spec`."""


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
    """All sources behind one call; safe to share between threads."""

    def __init__(
        self, catalogue: Catalogue, towers: Towers, index: PostIndex, post_vectors: Floats, learned: LearnedSources,
        config: SourcesConfig,
    ) -> None:  # fmt: skip
        """
        Args:
            post_vectors: what the index was built from, (N, D).
        Raises: ReleaseError when the parts do not belong together.
        """
        towers.check_catalogue(catalogue)
        learned.check_catalogue(catalogue)
        wanted = (catalogue.n_posts, towers.embedding_size)
        for name, shape in (("index", (index.n_posts, index.embedding_size)), ("post vectors", post_vectors.shape)):
            if shape != wanted:
                raise ReleaseError(
                    f"the {name} must hold (posts, dimensions) = {wanted} as catalogue and towers do, got {shape}; "
                    "serve all from one release"
                )
        if digest(post_vectors) != index.built_from:
            raise ReleaseError(
                "the index must be built from the release's post vectors, got others'; serve one release"
            )
        self.config = config
        self._catalogue, self._towers, self._post_vectors = catalogue, towers, np.asarray(post_vectors)
        self._allowed = Allowed(catalogue)
        self.sources: tuple[tuple[CandidateSource, int], ...] = (
            (TwoTower(index), config.two_tower),
            (Followed(catalogue), config.followed),
            (Trending(catalogue), config.trending),
            (Fresh(catalogue, learned.author_shown, config), config.fresh),
            (Covisited(learned.neighbours, config), config.covisited),
        )
        """Each with its guaranteed places."""
        self._of_towers = str(TwoTower.bit.name).lower()
        self._complained: set[str] = set()
        self._newest = np.argsort(-np.asarray(catalogue.created_at), kind="stable").astype(np.int32)

    def __call__(self, context: Context, exclude: Rows = NOTHING) -> Candidates:
        """Candidates up to the budget, exactly the budget wherever so many posts are visible and not excluded.

        Args:
            exclude: posts to leave out, as rows; -1 is ignored.
        """
        query = self.query(context, exclude)
        found, missing = self._ask(query)
        rows, bits = self.merged(found)
        if missing and len(rows) < self.config.budget:
            # The source that would have filled these places failed; the newest posts still make a feed.
            newest = self._newest[query.allowed.has(self._newest)]
            newest = newest[~np.isin(newest, rows)][: self.config.budget - len(rows)]
            rows, bits = np.concatenate([rows, newest]), np.concatenate([bits, np.zeros(len(newest), np.uint16)])
        return Candidates(
            post_row=rows, sources=bits, retrieval_score=self._scores(query, rows, missing), missing_sources=missing
        )

    def merged(self, found: Sequence[Rows]) -> tuple[Rows, NDArray[np.uint16]]:
        """Every source's posts as one, by the settings' places: rows and bits."""
        bits, places = [source.bit for source, _ in self.sources], [places for _, places in self.sources]
        return merge(found, bits, places, self.config.budget)

    def query(self, context: Context, exclude: Rows = NOTHING) -> Query:
        """What every source is asked for this request.

        Args:
            exclude: posts to leave out, as rows; -1 is ignored.
        """
        tower = partial(self._towers.user_vectors, self._catalogue)
        return Query(context, self._allowed(context.now, exclude), tower)

    def scores(self, query: Query, post_row: Rows) -> Floats:
        """Two-tower similarity of the user to any posts, (C,)."""
        now = np.array([query.context.now], np.int64)
        return tower_scores(self._towers, self._catalogue, query.user_vector, self._post_vectors, post_row, now)

    def _scores(self, query: Query, post_row: Rows, missing: tuple[str, ...]) -> Floats:
        """As `scores`; where the two towers failed, the features' default for an unknown score."""
        try:
            return self.scores(query, post_row)
        except Exception:
            if self._of_towers not in missing:
                raise
            return np.full(len(post_row), _UNKNOWN_SCORE, np.float32)

    def _ask(self, query: Query) -> tuple[list[Rows], tuple[str, ...]]:
        """Each source's posts, none for a source that fails, and the names of those that failed."""
        found, missing = [], []
        for source, _ in self.sources:
            try:
                found.append(source(query, self.config.budget))
            except Exception as error:  # one broken source must not cost the whole feed
                found.append(NOTHING)
                missing.append(name := str(source.bit.name).lower())
                self._complain(name, error)
        return found, tuple(missing)

    def _complain(self, name: str, error: Exception) -> None:
        """Log once per source and reason; the response and the metrics say it every time."""
        if (key := f"{name}: {type(error).__name__}: {error}") not in self._complained and len(self._complained) < 100:
            self._complained.add(key)
            log.warning("source %s is left out of a feed: %s: %s", name, type(error).__name__, error, exc_info=error)
