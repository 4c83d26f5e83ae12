"""How far the stores are behind the stream: the one place that computes it, for logs, metrics and tests.

Takes a client, gives seconds. How many records are behind is not told: Redis would have to count them.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import redis

from recsys.errors import DataError
from recsys.online import keys
from recsys.online.commands import send
from recsys.online.pointer import current
from recsys.online.stream import position

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


def read_lag(client: redis.Redis, lake_reached: str | None = None) -> Lag:
    """How far both stores are behind now.

    Args:
        lake_reached: last stream id that the lake holds; None for what the consumer last noted.
    Raises: DependencyError when Redis does not answer.
    """
    reached, ever = send(client, "MGET", keys.LAKE_REACHED, keys.DEAD_LETTERS_EVER)
    if lake_reached is None and reached is not None:
        lake_reached = reached.decode()
    try:
        applied = send(client, "GET", current(client).applied)
    except DataError:
        applied = None
    return Lag(
        online=None if applied is None else _waited(client, applied.decode()),
        lake=None if lake_reached is None else _waited(client, lake_reached),
        dead_letters=int(ever or 0),
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


def _waited(client: redis.Redis, after: str) -> float:
    found = send(client, "XRANGE", keys.STREAM, f"({after or '0-0'}", "+", "COUNT", 1)
    if not found:
        return 0.0
    seconds, microseconds = map(int, send(client, "TIME"))
    return max(0.0, seconds + microseconds / 1e6 - position(found[0][0].decode())[0] / 1000)
