"""How fast the consumer processes the stream, and how long a click takes to become a feature.

Takes a loaded Redis of the benchmark's own, gives events a second and milliseconds. The consumer is the one of
`recsys consume`, online sink and lake sink in one process, which is kept on one core; redis-server is kept on another.
Producers append as the HTTP server does, and a feature counts as there when `RedisStore.read_counts` shows it.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import redis

from recsys.bench.features.random_log import END, LogSizes, stream_events
from recsys.bench.own_redis import OwnRedis, client_of, pin
from recsys.errors import DependencyError
from recsys.features.spec import USER, WEEK
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.consumer.loop import Consumer, lake_watermark
from recsys.online.generations import current
from recsys.online.store import RedisStore
from recsys.online.stream.log import RedisStream, position
from recsys.online.stream.records import Event
from recsys.progress import Report
from recsys.serving.processes import children
from recsys.types import SECOND

PRODUCED_PER_S = 2000
BATCH = 20
"""Events of one append, about a screen of impressions."""
PROBE_EVERY_S = 0.05
POLL_S = 0.001

_WARM_UP_EVENTS = 2000
_PROBES_FROM, _PRODUCED_FROM = 1 << 40, 1 << 41
"""First event ids of each part, far apart, so that none counts as a repeat."""
_CLICKS = USER.at("click", WEEK)
_LIMIT_S = 600.0
_LOOK_EVERY_S = 0.05
"""Pause between checks, which take time from the measured cores."""
_BATCH_BEFORE = 500


class Load(NamedTuple):
    """Sizes of the run."""

    events: int
    """Events on the stream when the consumer starts."""
    seconds: float
    """Seconds of steady production while probes are sent."""
    probes: int
    """Probes sent at least, however long it takes."""

    @classmethod
    def at(cls, scale: float) -> Load:
        return cls(max(1000, round(200_000 * scale)), max(1.0, 20 * scale), max(5, round(200 * scale)))


def bench_stream(
    own: OwnRedis, client: redis.Redis, catalogue: Catalogue, sizes: LogSizes, load: Load, folder: Path, report: Report
) -> dict[str, Any]:
    """Time a full stream until both sinks have it, then single clicks beside a steady producer.

    `events_per_s` counts from the consumer's start to the later of both sinks, the two beside it to one sink.
    `events_in_lake` is how many of those events the lake has at the end: all of them. `click_to_feature` counts from
    before the append to the end of the read that shows it; reads are a millisecond apart. `consumer_cpu_s` and
    `redis_cpu_s` are what the waiting events cost: on a busy machine they say more than the clock.
    """
    catalogue.save(folder / "catalogue")
    cores = sorted(os.sched_getaffinity(0))
    pin(own.pid, cores[0])
    stream, lake = RedisStream(client, own.config), Lake(str(folder / "lake"))
    words = (own.url, folder, cores[-1])
    _append(stream, stream_events(catalogue, sizes, 1, _WARM_UP_EVENTS, END))
    with _consumer(*words):  # fills the caches of compiled code on disk
        _wait_for_both(client, lake)
    _append(stream, stream_events(catalogue, sizes, 1 + _WARM_UP_EVENTS, load.events, END + SECOND))
    with _consumer(*words) as consumer:
        cpu_before = [_cpu_s(pid) for pid in (consumer.pid, own.pid)]
        online, in_lake = (moment - consumer.began for moment in _wait_for_both(client, lake))
        cpu = [_cpu_s(pid) - before for pid, before in zip((consumer.pid, own.pid), cpu_before, strict=True)]
        report(1, 2)
        latency = _latencies(own, client, catalogue, sizes, load, folder)
        report(2, 2)
    return {
        "events_per_s": round(load.events / max(online, in_lake)),
        "online_events_per_s": round(load.events / online),
        "lake_events_per_s": round(load.events / in_lake),
        "click_to_feature_p50_ms": round(float(np.percentile(latency, 50)) * 1000, 2),
        "click_to_feature_p99_ms": round(float(np.percentile(latency, 99)) * 1000, 2),
        "events": load.events,
        "events_in_lake": _written(lake, 1 + _WARM_UP_EVENTS, load.events),
        "consumer_cpu_s": round(cpu[0], 2),
        "redis_cpu_s": round(cpu[1], 2),
        "probes": len(latency),
        "produced_per_s": PRODUCED_PER_S,
        "cores": len({cores[0], cores[-1]}),
    }


class Running(NamedTuple):
    """A running consumer process."""

    began: float
    """Monotonic seconds."""
    pid: int


@contextmanager
def _consumer(url: str, folder: Path, core: int) -> Iterator[Running]:
    """Run a consumer in its own process while the block runs."""
    began, other_end = Pipe(duplex=False)
    with began:
        with other_end:
            process = children.start(_consume, url, folder, core, other_end)
        try:
            yield Running(_received(began, "consumer"), int(process.pid or 0))
        finally:
            children.stop(process)


def _consume(url: str, folder: Path, core: int, began: PipeEnd) -> None:
    children.follow_parent()
    os.sched_setaffinity(0, [core])
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    own = OwnRedis(url, 0, "", 0)
    with client_of(own) as client:
        catalogue, lake = Catalogue.load(folder / "catalogue"), Lake(str(folder / "lake"))
        consumer = Consumer(client, catalogue, lake, own.config, "explicit")
        began.send(time.monotonic())
        consumer.run(stop)


def _produce(url: str, folder: Path, sizes: LogSizes, now: int, began: PipeEnd) -> None:
    """Append steadily until SIGTERM."""
    children.follow_parent()
    own = OwnRedis(url, 0, "", 0)
    with client_of(own) as client:
        catalogue, stream = Catalogue.load(folder / "catalogue"), RedisStream(client, own.config)
        began.send(start := time.monotonic())
        for turn in itertools.count():
            first = _PRODUCED_FROM + turn * PRODUCED_PER_S
            batches = _batches(stream_events(catalogue, sizes, first, PRODUCED_PER_S, now + turn * SECOND), BATCH)
            for number, batch in enumerate(batches):
                time.sleep(max(0.0, start + turn + number * BATCH / PRODUCED_PER_S - time.monotonic()))
                stream.append(batch)


def _latencies(
    own: OwnRedis, client: redis.Redis, catalogue: Catalogue, sizes: LogSizes, load: Load, folder: Path
) -> list[float]:
    """Seconds from just before a click is appended to the first read that shows it, for fresh users and posts."""
    store, stream = RedisStore(client, catalogue, own.config), RedisStream(client, own.config)
    now = END + 1000 * SECOND
    began, other_end = Pipe(duplex=False)
    spent: list[float] = []
    with began:
        with other_end:
            producer = children.start(_produce, own.url, folder, sizes, now, other_end)
        try:
            _received(began, "producer")
            start = time.monotonic()
            while time.monotonic() < start + load.seconds or len(spent) < load.probes:
                next_probe = time.monotonic() + PROBE_EVERY_S
                spent.append(_probe(store, stream, sizes, len(spent), now))
                time.sleep(max(0.0, next_probe - time.monotonic()))
            if producer.exitcode is not None:
                raise DependencyError(
                    f"the producer must append for {load.seconds} s, ended with exit code {producer.exitcode}"
                )
        finally:
            children.stop(producer)
    return spent


def _probe(store: RedisStore, stream: RedisStream, sizes: LogSizes, number: int, now: int) -> float:
    user_id = _PROBES_FROM + number
    row = np.array([sizes.posts - 1 - number % sizes.fresh_posts], np.int32)
    click = Event("click", user_id, user_id, user_id, int(store.catalogue.post_id[row[0]]), now, now)
    start = time.monotonic()
    stream.append([click])
    while store.read_counts(user_id, row, now).counts[USER.name][0][_CLICKS] == 0:
        if time.monotonic() > start + _LIMIT_S:
            raise DependencyError(f"a click must become a feature within {_LIMIT_S:.0f} s; see the consumer's log")
        time.sleep(POLL_S)
    return time.monotonic() - start


def _append(stream: RedisStream, events: Iterator[Event]) -> None:
    for batch in _batches(events, _BATCH_BEFORE):
        stream.append(batch)


def _wait_for_both(client: redis.Redis, lake: Lake) -> list[float]:
    """Monotonic times at which the online store and the lake have everything that is on the stream now."""
    ((last, _),) = send(client, "XREVRANGE", keys.STREAM, "+", "-", "COUNT", 1)
    end = position(last.decode())
    deadline = time.monotonic() + _LIMIT_S
    reached: dict[str, float] = {}
    while len(reached) < 2:
        now_at = {
            "online": send(client, "GET", current(client).applied).decode(),
            "lake": lake_watermark(lake),
        }
        for name, at in now_at.items():
            if position(at) >= end:
                reached.setdefault(name, time.monotonic())
        if time.monotonic() > deadline:
            raise DependencyError(f"the consumer must reach the stream's end within {_LIMIT_S:.0f} s")
        time.sleep(_LOOK_EVERY_S)
    return [reached["online"], reached["lake"]]


def _written(lake: Lake, first_id: int, n_events: int) -> int:
    """Number of these events in the lake."""
    ids = np.concatenate(
        [lake.read(table, ["event_id"])["event_id"].to_numpy() for table in ("impressions", "actions")]
    )
    return len(np.unique(ids[(ids >= first_id) & (ids < first_id + n_events)]))


def _cpu_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


def _received(end: PipeEnd, name: str) -> float:
    if not end.poll(_LIMIT_S):
        raise DependencyError(f"the {name} process must begin within {_LIMIT_S:.0f} s")
    try:
        return float(end.recv())
    except EOFError:
        raise DependencyError(f"the {name} process ended before it began; its log says why") from None


def _batches(events: Iterator[Event], size: int) -> Iterator[list[Event]]:
    while batch := list(itertools.islice(events, size)):
        yield batch
