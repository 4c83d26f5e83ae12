"""Nothing is lost or counted twice when consumers, Redis and appending clients are killed, or when answers of Redis get
lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import redis

from recsys import release
from recsys.config import OfflineConfig, OnlineConfig
from recsys.errors import DependencyError
from recsys.features.point_in_time import Snapshot, snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import ACTIONS, read_events
from recsys.online import keys
from recsys.online.connection.client import connect
from recsys.online.consumer.to_lake import lake_watermark
from recsys.online.consumer.transaction import _WRITE
from recsys.online.generations import current
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.store import RedisStore, SnapshotStore
from recsys.online.stream.log import _APPEND, RedisStream
from recsys.online.stream.records import Event
from recsys.types import DAY, HOUR

from ..conftest import START
from .dropping import Dropping

N_EVENTS = 100_000
AT_ONCE = 250
"""Events per request of a client; a request that failed is sent again as it was."""
CONSUMER_KILLS = 4
PRODUCERS = 2
DEADLINE_S = 60.0
N_LOST = 30_000
"""Events of the test in which answers get lost: 120 appends, and at least 60 writes of the online sink."""
DROPPED_EVERY = 20
"""Of the answers to appends, and of those to writes of the online sink, the 20th gets lost, the 40th and so on."""
DROPPED = 0.03
"""Share of all other answers that get lost."""


def log_of(catalogue: Catalogue, rng: np.random.Generator) -> list[Event]:
    """Two days of events, a tenth of them late, in order of arrival."""
    ingest = START + np.sort(rng.integers(0, 2 * DAY, N_EVENTS))
    event = ingest - np.where(rng.random(N_EVENTS) < 0.1, rng.integers(0, 5 * HOUR, N_EVENTS), 0)
    action = rng.choice(len(ACTIONS), N_EVENTS, p=[0.7, 0.2, 0.03, 0.03, 0.02, 0.02])
    user, post = rng.choice(catalogue.user_id, N_EVENTS), rng.choice(catalogue.post_id, N_EVENTS)
    columns = (action.tolist(), user.tolist(), post.tolist(), event.tolist(), ingest.tolist())
    return [
        Event(ACTIONS[a], i + 1, i // 20, u, p, e, t) for i, (a, u, p, e, t) in enumerate(zip(*columns, strict=True))
    ]


@contextmanager
def consumer(data_dir: Path, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """`recsys consume`, killed at the end of the block as a power cut would."""
    command = [sys.executable, "-m", "recsys", "consume"]
    for setting in (f"data_dir={data_dir}", *settings):
        command += ["--set", setting]
    with (data_dir / "consumer.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Producers:
    """Clients that append without a pause, each batch until Redis has taken it."""

    def __init__(self, stream: RedisStream) -> None:
        self.stream = stream
        self.appended = 0
        """Batches that Redis confirmed."""
        self.failed = 0
        """Appends that failed and were sent again."""
        self._counting = threading.Lock()
        self._threads: list[threading.Thread] = []

    def start(self, events: list[Event]) -> None:
        batches = [events[start : start + AT_ONCE] for start in range(0, len(events), AT_ONCE)]
        shares = [batches[number::PRODUCERS] for number in range(PRODUCERS)]
        self._threads = [threading.Thread(target=self._produce, args=(share,)) for share in shares]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(DEADLINE_S)
            assert not thread.is_alive(), "what was sent again is taken"

    def are_at_work(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _produce(self, batches: list[list[Event]]) -> None:
        for batch in batches:
            while not answers(lambda batch=batch: self.stream.append(batch) >= 0):
                with self._counting:
                    self.failed += 1
                time.sleep(0.01)
            with self._counting:
                self.appended += 1
            time.sleep(0.002)


def applied(client: redis.Redis) -> str:
    return (client.get(current(client).applied) or b"").decode()


def moved_past(client: redis.Redis, before: str) -> bool:
    return answers(lambda: applied(client) != before)


def wait_until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def answers(done: Callable[[], bool]) -> bool:
    """Whether it is done; False while Redis is away."""
    try:
        return done()
    except (DependencyError, OSError):
        return False


def publish(data_dir: Path, catalogue: Catalogue) -> None:
    """Put a release with only this catalogue into use."""
    with release.staging(data_dir / "releases") as folder:
        catalogue.save(folder / "catalogue")
        made = release.publish(folder, config={}, metrics={}, logs_end=START)
    release.use(data_dir / "releases", made.version)


def assert_both_stores_hold(
    client: redis.Redis, lake: Lake, catalogue: Catalogue, config: OnlineConfig, events: list[Event],
    expected: Snapshot,
) -> None:  # fmt: skip
    """Each event is stored once, and every count equals the batch build's."""
    counted, _ = read_events(lake, catalogue, OfflineConfig())
    assert len(counted) == len(events)
    assert len(lake.read("impressions", ["event_id"])) + len(lake.read("actions", ["event_id"])) == len(events)
    stores = {
        "online": RedisStore(client, catalogue, config),
        "lake": SnapshotStore(catalogue, snapshot(catalogue, counted, 1), config),
    }
    truth = SnapshotStore(catalogue, expected, config)
    posts = np.arange(catalogue.n_posts, dtype=np.int32)
    now = START + 3 * DAY
    for user in catalogue.user_id.tolist():
        wanted = truth.read_counts(user, posts, now).counts
        for name, store in stores.items():
            counts = store.read_counts(user, posts, now).counts
            for entity in wanted:
                np.testing.assert_allclose(
                    counts[entity], wanted[entity], rtol=1e-9, atol=1e-300, err_msg=f"{name}: {entity}"
                )
    assert client.xlen("recsys:dead_letters") == 0


