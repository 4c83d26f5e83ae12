"""The newest posts, and a fair chance for those that nobody knows yet.

Posts of the last hours in the user's language: every other one is the newest, every other one drawn at random, rather
of authors whom few have seen. The draw is the request's own, so that the same request gives the same posts. It knows
how often an author was shown only as of the release, and of a post only its age: in the first hours no post was shown
often.

Source of the weighted draw without replacement: Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
Information Processing Letters 97 (2006), algorithm A.
"""

from __future__ import annotations

import numpy as np

from recsys.config import SourcesConfig
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.sources.source import Query, alternating
from recsys.types import SECOND, Ids, Rows, Source

_MOST = 4000
"""Posts looked at for either half, which bounds the work where very many are written."""


class Fresh:
    """As `source.CandidateSource`."""

    bit = Source.FRESH

    def __init__(self, catalogue: Catalogue, author_shown: Ids, config: SourcesConfig) -> None:
        """
        Args:
            author_shown: impressions of each author's posts when the release was made, (A,).
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
        newest = some = rows[max(low, high - _MOST) : high][::-1]
        rng = np.random.default_rng(context.request.request_id % 2**63)
        if high - low > _MOST:
            some = rows[np.unique(rng.integers(low, high, _MOST))]
        newest, some = newest[allowed.has(newest)], some[allowed.has(some)]
        drawn = some[np.argsort(-np.log(rng.random(len(some))) / self._weight[some], kind="stable")]
        return alternating(newest, drawn)[:k]
