"""Fresh candidates: the newest posts, alternating with random ones that prefer authors with few impressions.

Takes posts of the last hours in the user's language. The draw is seeded by the request id, so a request always gives
the same posts. An author's impressions are counted in training. Impressions of a post are not used: in its first hours
no post has many.

Source of the weighted draw without replacement: Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
Information Processing Letters 97 (2006), algorithm A.
"""

from __future__ import annotations

import numpy as np

from recsys.config import SourcesConfig
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.sources.source import Query, alternating
from recsys.types import SECOND, Ids, Rows, Source

_MAX_POSTS = 4000
"""Posts considered for each half, to bound the work when very many are written."""


class Fresh:
    """Newest and randomly drawn posts of the last `retrieval.sources.fresh_window_s` seconds."""

    bit = Source.FRESH

    def __init__(self, catalogue: Catalogue, author_shown: Ids, config: SourcesConfig) -> None:
        """
        Args:
            author_shown: impressions of each author's posts as of the release, (A,).
        """
        created_at, language = np.asarray(catalogue.created_at), np.asarray(catalogue.language)
        by_age = np.argsort(created_at, kind="stable").astype(np.int32)
        self._all = by_age, created_at[by_age]
        """Rows and times, oldest first."""
        by_language = by_age[np.argsort(language[by_age], kind="stable")]
        codes, first = np.unique(language[by_language], return_index=True)
        parts = np.split(by_language, first[1:])
        self._of_language = {code: (rows, created_at[rows]) for code, rows in zip(codes.tolist(), parts, strict=False)}
        author = np.asarray(catalogue.author)
        shown = np.where(author >= 0, np.append(author_shown, 0)[author], 0)
        self._weight = 1 / np.sqrt(1.0 + shown)
        self._window = round(config.fresh_window_s * SECOND)

    def __call__(self, query: Query, k: int) -> Rows:
        context, allowed = query.context, query.allowed
        rows, times = self._all
        if context.language >= 0:
            rows, times = self._of_language.get(context.language, (rows[:0], times[:0]))
        low, high = np.searchsorted(times, [context.now - self._window, context.now], side="right")
        newest = sampled = rows[max(low, high - _MAX_POSTS) : high][::-1]
        rng = np.random.default_rng(context.request.request_id % 2**63)
        if high - low > _MAX_POSTS:
            sampled = rows[np.unique(rng.integers(low, high, _MAX_POSTS))]
        newest, sampled = newest[allowed.has(newest)], sampled[allowed.has(sampled)]
        # Weighted draw without replacement: sort by exponential times with rate `_weight`.
        drawn = sampled[np.argsort(-np.log(rng.random(len(sampled))) / self._weight[sampled], kind="stable")]
        return alternating(newest, drawn)[:k]
