"""Generations of rows: which one is in use, how far it reaches, the newest there is; removal of older ones.

A batch load replaces all rows of counters at once: it writes them under a new number and then moves one pointer
(`load`). Takes a client; does not know what is in the rows.
"""

from __future__ import annotations

import redis

from recsys.errors import DataError
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.connection.parse import parse_number, parse_stream_id

CHUNK = 500
"""Keys per round trip. Redis serves nobody else while it handles them, about 5 ms."""


def current(client: redis.Redis) -> keys.Generation:
    """The generation in use. Raises: DataError when none was ever loaded, or the pointer is not a number."""
    found = send(client, "GET", keys.CURRENT)
    if found is None:
        raise DataError("the online store holds no features yet; run `recsys train`, which ends by loading them")
    return keys.Generation(parse_number(keys.CURRENT, found))


def applied(client: redis.Redis) -> str | None:
    """Last stream id that the rows in use reflect, None before the first load.

    Raises: DataError when pointer or position is invalid, DependencyError when Redis does not answer.
    """
    found = send(client, "GET", keys.CURRENT)
    if found is None:
        return None
    generation = keys.Generation(parse_number(keys.CURRENT, found))
    reached = send(client, "GET", generation.applied)
    return None if reached is None else parse_stream_id(generation.applied, reached)


def newest(client: redis.Redis) -> int:
    """Last generation number handed out, 0 when none was. A load in progress, or one that died, may have a higher
    number than the generation in use.

    Raises: DataError when it is not a number, DependencyError when Redis does not answer.
    """
    return parse_number(keys.NEWEST, send(client, "GET", keys.NEWEST) or b"0")


def remove_older(client: redis.Redis, generation: keys.Generation) -> None:
    """Unlink the rows of every earlier generation, including those of loads that died half-way.

    No reader needs them after the switch, because readers fetch the pointer in the same atomic command as the rows.
    """
    cursor: bytes | int = 0
    while True:
        cursor, names = send(client, "SCAN", cursor, "MATCH", keys.GENERATIONS + b"*", "COUNT", CHUNK)
        old = [name for name in names if int(name[len(keys.GENERATIONS) :].split(b":", 1)[0]) < generation.number]
        if old:
            send(client, "UNLINK", *old)
        if int(cursor) == 0:
            return


def clear(client: redis.Redis) -> None:
    """Remove everything of this project from Redis, stream and clock included; for a new world with other ids."""
    for name in client.scan_iter(match=keys.EVERYTHING, count=CHUNK):
        send(client, "UNLINK", name)
