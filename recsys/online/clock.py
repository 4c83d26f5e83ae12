"""The clock of the service: wall time, or a time that continues from the end of given logs.

The logs' clock shows their end plus the time since the first process started it. That first moment is kept in Redis, so
all processes agree and a restart does not turn time back. Logs that end later than the clock move it ahead: otherwise
features would hold events from its future.
"""

from __future__ import annotations

import time

import redis

from recsys.online import keys
from recsys.online.connection.commands import send

_LATEST = """
local anchor = redis.call('GET', KEYS[1])
local ahead = ARGV[1] - ARGV[2]
if anchor then
  local logs, wall = string.match(anchor, '(%S+) (%S+)')
  if logs - wall >= ahead then return logs - wall end
end
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
return ahead
"""
"""KEYS: the clock. ARGV: end of the logs, wall time. Gives how far the clock is ahead of the wall clock: the stored
distance, or the new one when that is larger. Doubles hold microseconds exactly."""


class Clock:
    """Microseconds since 1970 UTC; never runs backwards within a process."""

    def __init__(self, client: redis.Redis | None = None, logs_end_us: int | None = None) -> None:
        """Without `logs_end_us`: wall time. Without a client: the logs' clock starts now, for this process alone.

        Raises: DependencyError when Redis does not answer.
        """
        self._ahead = 0
        self._last = 0
        if logs_end_us is None:
            return
        wall = _wall()
        self._ahead = logs_end_us - wall
        if client is not None:
            self._ahead = int(send(client, "EVAL", _LATEST, 1, keys.CLOCK, logs_end_us, wall))

    def now(self) -> int:
        # The wall clock may be set back by a second; features and cursors must not notice.
        self._last = max(self._last, _wall() + self._ahead)
        return self._last


def _wall() -> int:
    return time.time_ns() // 1000
