"""The types that pass through the three stages: request, context, candidates (as columns), slate.

Shape letters: N posts, U users, C candidates of one request, F features, H heads, D embedding size, K slate.
Posts and users have ids outside (int64) and dense int32 rows inside; times are int64 microseconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int32]
Ids: TypeAlias = NDArray[np.int64]
Times: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]

SECOND = 1_000_000
"""Microseconds in a second; all times are int64 microseconds."""
HOUR = 3600 * SECOND
DAY = 24 * HOUR


class Source(IntFlag):
    """Retrieval sources, as bits: a candidate found by several sources has several bits set."""

    TWO_TOWER = 1
    FOLLOWED = 2
    TRENDING = 4
    FRESH = 8
    COVISITED = 16

    @classmethod
    def names(cls, bits: int) -> list[str]:
        return [source.name.lower() for source in cls if bits & source and source.name]


@dataclass(frozen=True, slots=True)
class Shown:
    """What earlier pages of the same feed showed; stored in the cursor."""

    post_ids: tuple[int, ...] = ()
    authors: dict[int, int] = field(default_factory=dict)
    """Author id to the number of posts shown."""
    topics: dict[str, int] = field(default_factory=dict)
    """Topic to the number of posts shown."""


@dataclass(frozen=True, slots=True)
class FeedRequest:
    """A client's request for a page of posts."""

    request_id: int
    user_id: int
    now: int
    limit: int = 20
    shown: Shown = field(default_factory=Shown)


@dataclass(frozen=True, slots=True)
class Context:
    """The request and what catalogue and online store know about its user."""

    request: FeedRequest
    user_row: int
    """Row in the catalogue, -1 for an unknown user."""
    language: int
    """Row of the user's language in the catalogue, -1 unknown."""
    country: int
    """Row of the user's country in the catalogue, -1 unknown."""
    follows: Rows
    """Followed authors, as author rows."""
    blocks: Rows
    """Blocked authors, as author rows."""
    history: Rows
    """Posts clicked before, newest first, as post rows."""
    returned: Rows
    """Posts returned before, those in the cursor included, as post rows."""
    trending: Rows
    """Trending posts in the user's language, best first, as post rows."""
    user_watermark: str = ""
    """Stream position that the user's history reflects; empty before the first event."""

    @property
    def now(self) -> int:
        return self.request.now


@dataclass(frozen=True, slots=True)
class Candidates:
    """Posts under consideration for one request, as columns of equal length C."""

    post_row: Rows
    sources: NDArray[np.uint16]
    """Bits of `Source`, (C,)."""
    retrieval_score: Floats
    """Two-tower similarity, (C,)."""
    features: Floats | None = None
    """(C, F), columns in the order of `features.spec.FEATURES`."""
    probability: Floats | None = None
    """Calibrated P(click | examined first), (C,)."""
    score: Floats | None = None
    """Final ranked value, (C,)."""
    removed: dict[str, Rows] = field(default_factory=dict)
    """Reason -> the post rows removed for it."""
    missing_sources: tuple[str, ...] = ()
    """Sources that failed."""

    def __len__(self) -> int:
        return len(self.post_row)

    def take(self, order: NDArray[np.integer]) -> Self:
        """The candidates at these positions, in this order."""
        return replace(
            self,
            post_row=self.post_row[order],
            sources=self.sources[order],
            retrieval_score=self.retrieval_score[order],
            features=None if self.features is None else self.features[order],
            probability=None if self.probability is None else self.probability[order],
            score=None if self.score is None else self.score[order],
        )

    def where(self, keep: Mask, reason: str) -> Self:
        """Keep the candidates where the mask, (C,), is true; record the others in `removed` under `reason`."""
        if keep.all():
            return self
        gone = np.concatenate([self.removed.get(reason, np.empty(0, np.int32)), self.post_row[~keep]])
        return replace(self.take(np.flatnonzero(keep)), removed={**self.removed, reason: gone})


@dataclass(frozen=True, slots=True)
class Slate:
    """The ordered list of posts a user gets, of length K."""

    context: Context
    candidates: Candidates
    """The chosen posts in order of position, with the columns used to choose them."""
    recorded: Rows
    """All posts that were ranked for this request, (C,); the slate was chosen from these."""
    propensity: Floats
    """P(this post here | earlier positions, recorded candidates), (K,), in (0, 1]."""
    watermark: str
    """Stream position that the features reflect; empty before the first event."""
    degraded: tuple[str, ...] = ()
    """Names of the parts that were left out."""


class Filter(Protocol):
    """Removes candidates, each with a reason. Never adds, never reorders."""

    def __call__(self, context: Context, candidates: Candidates) -> Candidates: ...


class Scorer(Protocol):
    """P(click) of feature rows as if shown at position 0: (C, F) -> (C,), finite, in (0, 1)."""

    def probability(self, features: Floats) -> Doubles: ...