def test_killed_consumers_and_a_killed_redis_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, catalogue: Catalogue, snapshot_of: Callable[..., Snapshot]
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"to repeat it: seed {seed}")
    rng = np.random.default_rng(seed)
    events = log_of(catalogue, rng)
    config, lake = OnlineConfig(), Lake(str(tmp_path / "lake"))
    publish(tmp_path, catalogue)

    with connect(config, tmp_path) as connection:
        load_snapshot(connection.client, catalogue, snapshot_of([]), config, SnapshotReach("", START))
        stream = RedisStream(connection.client, config)

        producers, killed_in_flight = Producers(stream), 0
        for number in range(CONSUMER_KILLS):
            first, *rest = np.array_split(np.arange(number, N_EVENTS, CONSUMER_KILLS), 5)
            before, already = applied(connection.client), producers.appended
            stream.append([events[place] for place in first])
            with consumer(tmp_path):
                wait_until(partial(moved_past, connection.client, before), "a consumer makes progress")
                producers.start([events[place] for place in np.concatenate(rest)])
                target = already + int(rng.integers(2, 30))
                wait_until(lambda target=target: producers.appended >= target, "events are appended")
                if number == CONSUMER_KILLS // 2:
                    os.kill(int((tmp_path / "redis" / "redis.pid").read_text()), signal.SIGKILL)
                    wait_until(lambda: producers.failed > 0, "an append fails")
                    # The next program on this folder starts the server again.
                    with connect(config, tmp_path):
                        wait_until(lambda: answers(lambda: bool(connection.client.ping())), "Redis is back")
                killed_in_flight += producers.are_at_work()
            producers.join()
        assert producers.failed > 0
        assert killed_in_flight >= CONSUMER_KILLS - 1, "consumers were killed while events were appended"
        last = stream.last_id()
        with consumer(tmp_path):
            wait_until(lambda: applied(connection.client) == last, "the online store catches up")
            wait_until(lambda: lake_watermark(lake) == last, "the lake catches up")

        assert_both_stores_hold(connection.client, lake, catalogue, config, events, snapshot_of(events))


def test_lost_answers_lose_nothing_and_count_nothing_twice(
    tmp_path: Path, catalogue: Catalogue, snapshot_of: Callable[..., Snapshot]
) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"to repeat it: seed {seed}")
    rng = np.random.default_rng(seed)
    events = log_of(catalogue, rng)[:N_LOST]
    config, lake = OnlineConfig(), Lake(str(tmp_path / "lake"))
    publish(tmp_path, catalogue)

    with (
        connect(config, tmp_path) as connection,
        tempfile.TemporaryDirectory(prefix="recsys-") as short,
        Dropping(
            Path((tmp_path / "redis" / "socket").read_text()),
            Path(short) / "s",
            DROPPED,
            rng,
            {"append": _APPEND, "write": _WRITE},
            DROPPED_EVERY,
        ) as way,
        connect(OnlineConfig(url=way.url), tmp_path) as unsafe,
    ):
        load_snapshot(connection.client, catalogue, snapshot_of([]), config, SnapshotReach("", START))
        producers = Producers(RedisStream(unsafe.client, config))
        with consumer(tmp_path, f"online.url={way.url}", "online.batch_size=500"):
            producers.start(events)
            producers.join()
            last = connection.client.xinfo_stream(keys.STREAM)["last-generated-id"].decode()
            wait_until(lambda: applied(connection.client) == last, "the online store catches up")
            wait_until(lambda: lake_watermark(lake) == last, "the lake catches up")
        assert way.dropped["append"] > 0, "appends were done and nobody was told"
        assert way.dropped["write"] > 0, "rows were written and nobody was told"
        assert_both_stores_hold(connection.client, lake, catalogue, config, events, snapshot_of(events))
