"""Positions in the event stream as numbers that compare in stream order: what the lake keeps beside streamed rows.

Takes stream ids as text (`milliseconds-sequence`), gives int64. It does not know what is on the stream.

A number has room for a million records in one millisecond. More come only while Redis' clock is behind the stream's
newest record (it was set back, or an id of the future was added by hand): Redis then keeps the millisecond and counts
on. All of those past the room get the last number of their millisecond. Of such equals an order by event id decides,
and a watermark among them covers all. Later milliseconds are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from recsys.types import Ids

_SEQUENCE_BITS = 20
"""A million records in one millisecond; the 43 bits before them last until the year 2248."""

_LAST_SEQUENCE = (1 << _SEQUENCE_BITS) - 1
_LAST_MILLISECONDS = (1 << 63 - _SEQUENCE_BITS) - 1
_ID = re.compile(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", re.ASCII)


def to_number(stream_id: str) -> int:
    """0 for the empty id, which is before everything. What has no room is held at the last number that has.

    Raises: ValueError for what is no stream id.
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
    """`to_number` of each."""
    return np.array([to_number(stream_id) for stream_id in stream_ids], np.int64)
