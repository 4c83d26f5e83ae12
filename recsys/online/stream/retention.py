"""Trim the stream, but keep what somebody will still read.

A reader puts a hold on a stream position, and no trim goes past it. A training run that starts from the lake holds the
lake's watermark until its load has replayed what came after. A hold ends with its block or, when the process dies,
within a minute: a thread renews it. This module does not know what is on the stream.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

from recsys.errors import DataError, RecsysError
from recsys.online import keys
from recsys.online.connection.commands import send

log = logging.getLogger(__name__)

HOLD_S = 60.0
"""Seconds after which the hold of a killed process ends."""

_BEFORE = """
local function before(a, b)
  local ms_a, n_a = string.match(a, '(%d+)%-(%d+)')
  local ms_b, n_b = string.match(b, '(%d+)%-(%d+)')
  if tonumber(ms_a) ~= tonumber(ms_b) then return tonumber(ms_a) < tonumber(ms_b) end
  return tonumber(n_a) < tonumber(n_b)
end
redis.replicate_commands()
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""
"""Lua's numbers are exact below 2^53, enough for milliseconds and for the records within one."""

_HOLD = (
    _BEFORE
    + """
local trimmed = redis.call('GET', KEYS[2])
if trimmed and before(ARGV[2], trimmed) then return trimmed end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1] .. ' ' .. ARGV[2])
return 0
"""
)
"""KEYS: holds, position the stream was trimmed to. ARGV: the hold's name, its position, milliseconds it lasts."""

_TRIM = (
    _BEFORE
    + """
local last = ARGV[1]
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
for _, held in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local id = string.match(held, ' (.*)')
  if before(id, last) then last = id end
end
local trimmed = redis.call('GET', KEYS[3])
if trimmed and not before(trimmed, last) then return 0 end
redis.call('SET', KEYS[3], last)
return redis.call('XTRIM', KEYS[1], 'MINID', last)
"""
)
"""KEYS: the stream, holds, position it was trimmed to. ARGV: the position before which records may be dropped."""


@contextmanager
def hold(client: redis.Redis, watermark: str) -> Iterator[Callable[[], None]]:
    """Keep every record after `watermark` on the stream while the block runs.

    Gives a function to call after reading: it raises DataError when the hold was lost meanwhile.

    Raises: DataError when some records were trimmed already, DependencyError when Redis does not answer.
    """
    name, position = uuid.uuid4().hex, watermark or "0-0"

    def renew() -> None:
        _renew(client, name, position)

    renew()
    stop = threading.Event()

    def renew_often() -> None:
        while not stop.wait(HOLD_S / 3):
            try:
                renew()
            except RecsysError as error:
                log.warning("the hold on the stream after %s could not be renewed: %s", position, error)

    renewer = threading.Thread(target=renew_often, name="stream-hold", daemon=True)
    renewer.start()
    try:
        yield renew
    finally:
        stop.set()
        renewer.join()
        try:
            send(client, "ZREM", keys.HOLDS, f"{name} {position}")
        except RecsysError as error:
            log.warning("the hold on the stream after %s was not released and will expire: %s", position, error)


def trim(client: redis.Redis, before_id: str) -> int:
    """Drop records before a position, except held ones; gives how many. The position trimmed to is stored."""
    return int(send(client, "EVAL", _TRIM, 3, keys.STREAM, keys.HOLDS, keys.TRIMMED, before_id))


def is_held(client: redis.Redis) -> bool:
    """Whether any hold is active."""
    seconds, microseconds = map(int, send(client, "TIME"))
    return int(send(client, "ZCOUNT", keys.HOLDS, seconds * 1000 + microseconds // 1000, "+inf")) > 0


def _renew(client: redis.Redis, name: str, position: str) -> None:
    trimmed = send(client, "EVAL", _HOLD, 2, keys.HOLDS, keys.TRIMMED, name, position, int(HOLD_S * 1000))
    if trimmed:
        raise DataError(
            f"the stream must still hold what follows {'its beginning' if position == '0-0' else position}, but was "
            f"trimmed up to {trimmed.decode()}; run `recsys train` again, or empty the online store if the lake is new"
        )
