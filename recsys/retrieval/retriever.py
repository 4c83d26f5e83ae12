"""Retrieve a few hundred candidates from all posts: call every source and merge their results.

Takes a request's `Context` and the posts to exclude, gives `Candidates`. A source that fails is skipped and named; the
others fill its places. This module does not know why posts are excluded or how candidates are ranked.
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

_NO_POSTS: Rows = np.empty(0, np.int32)

_UNKNOWN_SCORE = 0.0
"""Default of `tower_score` in `features.spec`."""


def merge(
    found: Sequence[Rows], bits: Sequence[int], places: Sequence[int], budget: int
) -> tuple[Rows, NDArray[np.uint16]]:
    """Merge the posts of all sources. Each post appears once, with the bits of all sources that found it.

    Every source first fills its guaranteed places with its best posts. The remaining places go to the further posts of
    the first source, then of the second, and so on.

    Args:
        found: post rows of each source, best first, without repeats within a source.
        bits: bit of each source.
        places: guaranteed places of each source; their sum must not exceed `budget`.
        budget: number of candidates, at most.
    Returns: rows and bits, (C,) each, C = min(budget, distinct posts).
    """
    # 1. Concatenate all posts, (M,), and move those in guaranteed places to the front.
    rows = np.concatenate(found)
    bit = np.repeat(np.array(bits, np.uint16), [len(posts) for posts in found])
    guaranteed = np.concatenate([np.arange(len(posts)) < n for posts, n in zip(found, places, strict=True)])
    order = np.argsort(~guaranteed, kind="stable")
    # 2. Combine the bits of each distinct post, (P,).
    distinct, first, of_distinct = np.unique(rows[order], return_index=True, return_inverse=True)
    sources = np.zeros(len(distinct), np.uint16)
    np.bitwise_or.at(sources, of_distinct, bit[order])
    # 3. Keep the posts that come first in that order, (C,).
    chosen = np.argsort(first)[:budget]
    return distinct[chosen].astype(np.int32), sources[chosen]


class Retriever:
    """Calls all sources and merges their posts. Safe to share between threads."""

    def __init__(
        self, catalogue: Catalogue, towers: Towers, index: PostIndex, post_vectors: Floats, learned: LearnedSources,
        config: SourcesConfig,
    ) -> None:  # fmt: skip
        """
        Args:
            post_vectors: the vectors that the index was built from, (N, D).
        Raises: ReleaseError when the parts come from different releases.
        """
        towers.check_catalogue(catalogue)
        learned.check_catalogue(catalogue)
        expected = (catalogue.n_posts, towers.embedding_size)
        for name, shape in (("index", (index.n_posts, index.embedding_size)), ("post vectors", post_vectors.shape)):
            if shape != expected:
                raise ReleaseError(
                    f"the {name} must hold (posts, dimensions) = {expected} as catalogue and towers do, got {shape}; "
                    "serve all from one release"
                )
        if digest(post_vectors) != index.built_from:
            raise ReleaseError(
                "the index must be built from the release's post vectors, got one of other vectors; "
                "serve all from one release"
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
        """Each source with its number of guaranteed places."""
        self._two_tower_name = str(TwoTower.bit.name).lower()
        self._logged: set[str] = set()
        self._newest = np.argsort(-np.asarray(catalogue.created_at), kind="stable").astype(np.int32)

    def __call__(self, context: Context, exclude: Rows = _NO_POSTS) -> Candidates:
        """Retrieve candidates: as many as the budget, or all visible posts that are not excluded if there are fewer.

        Args:
            exclude: posts to leave out, as rows; -1 is ignored.
        """
        query = self.query(context, exclude)
        found, missing = self._call_sources(query)
        rows, bits = self.merged(found)
        if missing and len(rows) < self.config.budget:
            # Sources failed and the others found too few posts: fill the feed with the newest allowed posts.
            newest = self._newest[query.allowed.has(self._newest)]
            newest = newest[~np.isin(newest, rows)][: self.config.budget - len(rows)]
            rows, bits = np.concatenate([rows, newest]), np.concatenate([bits, np.zeros(len(newest), np.uint16)])
        return Candidates(
            post_row=rows, sources=bits, retrieval_score=self._scores(query, rows, missing), missing_sources=missing
        )

    def merged(self, found: Sequence[Rows]) -> tuple[Rows, NDArray[np.uint16]]:
        """Merge the posts of every source with the configured places and budget; returns rows and bits."""
        bits, places = [source.bit for source, _ in self.sources], [places for _, places in self.sources]
        return merge(found, bits, places, self.config.budget)

    def query(self, context: Context, exclude: Rows = _NO_POSTS) -> Query:
        """Build the query that every source gets for this request.

        Args:
            exclude: posts to leave out, as rows; -1 is ignored.
        """
        tower = partial(self._towers.user_vectors, self._catalogue)
        return Query(context, self._allowed(context.now, exclude), tower)

    def scores(self, query: Query, post_row: Rows) -> Floats:
        """Two-tower scores of the user with these posts, (C,)."""
        now = np.array([query.context.now], np.int64)
        return tower_scores(self._towers, self._catalogue, query.user_vector, self._post_vectors, post_row, now)

    def _scores(self, query: Query, post_row: Rows, missing: tuple[str, ...]) -> Floats:
        """Two-tower scores, (C,), or the default of an unknown score if the two-tower source failed too."""
        try:
            return self.scores(query, post_row)
        except Exception:
            if self._two_tower_name not in missing:
                raise
            return np.full(len(post_row), _UNKNOWN_SCORE, np.float32)

    def _call_sources(self, query: Query) -> tuple[list[Rows], tuple[str, ...]]:
        """Call every source. Returns the posts of each (none if it failed) and the names of those that failed."""
        found, missing = [], []
        for source, _ in self.sources:
            try:
                found.append(source(query, self.config.budget))
            except Exception as error:  # one failing source must not fail the whole feed
                found.append(_NO_POSTS)
                missing.append(name := str(source.bit.name).lower())
                self._log_failure(name, error)
        return found, tuple(missing)

    def _log_failure(self, name: str, error: Exception) -> None:
        """Log a failure once per source and reason, 100 in all; responses and metrics report every failure."""
        if (failure := f"{name}: {type(error).__name__}: {error}") not in self._logged and len(self._logged) < 100:
            self._logged.add(failure)
            log.warning("source %s is left out of a feed: %s: %s", name, type(error).__name__, error, exc_info=error)
