"""What a source is, what it is asked, and which posts it may bring.

A source takes a `Query` and gives post rows, best first, without repeats, all of them allowed. It does not know the
other sources, nor how many of its posts survive the merge.
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
    """One request as all sources see it."""

    context: Context
    allowed: Bitmap
    """Posts that may appear."""
    tower: Callable[[UserBatch], Floats]
    """The user tower, (B,) users to (B, D)."""

    @cached_property
    def user_vector(self) -> Floats:
        """The user's vector, (1, D): computed once, however many parts of retrieval need it."""
        return self.tower(UserBatch.from_context(self.context))


class CandidateSource(Protocol):
    """Up to k post rows for a request, best first, each once, all of them allowed."""

    @property
    def bit(self) -> Source: ...

    def __call__(self, query: Query, k: int) -> Rows: ...


class Allowed:
    """Which posts a request may see: visible, created by `now`, not left out. Asked once for all sources."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._visible = np.array(catalogue.visible)
        self._created_at = np.asarray(catalogue.created_at)
        self._newest = int(self._created_at.max(initial=0))
        self._all = Bitmap.of(self._visible)

    def __call__(self, now: int, exclude: Rows) -> Bitmap:
        """A bitmap over the catalogue; -1 in `exclude` is ignored."""
        # In serving all posts exist already; only evaluation asks about the past.
        there = self._all if now >= self._newest else Bitmap.of(self._visible & (self._created_at <= now))
        return there.without(exclude)


def distinct(posts: Rows) -> Rows:
    """Each post once, where it first stands."""
    _, first = np.unique(posts, return_index=True)
    return posts[np.sort(first)]


def alternating(one: Rows, other: Rows) -> Rows:
    """The first of one, the first of the other, the second of one, ..., each post once; then what is left of one."""
    turn = np.concatenate([2 * np.arange(len(one)), 2 * np.arange(len(other)) + 1])
    both: Rows = np.concatenate([one, other])[np.argsort(turn, kind="stable")]
    return distinct(both)
