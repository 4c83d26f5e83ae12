"""A catalogue small enough to know by heart, a real Redis server, and logs to count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from recsys.config import OnlineConfig
from recsys.features.point_in_time import Snapshot, snapshot
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import ACTIONS, Events
from recsys.online.connection.client import Connection, connect
from recsys.online.stream.records import Event, Returned
from recsys.types import DAY, HOUR, SECOND

START = 20_000 * DAY
N_POSTS, N_USERS = 40, 12


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Posts 100, 107, 114, ... by authors 3 and 10 to 14, every fifth without topic or language; 9 only mentioned."""
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    number = np.arange(N_POSTS)
    born = pa.array(np.full(N_POSTS, START)).cast(pa.timestamp("us", tz="UTC"))
    posts = {
        "post_id": 100 + 7 * number,
        "author_id": np.where(number % 6 == 0, 3, 9 + number % 6),
        "topic": [None if n % 5 == 0 else f"topic {n % 4}" for n in number],
        "language": [None if n % 5 == 1 else ("en", "fr")[n % 2] for n in number],
        "text": [f"post {n}" for n in number],
        "created_at": born,
        "visible": [True] * N_POSTS,
    }
    users = {
        "user_id": np.arange(1, N_USERS + 1),
        "language": ["en", "fr"] * (N_USERS // 2),
        "created_at": born[:N_USERS],
    }
    lake.write("posts", pa.table(posts), "2024-10-04", "posts")
    lake.write("users", pa.table(users), "2024-10-04", "users")
    return build_catalogue(lake, np.array([9]), np.empty(0, np.int64))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with connect(OnlineConfig(), tmp_path_factory.mktemp("online")) as connection:
        yield connection


@pytest.fixture
def client(server: Connection) -> redis.Redis:
    """A real Redis, empty."""
    server.client.flushall()
    return server.client


@pytest.fixture
def config() -> OnlineConfig:
    return OnlineConfig(history_size=5, returned_size=6, trending_size=30)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture(scope="session")
def random_log(catalogue: Catalogue) -> Callable[[int, int], list[Event]]:
    """`random_log(seed, n)`: events over three days, a tenth of them late, in order of arrival; ids 1 to n."""

    def make(seed: int, n: int) -> list[Event]:
        rng = np.random.default_rng(seed)
        ingest = START + np.sort(rng.integers(0, 3 * DAY, n))
        event = ingest - np.where(rng.random(n) < 0.1, rng.integers(0, 5 * HOUR, n), rng.integers(-SECOND, SECOND, n))
        return [
            Event(
                kind=ACTIONS[rng.choice(len(ACTIONS), p=[0.6, 0.2, 0.06, 0.06, 0.04, 0.04])],
                event_id=i + 1,
                request_id=i // 10,
                user_id=int(rng.choice(catalogue.user_id)),
                post_id=int(rng.choice(catalogue.post_id)),
                event_time=int(event[i]),
                ingest_time=int(ingest[i]),
            )
            for i in range(n)
        ]

    return make


@pytest.fixture(scope="session")
def snapshot_of(catalogue: Catalogue) -> Callable[[Sequence[Event]], Snapshot]:
    """The snapshot that the batch build makes of these events."""

    def build(events: Sequence[Event]) -> Snapshot:
        events = sorted(events, key=lambda event: (event.ingest_time, event.event_id))
        ingest = np.array([event.ingest_time for event in events], np.int64)
        logged = Events(
            ingest_time=ingest,
            time=np.minimum(ingest, np.array([event.event_time for event in events], np.int64)),
            action=np.array([ACTIONS.index(event.kind) for event in events], np.int32),
            user_row=catalogue.user_rows([event.user_id for event in events]),
            post_row=catalogue.post_rows([event.post_id for event in events]),
        )
        return snapshot(catalogue, logged, 1)

    return build


@pytest.fixture(scope="session")
def returned_record() -> Callable[..., Returned]:
    def make(request_id: int, user_id: int, post_id: Sequence[int], now: int = START) -> Returned:
        k = len(post_id)
        return Returned(
            request_id=request_id,
            user_id=user_id,
            now=now,
            release="r1",
            policy="main",
            watermark="5-1",
            user_watermark="4-1",
            post_id=np.array(post_id, np.int64),
            position=np.arange(k, dtype=np.int32),
            propensity=np.full(k, 0.5, np.float32),
            sources=np.full(k, 3, np.uint16),
            score=np.linspace(1, 0, k, dtype=np.float32),
            features=np.arange(2 * k, dtype=np.float32).reshape(k, 2),
            candidates=np.array([*post_id, 2**60 + 1], np.int64),
        )

    return make
