"""The clustering space: a linear map under which distance between posts is the mean difference of their scores.

A recommender's queries do not point in all directions equally. In directions that few queries use, posts may lie far
apart and still have similar scores. Scaling each principal direction of the queries by how much they use it makes
plain distance the right measure for k-means and for codes, whatever kind of index is built there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np

from recsys.errors import DataError
from recsys.types import Doubles, Floats

SAMPLE = 100_000
"""Posts sampled to find the range of vectors and of what codes encode."""
_OUTLIERS = 0.0002
"""Share of the posts at each end of a dimension that count as outliers."""
_LARGEST = 1e15
"""Float32 still holds its square."""
_LEAST_WEIGHT = 1e-3
"""Lower limit of the weight of a direction, relative to the mean."""


@dataclass(frozen=True, slots=True)
class Space:
    """Two linear maps, of posts and of queries, that together preserve every inner product."""

    low: Floats
    """Values are clipped to [low, high] by dimension, (D,): one outlier, say a post from long after the build, would
    otherwise cost all others their precision."""
    high: Floats
    to_place: Floats
    """Moves posts: place = vector @ to_place, (D, D)."""
    to_seen: Floats
    """Moves queries: query @ to_seen, (D, D); their second moment becomes the identity."""

    @classmethod
    def fit(cls, vectors: Floats, queries: Floats) -> Self:
        """Fit the space to posts (N, D) and a sample of queries (M, D), all finite, N > 0 and M > 0.

        Raises: DataError when most places are too large for float32 distances.
        """
        sample = some_of(vectors, SAMPLE)
        with np.errstate(over="ignore", invalid="ignore"):
            space = cls.of(sample, queries)
            largest = space.largest(sample)
        if not largest <= _LARGEST:  # NaN is refused too
            raise DataError(
                f"post vectors, times the length of users', must mostly lie within {_LARGEST:g}, got {largest:g}; "
                "run `recsys train` again"
            )
        return space

    @classmethod
    def of(cls, sample: Floats, queries: Floats) -> Self:
        """From a sample of the posts, (S, D), and one of the queries to come, (M, D)."""
        # A handful of posts cannot tell which of them lie far outside.
        beyond = max(_OUTLIERS, 2 / len(sample)) if len(sample) >= 8 else 0.0
        low = np.quantile(sample, beyond, axis=0, method="higher").astype(np.float64)
        high = np.quantile(sample, 1 - beyond, axis=0, method="lower").astype(np.float64)
        # Directions in which nearly all posts are alike may still say much about the few that are not.
        more = np.maximum(high - low, np.median(high - low))
        bounds = (low - more).astype(np.float32), (high + more).astype(np.float32)
        doubles: Doubles = np.asarray(queries, np.float64)
        weight, axes = np.linalg.eigh(doubles.T @ doubles / len(doubles))
        weight = np.maximum(weight, 0)
        weight = np.sqrt(weight + _LEAST_WEIGHT * weight.mean() + 1e-30)
        return cls(*bounds, (axes * weight).astype(np.float32), (axes / weight).astype(np.float32))

    def bounded(self, vectors: Floats) -> Floats:
        return np.clip(np.asarray(vectors, np.float32), self.low, self.high)

    def place(self, vectors: Floats) -> Floats:
        """Posts to their places, (M, D) to (M, D)."""
        place: Floats = self.bounded(vectors) @ self.to_place
        return place

    def largest(self, vectors: Floats) -> float:
        """The largest number in the places of these posts."""
        return float(np.abs(self.place(vectors)).max())

    def within_one(self, vectors: Floats) -> Self:
        """The same space scaled by a power of two, so that the places of most posts lie within [-1, 1]."""
        factor = np.float32(2.0 ** -math.ceil(math.log2(max(self.largest(some_of(vectors, SAMPLE)), 1e-30))))
        return replace(self, to_place=self.to_place * factor, to_seen=self.to_seen / factor)

    def save(self, folder: Path) -> list[str]:
        """Write one .npy file per array; returns their names without the ending."""
        for column in fields(self):
            np.save(folder / f"{column.name}.npy", getattr(self, column.name))
        return [column.name for column in fields(self)]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises: OSError or ValueError when a file is missing or truncated."""
        return cls(*(np.load(folder / f"{column.name}.npy") for column in fields(cls)))


def some_of(vectors: Floats, n: int) -> Floats:
    """Draw at most n of these vectors, always the same ones, in their order."""
    chosen = np.random.default_rng(1).permutation(len(vectors))[:n]
    return np.asarray(vectors[np.sort(chosen)], np.float32)
