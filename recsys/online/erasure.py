"""Remove one person from Redis: rows, what they were sent, their records on the stream and among dead letters.

Takes a user id, gives how much was removed. Write the tombstone first (`tombstones.mark_erased`), so that records in
flight do not bring the person back. What posts, authors and topics counted because of this person stays, because it
names nobody; marks of event ids stay until they expire. This module does not know the lake.
"""

from __future__ import annotations

import numpy as np
import orjson
import redis

from recsys.features.spec import USER
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.generations import newest
from recsys.online.stream.log import EventStream
from recsys.online.stream.records import EVENT, EVENT_TYPE, RETURNED

PAGE = 500
"""Records per read: Redis would keep every request waiting during a longer one."""

_USER_AT = int(EVENT_TYPE.fields["user_id"][1])  # type: ignore[index]
"""Byte of an event at which its user id begins."""


def remove_rows(client: redis.Redis, user_id: int) -> int:
    """Remove a user's rows from every generation, including those of loads in progress; gives how many.

    Once is enough: the online sink writes only under the newest tombstones, and a load removes erased people before it
    switches.

    Raises: DependencyError when Redis does not answer, DataError when the newest generation's number is invalid.
    """
    user = np.array([user_id])
    rows = [name for number in range(newest(client) + 1) for name in keys.Generation(number).rows(USER.name, user)]
    return int(send(client, "UNLINK", *rows))


def remove_returned(client: redis.Redis, user_id: int, until: int) -> int:
    """Remove the posts a user was sent up to a moment; gives how many.

    Args:
        until: moment of the tombstone, microseconds. A feed that was being answered then is recorded later: call again.
    Raises: DependencyError when Redis does not answer.
    """
    return int(send(client, "ZREMRANGEBYSCORE", keys.returned(user_id), "-inf", until))


def remove_records(stream: EventStream, user_id: int, until: int, after: str = "") -> tuple[int, str]:
    """Remove a user's events and returned records up to a moment from the stream; other records keep their ids.

    Args:
        until: moment of the tombstone, microseconds. Later records are a new person's.
        after: begin behind this stream id.
    Returns: records removed, and the last stream id that was checked.
    Raises: DependencyError when Redis does not answer.
    """
    removed = 0
    while entries := stream.read(after, PAGE):
        mine = [entry.id for entry in entries if _is_of(entry.kind, entry.payload, user_id, until)]
        removed += stream.remove(mine)
        after = entries[-1].id
    return removed, after


def remove_dead_letters(client: redis.Redis, user_id: int) -> int:
    """Remove a user's dead letters; gives how many.

    Raises: DependencyError when Redis does not answer.
    """
    removed, after = 0, b"0-0"
    while found := send(client, "XRANGE", keys.DEAD_LETTERS, b"(" + after, "+", "COUNT", PAGE):
        mine = [
            entry_id
            for entry_id, fields in found
            if _is_of(fields.get(b"kind", b""), fields.get(b"payload", b""), user_id, None)
        ]
        removed += int(send(client, "XDEL", keys.DEAD_LETTERS, *mine)) if mine else 0
        after = found[-1][0]
    return removed


def _is_of(kind: bytes, payload: bytes, user_id: int, until: int | None) -> bool:
    """Whether a record is the user's and not later than `until`, or is the user's and has no readable time."""
    if kind == EVENT and len(payload) >= _USER_AT + 8:
        if int.from_bytes(payload[_USER_AT : _USER_AT + 8], "little", signed=True) != user_id:
            return False
        if until is None or len(payload) != EVENT_TYPE.itemsize:
            return True
        event = np.frombuffer(payload, EVENT_TYPE)[0]
        return bool(min(event["event_time"], event["ingest_time"]) <= until)
    if kind == RETURNED:
        try:
            head = orjson.loads(payload[4 : 4 + int.from_bytes(payload[:4], "little")])
        except orjson.JSONDecodeError:
            return False
        if not isinstance(head, dict) or head.get("user_id") != user_id:
            return False
        now = head.get("now")
        return until is None or not isinstance(now, int) or now <= until
    return False
