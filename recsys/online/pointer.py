"""Which generation of rows is in use, how far it reaches, and the newest there is.

Takes a client; knows neither who writes a generation nor what is in it.
"""

from __future__ import annotations

import redis

from recsys.errors import DataError
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.connection.parse import number, stream_id


def no_generation() -> DataError:
    return DataError("the online store holds no features yet; run `recsys train`, which ends by loading them")


def current(client: redis.Redis) -> keys.Generation:
    """The generation in use. Raises: DataError when none was ever loaded, or the pointer is not a number."""
    found = send(client, "GET", keys.CURRENT)
    if found is None:
        raise no_generation()
    return keys.Generation(number(keys.CURRENT, found))


def applied(client: redis.Redis) -> str | None:
    """Stream id that the rows in use reflect, None before the first load.

    Raises: DataError when pointer or position cannot be, DependencyError when Redis does not answer.
    """
    found = send(client, "GET", keys.CURRENT)
    if found is None:
        return None
    generation = keys.Generation(number(keys.CURRENT, found))
    reached = send(client, "GET", generation.applied)
    return None if reached is None else stream_id(generation.applied, reached)


def newest(client: redis.Redis) -> int:
    """Last generation number handed out, 0 when none was; that of a load in progress or one that died may be higher
    than the one in use. Raises: DataError when it is not a number, DependencyError when Redis does not answer."""
    return number(keys.NEWEST, send(client, "GET", keys.NEWEST) or b"0")
