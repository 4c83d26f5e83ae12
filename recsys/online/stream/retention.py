"""Holds: stream positions from which somebody will still read, so that nobody trims past them.

A training run that starts from the lake holds the lake's watermark until its load has replayed what came after. A hold
ends with its block or, when the process dies, within a minute: it is short-lived and renewed from a thread. It does not
know what is on the stream.
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
"""Numbers below 2^53 are exact: milliseconds are, and so is the number of records within one."""

_HOLD = (
    _BEFORE
    + """
local trimmed = redis.call('GET', KEYS[2])
if trimmed and before(ARGV[2], trimmed) then return trimmed end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1] .. ' ' .. ARGV[2])
return 0
"""
)
"""KEYS: holds, where the stream was trimmed to. ARGV: the hold's name, the position, milliseconds it lasts."""

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
"""KEYS: the stream, holds, where it was trimmed to. ARGV: the position before which records may go."""


@contextmanager
def hold(client: redis.Redis, watermark: str) -> Iterator[Callable[[], None]]:
    """Keep every record after `watermark` on the stream while the block runs.

    Gives a function to call when everything was read: it raises DataError in case the hold was lost meanwhile.

    Raises: DataError when some were trimmed already, DependencyError when Redis does not answer.
    """
    name, position = uuid.uuid4().hex, watermark or "0-0"

    def renew() -> None:
        _renew(client, name, position)

    renew()
    over = threading.Event()

    def keep() -> None:
        while not over.wait(HOLD_S / 3):
            try:
                renew()
            except RecsysError as error:
                log.warning("the hold on the stream after %s could not be renewed: %s", position, error)

    keeper = threading.Thread(target=keep, name="stream-hold", daemon=True)
    keeper.start()
    try:
        yield renew
    finally:
        over.set()
        keeper.join()
        try:
            send(client, "ZREM", keys.HOLDS, f"{name} {position}")
        except RecsysError as error:
            log.warning("the hold on the stream after %s was not given back and ends by itself: %s", position, error)


def trim(client: redis.Redis, before_id: str) -> int:
    """Forget records before a position, but none that is held; gives how many. What went is remembered."""
    return int(send(client, "EVAL", _TRIM, 3, keys.STREAM, keys.HOLDS, keys.TRIMMED, before_id))


def is_held(client: redis.Redis) -> bool:
    """Whether a hold has not ended yet."""
    seconds, microseconds = map(int, send(client, "TIME"))
    return int(send(client, "ZCOUNT", keys.HOLDS, seconds * 1000 + microseconds // 1000, "+inf")) > 0


def _renew(client: redis.Redis, name: str, position: str) -> None:
    trimmed = send(client, "EVAL", _HOLD, 2, keys.HOLDS, keys.TRIMMED, name, position, int(HOLD_S * 1000))
    if trimmed:
        raise DataError(
            f"the stream must still hold what follows {'its beginning' if position == '0-0' else position}, but was "
            f"trimmed up to {trimmed.decode()}; run `recsys train` again, or empty the online store if the lake was "
            "made anew"
        )
