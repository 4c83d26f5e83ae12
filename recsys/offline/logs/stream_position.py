"""Stream positions as numbers: stream ids (`milliseconds-sequence`) as int64 that compare in stream order.

The lake keeps this number beside each streamed row. It does not know what is on the stream.

A number has room for a million records in one millisecond. More than that happens only while Redis' clock is behind the
stream's newest record, because the clock was set back or someone added an id of the future: Redis then keeps the
millisecond and goes on counting. All records beyond the room share the last number of their millisecond. Among equal
numbers the event id decides the order, and a watermark with that number covers all of them. Later milliseconds are
not affected.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from recsys.types import Ids

_SEQUENCE_BITS = 20
"""Room for a million records per millisecond; the other 43 bits hold milliseconds until the year 2248."""

_LAST_SEQUENCE = (1 << _SEQUENCE_BITS) - 1
_LAST_MILLISECONDS = (1 << 63 - _SEQUENCE_BITS) - 1
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", re.ASCII)


def to_number(stream_id: str) -> int:
    """Convert a stream id to its number. The empty id is 0, before everything; out-of-range ids are clamped.

    Raises: ValueError when the text is not a stream id.
    """
    if not stream_id:
        return 0
    found = _ID.fullmatch(stream_id)
    milliseconds, sequence = (int(found[1]), int(found[2] or 0)) if found else (-1, -1)
    if found is None or max(milliseconds, sequence) >> 64:
        raise ValueError(f"a stream id must be milliseconds-sequence, numbers below 2^64, got {stream_id!r}")
    if milliseconds > _LAST_MILLISECONDS:
        milliseconds, sequence = _LAST_MILLISECONDS, _LAST_SEQUENCE
    return (milliseconds << _SEQUENCE_BITS) + min(sequence, _LAST_SEQUENCE)


def to_numbers(stream_ids: Iterable[str]) -> Ids:
    """Convert each stream id with `to_number`, (N,)."""
    return np.array([to_number(stream_id) for stream_id in stream_ids], np.int64)
