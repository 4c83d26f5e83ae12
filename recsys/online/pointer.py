"""Which generation of rows is in use. Takes a client; knows neither who writes a generation nor what is in it."""

from __future__ import annotations

import redis

from recsys.errors import DataError
from recsys.online import keys
from recsys.online.commands import send
from recsys.online.values import number


def no_generation() -> DataError:
    return DataError("the online store holds no features yet; run `recsys train`, which ends by loading them")


def current(client: redis.Redis) -> keys.Generation:
    """The generation in use. Raises: DataError when none was ever loaded, or the pointer is not a number."""
    found = send(client, "GET", keys.CURRENT)
    if found is None:
        raise no_generation()
    return keys.Generation(number(keys.CURRENT, found))
