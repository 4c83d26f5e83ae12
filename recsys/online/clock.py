"""The one clock: wall time, or a time that goes on from the end of some logs.

The logs' clock is their end plus the time that went by since somebody first asked. That first moment is kept in Redis,
so every process agrees and a restart does not turn time back. Logs that end later than it has come move it ahead:
features must not hold what its time has yet to bring. It does not know what a world is, only when logs end.
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
"""The distance to the wall clock that is kept, or the new one where that is later; doubles hold microseconds."""


class Clock:
    """Microseconds since 1970 UTC; never runs backwards within a process."""

    def __init__(self, client: redis.Redis | None = None, logs_end_us: int | None = None) -> None:
        """Without `logs_end_us` wall time; without a client the logs' clock starts now, for this process alone.

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
        # The wall clock may be set back by a second; features and cursors must not see that.
        self._last = max(self._last, _wall() + self._ahead)
        return self._last


def _wall() -> int:
    return time.time_ns() // 1000
