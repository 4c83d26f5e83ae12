"""Keep both stores up with the stream: the online store at once, the lake every few seconds; trim old records.

Takes a client, the catalogue and the lake. Each sink stores its own position together with what it writes, so this loop
may be killed anywhere, run twice, or lose Redis for a while: it continues from the positions. It does not know what a
record means.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import redis

from recsys.config import OnlineConfig
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.consumer.to_lake import LakeSink, lake_watermark
from recsys.online.consumer.to_redis import OnlineSink
from recsys.online.generations import applied
from recsys.online.stream.lag import Lag, LagLog, read_lag
from recsys.online.stream.log import EventStream, RedisStream, position

__all__ = ["Consumer", "LakeSink", "OnlineSink", "lake_watermark"]

log = logging.getLogger(__name__)

_SHORTEST_WAIT_S = 0.1
_ONLINE_WAIT_S = 0.5
"""Longest wait after a failure, seconds: a click may wait this long although Redis is back."""
_LAKE_WAIT_S = 5.0
"""The same for the lake, which is seconds behind anyway."""
_LAG_EVERY_S = 5.0
_COLLECT_AFTER = 100_000
"""New objects after which Python's garbage collector looks for cycles."""
_FLUSH_S = 5.0
"""Seconds to write pending records to the lake after `stop`; slow processes get killed."""


class Consumer:
    """Both sinks of one stream."""

    def __init__(
        self,
        client: redis.Redis,
        catalogue: Catalogue,
        lake: Lake,
        config: OnlineConfig,
        impressions: Literal["explicit", "implied"],
        *,
        flush_s: float = 5.0,
        keep_s: float = 7200.0,
    ) -> None:
        """
        Args:
            impressions: what counts as exposure online, `offline.impressions`.
            flush_s: seconds between writes to the lake.
            keep_s: seconds that records stay on the stream after both stores have them, for loads that put no hold on
                the stream.
        """
        self.client = client
        self.stream: EventStream = RedisStream(client, config)
        self.online = OnlineSink(client, self.stream, catalogue, config, impressions)
        self.lake = LakeSink(client, self.stream, lake)
        self.flush_s = flush_s
        self.keep_s = keep_s

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set. Changes process-wide garbage collector settings, so give it a process of its own.

        Before it returns, pending records are written to the lake for up to `_FLUSH_S`, unless another process holds
        the lake. The rest stays on the stream for the next run.
        """
        lake_thread = threading.Thread(target=self._run_lake, args=(stop,), name="lake-sink")
        lag_thread = threading.Thread(target=self._run_lag, args=(stop,), name="lag")
        lake_thread.start()
        lag_thread.start()
        try:
            with _rare_collections():
                _repeat("online sink", lambda: self.online.step(block_ms=500), stop, _ONLINE_WAIT_S)
        finally:
            stop.set()
            lake_thread.join()
            lag_thread.join()

    def trim(self) -> int:
        """Drop records that both stores have, that are older than `keep_s` and not held; gives how many.

        Drops nothing before the first load, which may need everything.
        """
        reached = applied(self.client)
        if reached is None:
            return 0
        return self.stream.trim(min(reached, lake_watermark(self.lake.lake), key=position), self.keep_s)

    def lag(self) -> dict[str, float | None]:
        """Seconds that the oldest unapplied record has waited, by sink; `online` is None before the first load."""
        lag = self._read_lag()
        return {"online": lag.online, "lake": lag.lake}

    def _run_lake(self, stop: threading.Event) -> None:
        def step() -> int:
            written = self.lake.step()
            send(self.client, "SET", keys.LAKE_REACHED, lake_watermark(self.lake.lake))
            if written < self.lake.batch_records:
                self.trim()
                stop.wait(self.flush_s)
            return written

        _repeat("lake sink", step, stop, _LAKE_WAIT_S)
        end = time.monotonic() + _FLUSH_S
        try:
            while self.lake.step() and time.monotonic() < end:
                pass
        except Exception as error:
            log.warning("the lake sink did not write its last batches; the next run will: %s", error)

    def _run_lag(self, stop: threading.Event) -> None:
        lag_log = LagLog()

        def step() -> int:
            if not stop.wait(_LAG_EVERY_S):
                lag_log.tell(self._read_lag())
            return 0

        _repeat("log of the lag", step, stop, _LAG_EVERY_S)

    def _read_lag(self) -> Lag:
        return read_lag(self.client, self.stream, lake_watermark(self.lake.lake))


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Make Python's garbage collector run rarely, and ignore the objects that exist already.

    A batch is thousands of small tuples, none of them in a cycle. By default the collector runs after 700 new objects,
    and now and then over all modules: that took half of the time of reading the stream.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _repeat(name: str, step: Callable[[], int], stop: threading.Event, longest_s: float) -> None:
    """Repeat a step until `stop`. After a failure wait, longer each time up to `longest_s`; log each reason once."""
    wait, logged = _SHORTEST_WAIT_S, ""
    while not stop.is_set():
        try:
            step()
        except Exception as error:
            # Catch unforeseen errors too: a thread that dies silently is worse than one that logs why it waits.
            if str(error) != logged:
                log.warning("the %s waits: %s: %s", name, type(error).__name__, error)
            logged = str(error)
            stop.wait(wait)
            wait = min(2 * wait, longest_s)
        else:
            wait, logged = _SHORTEST_WAIT_S, ""
