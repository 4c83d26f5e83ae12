"""Visibility: the order in which events became readable, and how many of them each request had seen.

Takes arrival times and stream positions of events, gives one order and, per request, a count n: the request saw the
first n events. It does not know what the events are.

A server that logged the stream position of its features saw exactly the events up to that position, whatever the clocks
of several servers said. Requests without a logged position (of a simulated world or imported logs) saw what had arrived
strictly before them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from recsys.offline.logs.stream_position import to_number
from recsys.types import Ids, Times

UNKNOWN = -1
"""Watermark of a request that logged none."""


@dataclass(frozen=True)
class Arrivals:
    """M events in the order in which they became readable."""

    time: Times
    """When each event became readable, microseconds, ascending, (M,)."""
    streamed: Ids
    """Places of the events that came by the stream, ascending, (S,)."""
    stream_position: Ids
    """Stream positions of these, ascending, (S,)."""
    n_preloaded: int = 0
    """Every server started with this many events, from the first on."""

    def count_seen(self, now: Times, watermark: Ids) -> Ids:
        """Number of events each request saw, from the first event on, (Q,).

        Args:
            now: when it was answered, microseconds, (Q,).
            watermark: stream position it logged, `UNKNOWN` for none, (Q,).
        """
        before = np.searchsorted(self.time, now)  # (Q,)
        logged = np.flatnonzero(watermark != UNKNOWN)
        if len(logged):
            n = np.searchsorted(self.stream_position, watermark[logged], side="right")  # streamed events seen
            # The count lies behind the last streamed event that was seen and before the first that was not. Events
            # between these two were never streamed: they count by their time.
            at_least = np.concatenate([[self.n_preloaded], self.streamed + 1])[n]
            at_most = np.concatenate([self.streamed, [len(self.time)]])[n]
            before[logged] = np.clip(before[logged], at_least, at_most)
        return before.astype(np.int64)


def order_by_arrival(
    ingest_time: Times, stream_position: Ids, event_id: Ids, preloaded: bool = False
) -> tuple[Ids, Arrivals]:
    """Sort events by when they became readable.

    Args:
        ingest_time: microseconds, (M,).
        stream_position: -1 for events that were never streamed, (M,).
        event_id: breaks ties, (M,).
        preloaded: whether all events that were never streamed were in the online store before the first server
            started. True for a world's logs, including events that a world dates hours after its end.
    Returns: the order, as places in these columns, (M,), and the arrivals. Streamed events keep the order of the
        stream: an event with an earlier timestamp than its predecessor becomes readable together with it. Ties: events
        never streamed first, then by stream position, then by id.
    """
    time = ingest_time.copy()
    # 1. Streamed events in stream order, (S,); none is readable before its predecessor.
    streamed = np.flatnonzero(stream_position >= 0)
    streamed = streamed[np.lexsort((event_id[streamed], stream_position[streamed]))]
    time[streamed] = np.maximum.accumulate(time[streamed])
    # 2. Preloaded events are readable by the first streamed one at the latest.
    never_streamed = stream_position < 0
    if preloaded and len(streamed):
        time[never_streamed] = np.minimum(time[never_streamed], time[streamed[0]])
    # 3. Sort, and find where the streamed events landed.
    order = np.lexsort((event_id, stream_position, time)).astype(np.int64)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    n_preloaded = int(never_streamed.sum()) if preloaded else 0
    return order, Arrivals(time[order], place[streamed], stream_position[streamed], n_preloaded)


def parse_watermarks(column: pa.ChunkedArray) -> Ids:
    """Stream positions of logged watermarks, (N,); `UNKNOWN` where null or written by another kind of stream."""
    encoded = column.combine_chunks().dictionary_encode()  # parse each distinct text once
    numbers = np.array([*map(_parse_watermark, encoded.dictionary.to_pylist()), UNKNOWN], np.int64)
    return np.asarray(numbers[encoded.indices.fill_null(-1).to_numpy()])


def _parse_watermark(text: str) -> int:
    try:
        return to_number(text)
    except ValueError:
        return UNKNOWN
