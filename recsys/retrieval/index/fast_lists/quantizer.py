"""Compress vectors: four-bit numbers ("nibbles") for the search, one byte per dimension for the rescoring.

Takes post vectors and a sample of the expected queries. The nibbles of a code are shared out by error: dimensions in
which posts differ most, weighted by the queries, get two, others one, the least important none. This module does not
know lists (`inverted_file`) or the memory layout of codes.
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
"""Best step of a uniform 16-level quantizer for a normal distribution, in standard deviations.

Source: Max, "Quantizing for Minimum Distortion", 1960, table II.
"""
_VARIANCE_LEFT = 0.0115
"""Share of the variance that this quantizer leaves as error (same table)."""
_WIDE_STEP = 0.5
"""First step of a dimension with two or more nibbles. It is wider, because the second nibble refines the steps and
clipped values become the larger error."""
_CHUNK = 50_000
"""Posts processed at once."""
_CACHE_LINE = 64
"""Bytes."""

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Vectors and everything that does not depend on the number of lists or the length of codes."""

    vectors: Floats
    """(N, D), finite, N > 0."""
    space: Space
    kept: Bytes
    """The vectors as one byte per dimension, (N, D), for rescoring."""
    kept_scale: Floats
    """Decodes `kept`, (2, D): vector = kept * kept_scale[0] + kept_scale[1]."""

    @classmethod
    def of(cls, vectors: Floats, queries: Floats) -> Self:
        """Fit the space and compress the vectors to bytes.

        Args:
            vectors: post vectors, (N, D), finite, N > 0.
            queries: a sample of the expected queries, (M, D), finite, M > 0.
        Raises: DataError when most transformed vectors are too large for float32 distances.
        """
        space = Space.fit(vectors, queries)
        return cls(vectors, space, *_to_bytes(vectors, space))


def chunks(n: int) -> Iterator[slice]:
    """Split n posts into slices of at most `_CHUNK`."""
    for start in range(0, n, _CHUNK):
        yield slice(start, min(start + _CHUNK, n))


def allocate_nibbles(residuals: Floats, code_bytes: int) -> tuple[Rows, Floats]:
    """Assign the 2 P nibbles of a code to dimensions, one by one, each to the dimension with the largest error so far.

    Args:
        residuals: vectors minus their list's centre, (M, D).
        code_bytes: P.
    Returns: the dimension of each nibble, (2 P,), and the size of its quantization step, (2 P,).
    """
    # Error of each dimension, (D,): its variance, as long as it has no nibble.
    error: Doubles = residuals.var(axis=0, dtype=np.float64)
    deviation = np.sqrt(error)
    count = np.zeros(len(error), np.int64)
    number_of, nth = np.zeros(2 * code_bytes, np.int32), np.zeros(2 * code_bytes)
    for i in range(2 * code_bytes):
        # The first nibble of a dimension leaves `_VARIANCE_LEFT`. Each further one divides the step by 16.
        number_of[i] = d = int(np.argmax(error))
        nth[i] = count[d]
        error[d] *= 1 / 256 if count[d] else _VARIANCE_LEFT
        count[d] += 1
    first_step = np.where(count > 1, _WIDE_STEP, _STEP) * deviation  # (D,)
    return number_of, np.maximum(first_step[number_of] / 16.0**nth, 1e-20).astype(np.float32)


def encode(residuals: Floats, number_of: Rows, step: Floats) -> Bytes:
    """Quantize residuals, (M, D), to nibbles from 0 to 15, (M, 2 P).

    The second nibble of a dimension codes the error of the first.

    Args:
        number_of, step: what `allocate_nibbles` returns, (2 P,) each.
    """
    error, nibbles = residuals.copy(), np.empty((len(residuals), len(number_of)), np.uint8)
    for i, (d, size) in enumerate(zip(number_of, step, strict=True)):
        # Nibble i of all vectors, (M,): level n stands for (n - 7.5) * step.
        nibble = np.clip(np.floor(error[:, d] / size + 8), 0, 15)
        # Subtract what the nibble stands for, so that a later nibble of this dimension sees the remaining error.
        error[:, d] -= (nibble - np.float32(7.5)) * size
        nibbles[:, i] = nibble
    return nibbles


def _to_bytes(vectors: Floats, space: Space) -> tuple[Bytes, Floats]:
    """Quantize each dimension to 256 levels between its minimum and maximum.

    Returns: `Prepared.kept`, (N, D), and `Prepared.kept_scale`, (2, D).
    """
    # 1. Range of each dimension, clipped to the bounds of the space, and width of one level, (D,).
    low, high = np.maximum(vectors.min(axis=0), space.low), np.minimum(vectors.max(axis=0), space.high)
    width = np.maximum((high - low) / np.float32(255), np.float32(1e-30)).astype(np.float32)
    # 2. Align the array to cache lines: a post of 64 dimensions then fills one line instead of parts of two. Arrays
    # mapped from files are aligned anyway.
    buffer = np.empty(vectors.size + _CACHE_LINE, np.uint8)
    kept = buffer[-buffer.ctypes.data % _CACHE_LINE :][: vectors.size].reshape(vectors.shape)
    # 3. Round to the nearest level, (chunk, D) at a time.
    for chunk in chunks(len(vectors)):
        kept[chunk] = np.rint((space.bounded(vectors[chunk]) - low) / width)
    return kept, np.stack([width, low]).astype(np.float32)
