"""In what order events could first be read, and how many of them a request had seen.

Takes when events arrived and where they stood on the stream, gives one order and, for each request, the number of
events at its beginning that the request saw. It does not know what the events are.

A server that logged the stream position its features reflect saw exactly the events up to there, whatever the clocks of
several servers said. Requests that logged none (a world's, outside logs) saw what had arrived strictly before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.types import Ids, Times

UNKNOWN = -1
"""A watermark nobody logged."""


@dataclass(frozen=True)
class Arrivals:
    """M events in the order in which they became readable."""

    time: Times
    """Moment at which each could be read, microseconds, ascending, (M,)."""
    streamed: Ids
    """Places of the events that came by the stream, (S,)."""
    stream_position: Ids
    """Their positions, ascending, (S,)."""
    n_from_the_start: int = 0
    """Events, from the first on, that every server had when it began."""

    def seen(self, now: Times, watermark: Ids) -> Ids:
        """How many events each request saw, from the first one on, (Q,).

        Args:
            now: when it was answered, microseconds, (Q,).
            watermark: stream position it logged, `UNKNOWN` for none, (Q,).
        """
        before = np.searchsorted(self.time, now)
        known = np.flatnonzero(watermark != UNKNOWN)
        if len(known):
            n = np.searchsorted(self.stream_position, watermark[known], side="right")
            # Up to the last streamed event that was seen, and not as far as the first that was not. In between lie
            # events that never were on the stream: those count by their time.
            at_least = np.concatenate([[self.n_from_the_start], self.streamed + 1])[n]
            at_most = np.concatenate([self.streamed, [len(self.time)]])[n]
            before[known] = np.clip(before[known], at_least, at_most)
        return before.astype(np.int64)


def in_order_of_arrival(
    ingest_time: Times, stream_position: Ids, event_id: Ids, before_serving: bool = False
) -> tuple[Ids, Arrivals]:
    """The order of events, as places in these columns, and what it is by.

    Args:
        stream_position: -1 for events that never were on the stream, (M,).
        before_serving: whether everything that never was on the stream was written before the first server began, as
            a world's logs are: the online store was loaded with all of it, also with events that a world lets arrive
            hours after its end.
    Returns: streamed events stand in the order of the stream: one that a server stamped before its predecessor became
        readable with it. Ties: those never streamed first, then by stream position, then by id.
    """
    time = ingest_time.copy()
    streamed = np.flatnonzero(stream_position >= 0)
    streamed = streamed[np.lexsort((event_id[streamed], stream_position[streamed]))]
    time[streamed] = np.maximum.accumulate(time[streamed])
    written = stream_position < 0
    if before_serving and len(streamed):
        time[written] = np.minimum(time[written], time[streamed[0]])
    order = np.lexsort((event_id, stream_position, time)).astype(np.int64)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    from_the_start = int(written.sum()) if before_serving else 0
    return order, Arrivals(time[order], place[streamed], stream_position[streamed], from_the_start)
