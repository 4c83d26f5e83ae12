"""Both sinks use the stream through `EventStream` alone: a log in memory works as well as Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import redis

from recsys.config import OnlineConfig
from recsys.features.point_in_time import Snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.consumer.loop import Consumer
from recsys.online.consumer.to_lake import LakeSink, Position, _write_position, lake_watermark
from recsys.online.consumer.to_redis import OnlineSink
from recsys.online.erasure import remove_records
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.stream.lag import read_lag
from recsys.online.stream.log import EventStream, position
from recsys.online.stream.records import EVENT, RETURNED, Entry, Event, Returned, encode_event, encode_returned

from ..conftest import START

GONE, OTHER = 3, 4


class ListStream:
    """A log in memory. Every record is a minute old."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.n_ever = 0
        self.trims: list[tuple[str, float]] = []
        self.n_holds = 0

    def append(self, events: Sequence[Event]) -> int:
        for event in events:
            self._add(EVENT, encode_event(event))
        return len(events)

    def append_returned(self, record: Returned) -> None:
        self._add(RETURNED, encode_returned(record))

    def _add(self, kind: bytes, payload: bytes) -> None:
        self.n_ever += 1
        self.entries.append(Entry(f"0-{self.n_ever}", kind, payload))

    def read(self, after_id: str, count: int, block_ms: int = 0) -> list[Entry]:
        return [entry for entry in self.entries if position(entry.id) > position(after_id)][:count]

    def last_id(self) -> str:
        return f"0-{self.n_ever}" if self.n_ever else ""

    def waited_s(self, after_id: str) -> float:
        return 60.0 if self.read(after_id, 1) else 0.0

    def remove(self, ids: Sequence[str]) -> int:
        before, self.entries = len(self.entries), [entry for entry in self.entries if entry.id not in ids]
        return before - len(self.entries)

    def trim(self, before_id: str, keep_s: float) -> int:
        self.trims.append((before_id, keep_s))
        return 0

    def trimmed(self) -> str:
        return self.trims[-1][0] if self.trims else ""

    @contextmanager
    def hold(self, after_id: str) -> Iterator[Callable[[], None]]:
        self.n_holds += 1
        yield lambda: None
        self.n_holds -= 1

    def is_held(self) -> bool:
        return self.n_holds > 0


@pytest.fixture
def stream() -> ListStream:
    log = ListStream()
    log.append([Event("click", n, n, (GONE, OTHER)[n % 2], 100, START, START) for n in range(6)])
    return log


@pytest.fixture
def loaded(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, snapshot_of: Callable[[Sequence[Event]], Snapshot]
) -> redis.Redis:
    load_snapshot(client, catalogue, snapshot_of([]), config, SnapshotReach("", START))
    return client


def test_both_stores_follow_it(
    loaded: redis.Redis, catalogue: Catalogue, config: OnlineConfig, stream: ListStream, lake: Lake
) -> None:
    assert OnlineSink(loaded, stream, catalogue, config, "explicit").step() == 6
    assert loaded.exists(*keys.Generation(1).rows("user", np.array([GONE, OTHER]))) == 2
    assert LakeSink(loaded, stream, lake).step() == 6
    assert lake_watermark(lake) == stream.last_id()


def test_the_lag_is_that_of_its_records(loaded: redis.Redis, stream: ListStream) -> None:
    assert read_lag(loaded, stream, "0-6") == (60.0, 0.0, 0)
    assert read_lag(loaded, stream, "0-5") == (60.0, 60.0, 0)


def test_records_of_an_erased_person_are_removed(stream: ListStream) -> None:
    assert remove_records(stream, GONE, START) == (3, "0-6")
    assert [entry.id for entry in stream.entries] == ["0-2", "0-4", "0-6"]


def test_it_is_trimmed_up_to_what_both_stores_have(
    loaded: redis.Redis, catalogue: Catalogue, config: OnlineConfig, stream: ListStream, lake: Lake
) -> None:
    consumer = Consumer(loaded, catalogue, lake, config, "explicit", keep_s=100)
    as_stream: EventStream = stream
    consumer.stream = consumer.online.stream = consumer.lake.stream = as_stream
    consumer.online.step()
    consumer.trim()
    consumer.lake.step()
    consumer.trim()
    assert stream.trims == [("", 100), ("0-6", 100)]


def test_an_interrupted_batch_lost_by_trimming_is_logged(
    client: redis.Redis, stream: ListStream, lake: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    _write_position(lake, Position("0-1", "0-6"))
    stream.trim("0-4", 0)
    assert LakeSink(client, stream, lake).step() == 5
    assert "records 0-1 to 0-6 left the stream" in caplog.text
