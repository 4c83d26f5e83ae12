"""Positions in the event stream as numbers that compare in stream order: what the lake keeps beside streamed rows.

Takes stream ids as text (`milliseconds-sequence`), gives int64. It does not know what is on the stream.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recsys.types import Ids

_SEQUENCE_BITS = 20
"""A million records in one millisecond; the 43 bits before them last until the year 2248."""


def to_number(stream_id: str) -> int:
    """0 for the empty id, which is before everything.

    Raises: ValueError for what is no stream id.
    """
    milliseconds, _, sequence = stream_id.partition("-")
    number = (int(milliseconds or 0) << _SEQUENCE_BITS) + int(sequence or 0)
    if number < 0 or number >= 1 << 63 or int(sequence or 0) >> _SEQUENCE_BITS:
        raise ValueError(f"a stream id must be milliseconds-sequence with a sequence below 2^20, got {stream_id!r}")
    return number


def to_numbers(stream_ids: Iterable[str]) -> Ids:
    """`to_number` of each."""
    return np.array([to_number(stream_id) for stream_id in stream_ids], np.int64)
