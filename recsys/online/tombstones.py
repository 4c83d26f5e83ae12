"""Tombstones: who was erased, and up to when their records are ignored.

Whatever brings records into a store (consumer, batch load, lake) checks `Erased.covers` first. So an erased person does
not come back when the stream is read again, when an older batch is loaded, or when a phone sends an event once more.
Removing what is stored already is the work of `erasure`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import redis

from recsys.lookup import lookup
from recsys.online import keys
from recsys.online.connection.commands import send, send_together
from recsys.online.connection.parse import parse_number
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
"""KEYS: the tombstones, their version. ARGV: user id, moment. A tombstone never moves back, even when the clock does:
that would let in what an earlier erasure keeps out."""


class Erased(NamedTuple):
    """All erased people, E of them."""

    version: int
    """Grows with every erasure: tombstones read under another version may lack one."""
    user_id: Ids
    """Ascending, (E,)."""
    until: Times
    """Moment of the (last) erasure on the service's clock, microseconds, (E,)."""

    def covers(self, user_id: Ids, time: Times) -> Mask:
        """Whether each record must be ignored. Later records of the same id count as a new person's.

        Args:
            user_id: (M,).
            time: min(event_time, ingest_time) of an event, `now` of a returned record, microseconds, (M,).
        """
        user_id, time = np.asarray(user_id, np.int64), np.asarray(time, np.int64)
        place = lookup(self.user_id, user_id)
        if not len(self.user_id):
            return place >= 0
        return np.asarray((place >= 0) & (time <= self.until[place]))


UNREAD = Erased(-1, np.empty(0, np.int64), np.empty(0, np.int64))
"""Stands for tombstones that were not read yet: no stored version is -1."""


def read_erased(client: redis.Redis) -> Erased:
    """Read all tombstones and their version in one transaction.

    Raises: DataError when one is not a number, DependencyError when Redis does not answer.
    """
    version, marks = send_together(client, [["GET", keys.ERASED_VERSION], ["HGETALL", keys.ERASED]])
    user_id = np.array([parse_number(keys.ERASED, user) for user in marks], np.int64)
    until = np.array([parse_number(keys.ERASED, time) for time in marks.values()], np.int64)
    order = np.argsort(user_id)
    return Erased(parse_number(keys.ERASED_VERSION, version or b"0"), user_id[order], until[order])


def mark_erased(client: redis.Redis, user_id: int, now: int) -> int:
    """Write a tombstone. Gives its moment: `now`, unless an earlier tombstone has a later one.

    Args:
        now: the service's clock, microseconds.
    Raises: DependencyError when Redis does not answer.
    """
    return int(send(client, "EVAL", _MARK, 2, keys.ERASED, keys.ERASED_VERSION, user_id, now))
