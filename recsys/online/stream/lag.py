"""How far the stores are behind the stream, in seconds; for logs, metrics and tests.

Takes a client and the stream. It does not give the number of records behind: Redis would have to count them.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import redis

from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.connection.parse import parse_number, parse_stream_id
from recsys.online.generations import applied
from recsys.online.stream.log import EventStream

log = logging.getLogger(__name__)

LATE_S = 10.0
"""A store that is further behind gets a line in the log."""


class Lag(NamedTuple):
    """Seconds that the oldest record not yet applied has waited, by store; and the number of dead letters."""

    online: float | None
    """None before the first load."""
    lake: float | None
    """None before a consumer first noted it."""
    dead_letters: int
    """Dead letters that there ever were."""


def read_lag(client: redis.Redis, stream: EventStream, lake_reached: str | None = None) -> Lag:
    """Read how far both stores are behind now.

    Args:
        lake_reached: last stream id that the lake holds; None: as the consumer last noted it.
    Raises: DependencyError when Redis does not answer, DataError naming a key with an invalid value.
    """
    reached, ever = send(client, "MGET", keys.LAKE_REACHED, keys.DEAD_LETTERS_EVER)
    if lake_reached is None and reached is not None:
        lake_reached = parse_stream_id(keys.LAKE_REACHED, reached) if reached else ""
    reached_online = applied(client)
    return Lag(
        online=None if reached_online is None else stream.waited_s(reached_online),
        lake=None if lake_reached is None else stream.waited_s(lake_reached),
        dead_letters=parse_number(keys.DEAD_LETTERS_EVER, ever or b"0"),
    )


class LagLog:
    """Logs when a store falls behind by more than `LATE_S`, each time that doubles, and when it has caught up."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def tell(self, lag: Lag) -> None:
        for store, seconds in (("online store", lag.online), ("lake", lag.lake)):
            logged = self._logged.get(store, 0.0)
            if seconds is not None and seconds > max(LATE_S, 2 * logged):
                log.warning("the %s is %.0f s behind the stream", store, seconds)
                self._logged[store] = seconds
            elif logged and (seconds is None or seconds <= LATE_S):
                log.info("the %s has caught up with the stream", store)
                self._logged[store] = 0.0
