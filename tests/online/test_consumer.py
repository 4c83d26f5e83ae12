"""The consumer: both stores follow the stream, each record once in effect, whatever is killed when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError
from recsys.features.point_in_time import Snapshot
from recsys.offline.catalogue import Catalogue
from recsys.offline.lake import Lake
from recsys.online import keys, lake_sink
from recsys.online.consumer import Consumer, LakeSink, OnlineSink, lake_watermark
from recsys.online.records import Event, Returned
from recsys.online.store import RedisStore, SnapshotStore, load_snapshot
from recsys.online.stream import RedisStream
from recsys.types import DAY

from .conftest import START
from .test_online_store import assert_same_answers

NOW = START + 4 * DAY
RandomLog = Callable[[int, int], list[Event]]
SnapshotOf = Callable[[Sequence[Event]], Snapshot]


class Setup:
    """An online store that was loaded with the first events and has the others on its stream."""

    def __init__(
        self,
        client: redis.Redis,
        catalogue: Catalogue,
        config: OnlineConfig,
        random_log: RandomLog,
        snapshot_of: SnapshotOf,
    ) -> None:
        self.client, self.catalogue, self.snapshot_of = client, catalogue, snapshot_of
        self.config = config.model_copy(update={"batch_size": 64})
        self.events = random_log(0, 500)
        self.stream = RedisStream(client, self.config)
        self.sink = OnlineSink(client, self.stream, catalogue, self.config, "explicit")
        self.load(self.events[:200], "")

    def load(self, events: Sequence[Event], watermark: str) -> None:
        load_snapshot(self.client, self.catalogue, self.snapshot_of(events), self.config, watermark, NOW)

    def assert_counts(self, events: Sequence[Event]) -> None:
        expected = SnapshotStore(self.catalogue, self.snapshot_of(events), self.config)
        store = RedisStore(self.client, self.catalogue, self.config)
        assert_same_answers(store, expected, self.catalogue, self.catalogue.user_id)

    def drain(self) -> None:
        while self.sink.step():
            pass


@pytest.fixture
def setup(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> Setup:
    # Room for every clicked post: trending is cut when written, and what was cut off once starts again from nothing.
    return Setup(client, catalogue, config.model_copy(update={"trending_size": 100}), random_log, snapshot_of)


def test_a_load_and_the_stream_after_it_equal_one_batch_in_any_order(setup: Setup) -> None:
    late = [setup.events[200:][i] for i in np.random.default_rng(5).permutation(300)]
    setup.stream.append(late)
    setup.drain()
    setup.assert_counts(setup.events)
    last = setup.stream.read("", 1000)[-1].id
    assert RedisStore(setup.client, setup.catalogue, setup.config).read_counts(1, np.array([0]), NOW).watermark == last


def test_an_event_posted_twice_counts_once(setup: Setup) -> None:
    setup.stream.append(setup.events[200:260])
    setup.stream.append(setup.events[200:260])
    setup.drain()
    setup.assert_counts(setup.events[:260])


@pytest.mark.parametrize("fatal", ["read", "MULTI", "after"])
def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, fatal: str
) -> None:
    setup.stream.append(setup.events[200:])
    setup.sink.step()
    pipeline = type(setup.client.pipeline())
    with monkeypatch.context() as patch:
        if fatal == "read":
            patch.setattr(setup.sink, "_after", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        else:
            execute = pipeline.execute

            def dying(pipe: redis.client.Pipeline) -> None:
                if fatal == "after":
                    execute(pipe)
                raise KeyboardInterrupt

            patch.setattr(pipeline, "execute", dying)
        with pytest.raises(KeyboardInterrupt):
            setup.sink.step()
    again = OnlineSink(setup.client, setup.stream, setup.catalogue, setup.config, "explicit")
    while again.step():
        pass
    setup.assert_counts(setup.events)


def test_a_write_loses_when_another_consumer_was_faster(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.stream.append(setup.events[200:])
    other = OnlineSink(setup.client, setup.stream, setup.catalogue, setup.config, "explicit")
    after, raced = setup.sink._after, []

    def slow(*arguments: object) -> list[bytes]:
        if not raced:
            raced.append(other.step())
        return after(*arguments)

    monkeypatch.setattr(setup.sink, "_after", slow)
    assert setup.sink.step() == 0
    assert raced == [64]
    setup.drain()
    setup.assert_counts(setup.events)


def test_a_write_loses_when_the_generation_changes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.stream.append(setup.events[200:])
    middle = setup.stream.read("", 1000)[49].id
    after, loaded = setup.sink._after, []

    def slow(*arguments: object) -> list[bytes]:
        if not loaded:
            loaded.append(True)
            setup.load(setup.events[:250], middle)
        return after(*arguments)

    monkeypatch.setattr(setup.sink, "_after", slow)
    assert setup.sink.step() == 0
    assert list(setup.client.scan_iter(keys.Generation(1).prefix + b"*")) == []
    setup.drain()
    setup.assert_counts(setup.events)


def test_poison_goes_to_the_dead_letters_once_and_stops_nothing(setup: Setup) -> None:
    setup.stream.append(setup.events[200:210])
    setup.client.xadd(keys.STREAM, {"e": b"poison"})
    setup.client.xadd(keys.STREAM, {"two": b"fields", "at": b"once"})
    setup.stream.append(setup.events[210:300])
    setup.drain()
    setup.assert_counts(setup.events[:300])
    letters = [fields for _, fields in setup.client.xrange(keys.DEAD_LETTERS)]
    assert (letters[0][b"kind"], letters[0][b"payload"]) == (b"e", b"poison")
    assert len(letters) == 2
    assert all(letter[b"reason"] for letter in letters)


def test_a_row_of_another_definition_stops_the_sink_with_the_remedy(setup: Setup) -> None:
    name = keys.Generation(1).rows("post", np.array([setup.events[200].post_id]))[0]
    setup.client.set(name, b"\x01" * 136)
    setup.stream.append(setup.events[200:201])
    with pytest.raises(DataError, match=f"{name.decode()} .*recsys train"):
        setup.sink.step()


def test_rows_written_by_the_stream_expire(setup: Setup) -> None:
    setup.stream.append([replace(setup.events[0], event_id=10**6, user_id=424242)])
    setup.drain()
    ttl = setup.client.pttl(keys.Generation(1).rows("user", np.array([424242]))[0])
    assert 0 < ttl <= setup.config.ttl_s * 1000


# The lake.


def lake_ids(lake: Lake) -> list[int]:
    return sorted(
        lake.read("impressions", ["event_id"])["event_id"].to_pylist()
        + lake.read("actions", ["event_id"])["event_id"].to_pylist()
    )


def test_the_lake_gets_every_record_in_its_tables(
    setup: Setup, lake: Lake, returned_record: Callable[..., Returned]
) -> None:
    setup.stream.append(setup.events)
    setup.stream.append_returned(replace(returned_record(1, 5, [100, 107], START), policy="main"))
    sink = LakeSink(setup.client, setup.stream, lake, batch_records=150)
    while sink.step():
        pass
    assert lake_ids(lake) == [event.event_id for event in setup.events]
    assert lake_watermark(lake) == setup.stream.read("", 1000)[-1].id
    events = {event.event_id: event for event in setup.events}
    for row in lake.read("actions").to_pylist():
        event = events[row["event_id"]]
        assert (row["type"], row["user_id"], row["post_id"]) == (event.kind, event.user_id, event.post_id)
        assert row["value"] is None
    (request,) = lake.read("requests").to_pylist()
    assert request["candidates"] == [100, 107, 2**60 + 1]
    assert (request["policy"], request["release"], request["watermark"]) == ("main", "r1", "5-1")
    assert lake.read("returned", ["post_id", "position", "features", "sources"]).to_pylist() == [
        {"post_id": 100, "position": 0, "features": [0.0, 1.0], "sources": 3},
        {"post_id": 107, "position": 1, "features": [2.0, 3.0], "sources": 3},
    ]
    assert not lake.quarantined


@pytest.mark.parametrize("fatal", range(8))
def test_a_kill_between_any_two_files_leaves_each_record_in_the_lake_once(
    setup: Setup,
    lake: Lake,
    returned_record: Callable[..., Returned],
    monkeypatch: pytest.MonkeyPatch,
    fatal: int,
) -> None:
    setup.stream.append(setup.events[:100])
    setup.stream.append_returned(returned_record(1, 5, [100], START))
    write, note, steps = lake.write, lake_sink._write_position, []

    def dying(action: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: object) -> None:
            if len(steps) == fatal:
                raise KeyboardInterrupt
            steps.append(None)
            action(*arguments)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(lake, "write", dying(write))
        patch.setattr(lake_sink, "_write_position", dying(note))
        try:
            LakeSink(setup.client, setup.stream, lake).step()
        except KeyboardInterrupt:
            assert len(steps) == fatal
    setup.stream.append(setup.events[100:200])
    sink = LakeSink(setup.client, setup.stream, lake)
    while sink.step():
        pass
    assert lake_ids(lake) == [event.event_id for event in setup.events[:200]]
    assert len(lake.read("requests")) == len(lake.read("returned")) == 1


def test_one_writer_at_a_time(setup: Setup, lake: Lake) -> None:
    setup.stream.append(setup.events[:10])
    sink, other = LakeSink(setup.client, setup.stream, lake), LakeSink(setup.client, setup.stream, lake)
    with sink.held() as watermark:
        assert watermark == setup.stream.read("", 100)[-1].id
        setup.stream.append(setup.events[10:20])
        assert other.step() == 0
        assert lake_watermark(lake) == watermark
    assert other.step() == 10


def test_a_killed_reader_frees_the_lake_within_a_minute(setup: Setup, lake: Lake) -> None:
    with LakeSink(setup.client, setup.stream, lake).held():
        assert 0 < setup.client.pttl(keys.LAKE_LOCK) <= lake_sink.LOCK_S * 1000


def test_a_reader_keeps_the_lake_for_as_long_as_it_reads(
    setup: Setup, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake_sink, "LOCK_S", 0.3)
    with LakeSink(setup.client, setup.stream, lake).held():
        time.sleep(0.7)
        assert setup.client.exists(keys.LAKE_LOCK)


def test_a_batch_whose_records_left_the_stream_is_not_overwritten_with_less(
    setup: Setup, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.stream.append(setup.events[:50])
    note = lake_sink._write_position
    with monkeypatch.context() as patch:
        patch.setattr(lake_sink, "_write_position", lambda at, p: note(at, p) if p.writing else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            LakeSink(setup.client, setup.stream, lake).step()
    # The power took the last second of Redis, but not of the lake.
    setup.client.xdel(keys.STREAM, *[entry.id for entry in setup.stream.read("", 100)[40:]])
    setup.stream.append(setup.events[50:60])
    sink = LakeSink(setup.client, setup.stream, lake)
    while sink.step() or lake_watermark(lake) != setup.stream.read("", 100)[-1].id:
        pass
    assert lake_ids(lake) == [event.event_id for event in setup.events[:60]]


# Both together.


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened for 20 s"
        time.sleep(0.01)


@pytest.fixture
def consumer(setup: Setup, lake: Lake) -> Consumer:
    return Consumer(setup.client, setup.catalogue, lake, setup.config, "explicit", flush_s=0.05, keep_s=3600)


def test_running_feeds_both_stores_and_stopping_leaves_nothing_behind(
    setup: Setup, lake: Lake, consumer: Consumer
) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=consumer.run, args=(stop,))
    thread.start()
    try:
        setup.stream.append(setup.events[200:300])
        wait_until(lambda: consumer.lag() == {"online": 0.0, "lake": 0.0})
        setup.stream.append(setup.events[300:])
        wait_until(lambda: consumer.lag()["online"] == 0.0)
    finally:
        stop.set()
        thread.join()
    setup.assert_counts(setup.events)
    assert lake_ids(lake) == [event.event_id for event in setup.events[200:]]


def test_running_outlives_a_failing_redis_and_says_why_it_waited(
    setup: Setup, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    away = threading.Event()
    away.set()
    read = consumer.stream.read

    def failing(*arguments: object, **options: object) -> object:
        if away.is_set():
            raise redis.ConnectionError("the cable is out")
        return read(*arguments, **options)

    monkeypatch.setattr(consumer.stream, "read", failing)
    setup.stream.append(setup.events[200:])
    stop = threading.Event()
    thread = threading.Thread(target=consumer.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: "online sink waits" in caplog.text and "lake sink waits" in caplog.text)
        away.clear()
        wait_until(lambda: consumer.lag() == {"online": 0.0, "lake": 0.0})
    finally:
        stop.set()
        thread.join()
    assert "the cable is out" in caplog.text
    setup.assert_counts(setup.events)


def test_lag_is_the_wait_of_the_oldest_record(setup: Setup, consumer: Consumer) -> None:
    assert consumer.lag() == {"online": 0.0, "lake": 0.0}
    setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - 60) * 1000)}-0")
    assert 59 < (consumer.lag()["online"] or 0) < 90
    setup.client.delete(keys.CURRENT)
    assert consumer.lag()["online"] is None


def test_only_records_that_both_stores_have_and_that_are_old_are_trimmed(setup: Setup, consumer: Consumer) -> None:
    for age in (3 * 3600, 2 * 3600, 60):
        setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - age) * 1000)}-0")
    assert consumer.trim() == 0
    setup.drain()
    assert consumer.trim() == 0
    consumer.lake.step()
    assert consumer.trim() == 2
    assert len(setup.stream.read("", 10)) == 1
