"""Tombstones: who was erased, and up to when nothing of theirs may be taken in again.

Whoever brings records into a store (consumer, batch load, lake) asks `Erased.covers` first, so that a stream that is
read again, a batch that was made before, or an event that a phone sends once more does not bring a person back. It does
not remove anything: that is `erasure`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import redis

from recsys.lookup import lookup
from recsys.online import keys
from recsys.online.connection.commands import send, send_together
from recsys.online.connection.parse import number
from recsys.types import Ids, Mask, Times

_MARK = """
local until_us = redis.call('HGET', KEYS[1], ARGV[1])
if not until_us or tonumber(until_us) < tonumber(ARGV[2]) then
  until_us = ARGV[2]
  redis.call('HSET', KEYS[1], ARGV[1], until_us)
end
redis.call('INCR', KEYS[2])
return until_us
"""
"""A tombstone never goes back: a clock that does must not let in what an earlier erasure keeps out."""


class Erased(NamedTuple):
    """Everybody who was erased, E people."""

    version: int
    """Grows with every erasure: what was read under another version may lack one."""
    user_id: Ids
    """Ascending, (E,)."""
    until: Times
    """Moment of the (last) erasure on the service's clock, microseconds, (E,)."""

    def covers(self, user_id: Ids, time: Times) -> Mask:
        """Whether a record is to be ignored; later ones of the same id count as a new person's.

        Args:
            user_id: (M,).
            time: min(event_time, ingest_time) of an event, `now` of a returned record, microseconds, (M,).
        """
        user_id, time = np.asarray(user_id, np.int64), np.asarray(time, np.int64)
        place = lookup(self.user_id, user_id)
        if not len(self.user_id):
            return place >= 0
        return np.asarray((place >= 0) & (time <= self.until[place]))


def read_erased(client: redis.Redis) -> Erased:
    """All tombstones and their version as of one moment.

    Raises: DataError when one is not a number, DependencyError when Redis does not answer.
    """
    version, marks = send_together(client, [["GET", keys.ERASED_VERSION], ["HGETALL", keys.ERASED]])
    user_id = np.array([number(keys.ERASED, user) for user in marks], np.int64)
    until = np.array([number(keys.ERASED, time) for time in marks.values()], np.int64)
    order = np.argsort(user_id)
    return Erased(number(keys.ERASED_VERSION, version or b"0"), user_id[order], until[order])


def mark_erased(client: redis.Redis, user_id: int, now: int) -> int:
    """Put up a tombstone; gives the moment that it says, which is `now` unless an earlier one says a later moment.

    Args:
        now: the service's clock, microseconds.
    Raises: DependencyError when Redis does not answer.
    """
    return int(send(client, "EVAL", _MARK, 2, keys.ERASED, keys.ERASED_VERSION, user_id, now))
