"""How vectors become numbers of four bits and bytes, and the space in which that is done.

Takes vectors and a sample of the queries to come. Directions in which posts differ much, as queries see it, get two
numbers of a code, others one, the least none. It does not know lists (`inverted_file`), nor how codes are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.retrieval.index.space import Space
from recsys.types import Doubles, Floats, Rows

_STEP = 0.335
"""Step of 16 equal levels, in standard deviations, that is best for a normal distribution, and the share of the
variance that it leaves (Max, "Quantizing for Minimum Distortion", 1960, table II)."""
_LEFT = 0.0115
_WIDE_STEP = 0.5
"""The same where another number divides the steps further: what lies beyond the levels then weighs more."""
_CHUNK = 50_000
"""Posts worked on at once."""
_LINE = 64
"""Bytes that memory gives at once."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Vectors, and what all lists and codes of them share, whatever their number and length."""

    vectors: Floats
    """(N, D), finite, N > 0."""
    space: Space
    kept: Bytes
    """A byte per dimension, (N, D)."""
    kept_scale: Floats
    """A vector is kept * kept_scale[0] + kept_scale[1], (2, D)."""

    @classmethod
    def of(cls, vectors: Floats, queries: Floats) -> Self:
        """`queries`: a sample of those to come, (M, D), finite, M > 0.

        Raises: DataError when most places are too large for float32 distances.
        """
        space = Space.fit(vectors, queries)
        return cls(vectors, space, *_as_bytes(vectors, space))


def chunks(n: int) -> Iterator[slice]:
    for start in range(0, n, _CHUNK):
        yield slice(start, min(start + _CHUNK, n))


def choose_numbers(rest: Floats, code_bytes: int) -> tuple[Rows, Floats]:
    """Which dimensions a code's numbers are of, and their steps: each goes to where most error is left, (2 P,) each."""
    left: Doubles = rest.var(axis=0, dtype=np.float64)
    spread = np.sqrt(left)
    times = np.zeros(len(left), np.int64)
    number_of, nth = np.zeros(2 * code_bytes, np.int32), np.zeros(2 * code_bytes)
    for i in range(2 * code_bytes):
        number_of[i] = d = int(np.argmax(left))
        nth[i] = times[d]
        left[d] *= 1 / 256 if times[d] else _LEFT
        times[d] += 1
    first = np.where(times > 1, _WIDE_STEP, _STEP) * spread
    return number_of, np.maximum(first[number_of] / 16.0**nth, 1e-20).astype(np.float32)


def encode(rest: Floats, number_of: Rows, step: Floats) -> Bytes:
    """Numbers from 0 to 15, (M, 2 P); a further number of a dimension codes what the one before left."""
    left, numbers = rest.copy(), np.empty((len(rest), len(number_of)), np.uint8)
    for i, (d, size) in enumerate(zip(number_of, step, strict=True)):
        number = np.clip(np.floor(left[:, d] / size + 8), 0, 15)
        left[:, d] -= (number - np.float32(7.5)) * size
        numbers[:, i] = number
    return numbers


def _as_bytes(vectors: Floats, space: Space) -> tuple[Bytes, Floats]:
    """A byte per dimension between the least and the largest number in it, (N, D), and how to read them."""
    low, high = np.maximum(vectors.min(axis=0), space.low), np.minimum(vectors.max(axis=0), space.high)
    width = np.maximum((high - low) / np.float32(255), np.float32(1e-30)).astype(np.float32)
    # A post of 64 dimensions is one cache line, and not a part of two; files are mapped so anyway.
    room = np.empty(vectors.size + _LINE, np.uint8)
    kept = room[-room.ctypes.data % _LINE :][: vectors.size].reshape(vectors.shape)
    for part in chunks(len(vectors)):
        kept[part] = np.rint((space.bounded(vectors[part]) - low) / width)
    return kept, np.stack([width, low]).astype(np.float32)
