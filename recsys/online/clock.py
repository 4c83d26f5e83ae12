"""The one clock: wall time, or the time of a world whose logs ended at a fixed moment.

A world's clock is the end of its logs plus the time that went by since somebody first asked. That first moment is kept
in Redis, so every process agrees and a restart does not turn time back. It does not know what a world is, only when its
logs end.
"""

from __future__ import annotations

import time

import redis

from recsys.online import keys
from recsys.online.commands import send


class Clock:
    """Microseconds since 1970 UTC; never runs backwards within a process."""

    def __init__(self, client: redis.Redis | None = None, world_end_us: int | None = None) -> None:
        """Without `world_end_us` wall time; without a client the world's clock starts now, for this process alone.

        Raises: DependencyError when Redis does not answer.
        """
        self._ahead = 0
        self._last = 0
        if world_end_us is None:
            return
        wall = _wall()
        self._ahead = world_end_us - wall
        if client is not None:
            send(client, "SET", keys.CLOCK, _anchor(world_end_us, wall), "NX")
            anchor = send(client, "GET", keys.CLOCK)
            world, wall_then = map(int, anchor.split())
            self._ahead = world - wall_then

    def now(self) -> int:
        # The wall clock may be set back by a second; features and cursors must not see that.
        self._last = max(self._last, _wall() + self._ahead)
        return self._last


def _anchor(world_us: int, wall_us: int) -> bytes:
    return b"%d %d" % (world_us, wall_us)


def _wall() -> int:
    return time.time_ns() // 1000
