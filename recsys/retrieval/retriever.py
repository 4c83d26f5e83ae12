"""From all posts to a few hundred candidates: every source is asked, their answers are merged.

Takes a request's `Context` and the posts to leave out, gives `Candidates`. A source that fails or is late is left out
and named; the others fill its places. It does not know why a post was left out, nor how candidates are ranked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from recsys.config import SourcesConfig
from recsys.errors import ReleaseError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.index import PostIndex, digest
from recsys.retrieval.sources import Allowed, CandidateSource, Covisited, Followed, Fresh, Trending, TwoTower
from recsys.retrieval.sources.learned import LearnedSources
from recsys.retrieval.towers.inference import Towers, tower_scores
from recsys.retrieval.towers.user_input import UserBatch
from recsys.types import Candidates, Context, Floats, Rows

log = logging.getLogger(__name__)

NOTHING: Rows = np.empty(0, np.int32)

_UNKNOWN_SCORE = 0.0
"""`tower_score`'s default in `features.spec`."""

_N_THREADS = 4
"""Twice the requests that a worker answers at once: sources that hang in some leave others to the next."""


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
            (TwoTower(catalogue, towers, index), config.two_tower),
            (Followed(catalogue), config.followed),
            (Trending(catalogue), config.trending),
            (Fresh(catalogue, learned.author_shown, config), config.fresh),
            (Covisited(learned.neighbours, config), config.covisited),
        )
        """Each with its guaranteed places. The first is asked by the calling thread, the others beside it."""
        self._of_towers = str(TwoTower.bit.name).lower()
        self._pool = ThreadPoolExecutor(_N_THREADS, "sources")
        self._complained: set[str] = set()
        self._newest = np.argsort(-np.asarray(catalogue.created_at), kind="stable").astype(np.int32)

    def __call__(self, context: Context, exclude: Rows = NOTHING) -> Candidates:
        """Candidates up to the budget, exactly the budget wherever so many posts are visible and not excluded.

        Args:
            exclude: posts to leave out, as rows; -1 is ignored.
        """
        allowed = self.allowed(context, exclude)
        found, missing = self._ask(context, allowed)
        rows, bits = self.merged(found)
        if missing and len(rows) < self.config.budget:
            # Whoever would have filled the places is not there; the newest posts still make a feed.
            newest = self._newest[allowed.has(self._newest)]
            newest = newest[~np.isin(newest, rows)][: self.config.budget - len(rows)]
            rows, bits = np.concatenate([rows, newest]), np.concatenate([bits, np.zeros(len(newest), np.uint16)])
        return Candidates(
            post_row=rows, sources=bits, retrieval_score=self._scores(context, rows, missing), missing_sources=missing
        )

    def merged(self, found: Sequence[Rows]) -> tuple[Rows, NDArray[np.uint16]]:
        """Every source's posts as one, by the settings' places: rows and bits."""
        bits, places = [source.bit for source, _ in self.sources], [places for _, places in self.sources]
        return merge(found, bits, places, self.config.budget)

    def allowed(self, context: Context, exclude: Rows = NOTHING) -> Bitmap:
        """Posts that a request may see."""
        return self._allowed(context.now, exclude)

    def scores(self, context: Context, post_row: Rows) -> Floats:
        """Similarity of the user to any posts, (C,)."""
        user = self._towers.user_vectors(self._catalogue, UserBatch.from_context(context))
        now = np.array([context.now], np.int64)
        return tower_scores(self._towers, self._catalogue, user, self._post_vectors, post_row, now)

    def _scores(self, context: Context, post_row: Rows, missing: tuple[str, ...]) -> Floats:
        """As `scores`; where the two towers have failed, what features hold for a score that is not known."""
        try:
            return self.scores(context, post_row)
        except Exception:
            if self._of_towers not in missing:
                raise
            return np.full(len(post_row), _UNKNOWN_SCORE, np.float32)

    def _ask(self, context: Context, allowed: Bitmap) -> tuple[list[Rows], tuple[str, ...]]:
        """Every source's posts, none of one that fails or is late, and the names of those.

        One thread beside the caller's asks all but the first, one after the other: a thread for each costs more than
        their work. Behind one that hangs the rest is late too. The first is waited for: without it there is no feed
        worth its name, and a search ends by itself.
        """
        deadline = time.monotonic() + self.config.timeout_ms / 1000
        (first, _), *others = self.sources
        answers: dict[int, Rows] = {}
        failed: dict[int, Exception] = {}

        def ask(sources: Sequence[CandidateSource]) -> None:
            for source in sources:
                try:
                    answers[source.bit] = source(context, self.config.budget, allowed)
                except Exception as error:
                    failed[source.bit] = error

        beside = self._pool.submit(ask, [source for source, _ in others])
        ask([first])
        if not wait([beside], max(deadline - time.monotonic(), 0)).done:
            beside.cancel()  # or it would run for nobody, where it has not begun
        # A late thread may still be writing: what it wrote by now counts.
        in_time, broken = dict(answers), dict(failed)
        missing = []
        for source, _ in self.sources:
            if source.bit not in in_time:
                name, error = str(source.bit.name).lower(), broken.get(source.bit)
                late = f"took longer than {self.config.timeout_ms:g} ms"
                self._complain(name, late if error is None else f"{type(error).__name__}: {error}", error)
                missing.append(name)
        return [in_time.get(source.bit, NOTHING) for source, _ in self.sources], tuple(missing)

    def _complain(self, name: str, what: str, error: Exception | None) -> None:
        """Once per source and reason in the log; every time in the response and in the metrics."""
        if (key := f"{name}: {what}") not in self._complained and len(self._complained) < 100:
            self._complained.add(key)
            log.warning("source %s is left out of a feed: %s", name, what, exc_info=error)
