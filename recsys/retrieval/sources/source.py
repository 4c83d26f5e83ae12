"""The interface of candidate sources: the query, the allowed posts, and how two lists alternate.

A source takes a `Query` and gives allowed post rows, best first, without repeats. It does not know the other sources or
how many of its posts the merge keeps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from recsys.features.users import UserBatch
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.index.bitmap import Bitmap
from recsys.types import Context, Floats, Rows, Source


@dataclass(frozen=True)
class Query:
    """One request, the same for all sources."""

    context: Context
    allowed: Bitmap
    """Posts that may appear."""
    tower: Callable[[UserBatch], Floats]
    """The user tower, (B,) users to (B, D)."""

    @cached_property
    def user_vector(self) -> Floats:
        """The user's vector, (1, D), computed once per request."""
        return self.tower(UserBatch.from_context(self.context))


class CandidateSource(Protocol):
    """Gives up to k allowed post rows for a request, best first, without repeats."""

    @property
    def bit(self) -> Source: ...

    def __call__(self, query: Query, k: int) -> Rows: ...


class Allowed:
    """Computes the posts that a request may show, once for all sources: visible, created by `now`, not excluded."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._visible = np.array(catalogue.visible)
        self._created_at = np.asarray(catalogue.created_at)
        self._newest = int(self._created_at.max(initial=0))
        self._all = Bitmap.of(self._visible)

    def __call__(self, now: int, exclude: Rows) -> Bitmap:
        """A bitmap over the catalogue; -1 in `exclude` is ignored."""
        # In serving all posts exist already; only evaluation asks about the past.
        exist = self._all if now >= self._newest else Bitmap.of(self._visible & (self._created_at <= now))
        return exist.without(exclude)


def distinct(posts: Rows) -> Rows:
    """Keep the first occurrence of each post, in order."""
    _, first = np.unique(posts, return_index=True)
    return posts[np.sort(first)]


def alternating(one: Rows, other: Rows) -> Rows:
    """Alternate two lists, beginning with the first; each post once; then the rest of the longer list."""
    turn = np.concatenate([2 * np.arange(len(one)), 2 * np.arange(len(other)) + 1])
    both: Rows = np.concatenate([one, other])[np.argsort(turn, kind="stable")]
    return distinct(both)
