"""Candidates from followed authors: their newest posts, ties by the lower row. It does not look at content."""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.sources.source import Query
from recsys.types import Rows, Source


class Followed:
    """Newest posts of the authors the user follows."""

    bit = Source.FOLLOWED

    def __init__(self, catalogue: Catalogue) -> None:
        self._created_at = np.asarray(catalogue.created_at)
        self._posts, self._start = catalogue.posts_of_author

    def __call__(self, query: Query, k: int) -> Rows:
        context, allowed = query.context, query.allowed
        # Posts of author a are `_posts[_start[a] : _start[a + 1]]`: gather those of all followed authors, (P,).
        authors = np.unique(context.follows[context.follows >= 0])
        first = self._start[authors]
        length = self._start[authors + 1] - first
        before = np.cumsum(length) - length
        posts = self._posts[np.arange(length.sum()) + np.repeat(first - before, length)]
        posts = posts[allowed.has(posts)]
        newest: Rows = posts[np.lexsort((posts, -self._created_at[posts]))[:k]]
        return newest
