"""Peak memory of this process and its children (Redis included), as proportional set size in megabytes.

Proportional set size counts a shared page once over all processes, so memory-mapped arrays do not count per worker.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

_INTERVAL_S = 0.5


class PeakMemory:
    """The largest sum over the process tree so far."""

    def __init__(self) -> None:
        self.bytes = 0

    @property
    def megabytes(self) -> float:
        return round(self.bytes / 1e6, 1)

    def sample(self) -> None:
        total = 0
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                memory = process.memory_full_info()
            except psutil.Error:
                continue  # the process ended after it was listed
            total += getattr(memory, "pss", memory.rss)
        self.bytes = max(self.bytes, total)


@contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Measure twice a second while the block runs."""
    peak, stop = PeakMemory(), threading.Event()

    def watch() -> None:
        while not stop.wait(_INTERVAL_S):
            peak.sample()

    peak.sample()
    thread = threading.Thread(target=watch, name="peak-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.sample()
