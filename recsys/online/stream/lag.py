"""How far the stores are behind the stream: the one place that computes it, for logs, metrics and tests.

Takes a client and the stream, gives seconds. How many records are behind is not told: Redis would have to count them.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import redis

from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.connection.parse import number, stream_id
from recsys.online.pointer import applied
from recsys.online.stream.log import EventStream

log = logging.getLogger(__name__)

LATE_S = 10.0
"""A store that is further behind is worth a line in the log."""


class Lag(NamedTuple):
    """Seconds that the oldest record not yet taken has waited, by store; and what was set aside."""

    online: float | None
    """None before the first load."""
    lake: float | None
    """None while no consumer ever told."""
    dead_letters: int
    """Records ever set aside."""


def read_lag(client: redis.Redis, stream: EventStream, lake_reached: str | None = None) -> Lag:
    """How far both stores are behind now.

    Args:
        lake_reached: last stream id that the lake holds; None for what the consumer last noted.
    Raises: DependencyError when Redis does not answer, DataError naming a key that holds what it must not.
    """
    reached, ever = send(client, "MGET", keys.LAKE_REACHED, keys.DEAD_LETTERS_EVER)
    if lake_reached is None and reached is not None:
        lake_reached = stream_id(keys.LAKE_REACHED, reached) if reached else ""
    reached_online = applied(client)
    return Lag(
        online=None if reached_online is None else stream.waited_s(reached_online),
        lake=None if lake_reached is None else stream.waited_s(lake_reached),
        dead_letters=number(keys.DEAD_LETTERS_EVER, ever or b"0"),
    )


class LagLog:
    """Says when a store falls behind by more than `LATE_S`, again whenever that has doubled, and when it caught up."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def tell(self, lag: Lag) -> None:
        for store, seconds in (("online store", lag.online), ("lake", lag.lake)):
            told = self._told.get(store, 0.0)
            if seconds is not None and seconds > max(LATE_S, 2 * told):
                log.warning("the %s is %.0f s behind the stream", store, seconds)
                self._told[store] = seconds
            elif told and (seconds is None or seconds <= LATE_S):
                log.info("the %s has caught up with the stream", store)
                self._told[store] = 0.0
