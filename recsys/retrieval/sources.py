"""Where candidates come from: the two towers, followed authors, what is trending.

Each source takes a request's `Context` and the posts to leave out, gives post rows, best first, without repeats: only
posts that are visible, exist at `now` and are not left out. It does not know the other sources, nor how many of its
posts survive the merge.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsys.offline.catalogue import Catalogue
from recsys.retrieval.bitmap import Bitmap
from recsys.retrieval.index import PostIndex
from recsys.retrieval.towers import Towers
from recsys.retrieval.users import UserBatch
from recsys.types import Context, Mask, Rows, Source

NOTHING: Rows = np.empty(0, np.int32)


class CandidateSource(Protocol):
    """Up to k post rows for a request, best first, none of them in `exclude`."""

    @property
    def bit(self) -> Source: ...

    def __call__(self, context: Context, k: int, exclude: Rows = NOTHING) -> Rows: ...


class Allowed:
    """Which posts a request may see: visible, created by `now`, not excluded."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._visible = np.array(catalogue.visible)
        self._created_at = np.asarray(catalogue.created_at)
        self._newest = int(self._created_at.max(initial=0))

    def __call__(self, now: int, exclude: Rows) -> Mask:
        """A mask over the catalogue, (N,); -1 in `exclude` is ignored."""
        # In serving all posts exist already; only evaluation asks about the past.
        mask = self._visible.copy() if now >= self._newest else self._visible & (self._created_at <= now)
        mask[exclude[exclude >= 0]] = False
        return mask


class TwoTower:
    """The posts whose vectors lie nearest to the user's."""

    bit = Source.TWO_TOWER

    def __init__(self, catalogue: Catalogue, towers: Towers, index: PostIndex) -> None:
        self._catalogue, self._towers, self._index = catalogue, towers, index
        self._allowed = Allowed(catalogue)

    def __call__(self, context: Context, k: int, exclude: Rows = NOTHING) -> Rows:
        vectors = self._towers.user_vectors(self._catalogue, UserBatch.from_context(context))
        _, rows = self._index.search(vectors, k, Bitmap.of(self._allowed(context.now, exclude)))
        best: Rows = rows[0, rows[0] >= 0]
        return best


class Followed:
    """The newest posts of the authors a user follows; ties go to the lowest row."""

    bit = Source.FOLLOWED

    def __init__(self, catalogue: Catalogue) -> None:
        self._created_at = np.asarray(catalogue.created_at)
        self._posts, self._start = catalogue.posts_of_author
        self._allowed = Allowed(catalogue)

    def __call__(self, context: Context, k: int, exclude: Rows = NOTHING) -> Rows:
        authors = np.unique(context.follows[context.follows >= 0])
        first = self._start[authors]
        length = self._start[authors + 1] - first
        before = np.cumsum(length) - length
        posts = self._posts[np.arange(length.sum()) + np.repeat(first - before, length)]
        posts = posts[self._allowed(context.now, exclude)[posts]]
        newest: Rows = posts[np.lexsort((posts, -self._created_at[posts]))[:k]]
        return newest


class Trending:
    """What is trending in the user's language, as the online store ranked it."""

    bit = Source.TRENDING

    def __init__(self, catalogue: Catalogue) -> None:
        self._allowed = Allowed(catalogue)

    def __call__(self, context: Context, k: int, exclude: Rows = NOTHING) -> Rows:
        known = context.trending[context.trending >= 0]
        posts = known[self._allowed(context.now, exclude)[known]]
        _, first = np.unique(posts, return_index=True)
        distinct: Rows = posts[np.sort(first)[:k]]
        return distinct
