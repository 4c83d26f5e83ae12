"""The consumer: both stores follow the stream, each record once in effect, whenever a process is killed."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.features.point_in_time import Snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.consumer import changes, to_lake, transaction
from recsys.online.consumer import loop as consumer_module
from recsys.online.consumer.loop import Consumer, LakeSink, OnlineSink, lake_watermark
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.store import RedisStore, SnapshotStore
from recsys.online.stream import retention
from recsys.online.stream.lag import Lag, LagLog, read_lag
from recsys.online.stream.log import RedisStream, position
from recsys.online.stream.records import Entry, Event, Returned, decode
from recsys.online.stream.retention import hold
from recsys.online.tombstones import mark_erased
from recsys.types import DAY, HOUR

from ..conftest import START
from ..test_store import assert_same_answers

NOW = START + 4 * DAY
RandomLog = Callable[[int, int], list[Event]]
SnapshotOf = Callable[[Sequence[Event]], Snapshot]


class Setup:
    """An online store loaded with the first events; the others are on its stream."""

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
        load_snapshot(self.client, self.catalogue, self.snapshot_of(events), self.config, SnapshotReach(watermark, NOW))

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


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("fatal", ["read", "after read", "write", "after write"])
def test_a_kill_between_any_two_steps_loses_nothing_and_doubles_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, fatal: str, times: int
) -> None:
    setup.stream.append(setup.events[200:])
    name, called = fatal.split()[-1], []
    action = getattr(transaction, name)
    pool = setup.client.connection_pool
    in_use = len(pool._in_use_connections)

    def dying(*arguments: object) -> object:
        called.append(True)
        if len(called) < times:
            return action(*arguments)
        if fatal == "after read":
            action(*arguments)
        elif fatal == "after write":
            # A process that is killed takes its connections along; here its answer would stay in one.
            assert action(*arguments).wait()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transaction, name, dying)
        with pytest.raises(KeyboardInterrupt):
            setup.sink.step()
    assert len(pool._in_use_connections) == in_use
    again = OnlineSink(setup.client, setup.stream, setup.catalogue, setup.config, "explicit")
    while again.step():
        pass
    setup.assert_counts(setup.events)


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act once between the reads and the write of the next batch."""
    write, done = transaction.write, []

    def slow(*arguments: object) -> transaction.PendingWrite:
        if not done:
            done.append(True)
            act()
        return write(*arguments)

    monkeypatch.setattr(transaction, "write", slow)


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    return {name: client.dump(name) for name in client.scan_iter(keys.GENERATIONS + b"*")}


def test_a_write_loses_when_another_consumer_was_faster(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.stream.append(setup.events[200:])
    other = OnlineSink(setup.client, setup.stream, setup.catalogue, setup.config, "explicit")
    raced: list[int] = []
    meanwhile(monkeypatch, lambda: raced.append(other.step()))
    assert setup.sink.step() == 0
    assert raced == [300]
    setup.drain()
    setup.assert_counts(setup.events)


def test_a_write_loses_when_the_generation_changes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.stream.append(setup.events[200:])
    middle = setup.stream.read("", 1000)[49].id
    meanwhile(monkeypatch, lambda: setup.load(setup.events[:250], middle))
    assert setup.sink.step() == 0
    assert list(setup.client.scan_iter(keys.Generation(1).prefix + b"*")) == []
    setup.drain()
    setup.assert_counts(setup.events)


@pytest.mark.parametrize("lost", ["generation", "position", "tombstones", "row"])
def test_a_write_that_lost_its_fence_has_changed_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    setup.stream.append([replace(event, user_id=5) for event in setup.events[200:210]])
    client, generation, before = setup.client, keys.Generation(1), {}

    def lose() -> None:
        if lost == "generation":
            client.set(keys.CURRENT, 7)
        elif lost == "position":
            client.set(generation.applied, "1-0")
        elif lost == "tombstones":
            mark_erased(client, 999, NOW)
        else:
            client.delete(*generation.rows("user", np.array([5])))
        before.update(everything(client))

    meanwhile(monkeypatch, lose)
    assert setup.sink.step() == 0
    assert everything(client) == before


def test_a_client_that_sends_its_write_twice_has_it_applied_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.stream.append(setup.events[200:])
    write = transaction.write
    monkeypatch.setattr(transaction, "write", lambda *arguments: (write(*arguments).wait(), write(*arguments))[1])
    assert setup.sink.step() == 0
    monkeypatch.setattr(transaction, "write", write)
    setup.drain()
    setup.assert_counts(setup.events)


def test_an_unreadable_record_becomes_one_dead_letter_and_stops_nothing(setup: Setup) -> None:
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


def test_an_event_that_makes_applying_fail_is_set_aside_alone_with_its_reason(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, count = setup.events[300].event_id, changes.counted_events

    def failing(catalogue: Catalogue, events: np.ndarray, *rest: object) -> object:
        if poison in events["event_id"]:
            raise ZeroDivisionError("cannot be counted")
        return count(catalogue, events, *rest)

    monkeypatch.setattr(changes, "counted_events", failing)
    setup.stream.append(setup.events[200:])
    setup.drain()
    setup.assert_counts([event for event in setup.events if event.event_id != poison])
    ((_, letter),) = setup.client.xrange(keys.DEAD_LETTERS)
    (event,) = decode([Entry("1-0", letter[b"kind"], letter[b"payload"])]).events
    assert event["event_id"] == poison
    assert letter[b"reason"] == b"ZeroDivisionError: cannot be counted"
    assert position(letter[b"id"].decode()) > (0, 0)
    assert read_lag(setup.client, setup.stream).dead_letters == 1


def test_a_program_error_does_not_turn_the_stream_into_dead_letters(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> object:
        raise ZeroDivisionError("every record")

    with monkeypatch.context() as patch:
        patch.setattr(changes, "counted_events", failing)
        setup.stream.append(setup.events[200:])
        with pytest.raises(DataError, match="20 stream records in a row could not be applied"):
            setup.drain()
    assert setup.client.xlen(keys.DEAD_LETTERS) == 20
    setup.drain()
    setup.assert_counts([*setup.events[:200], *setup.events[220:]])


def test_a_passing_error_makes_no_dead_letter(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    count, failed = changes.counted_events, []

    def failing(*arguments: object) -> object:
        if not failed:
            failed.append(True)
            raise ZeroDivisionError
        return count(*arguments)

    monkeypatch.setattr(changes, "counted_events", failing)
    setup.stream.append(setup.events[200:260])
    assert setup.sink.step() == 60
    assert not setup.client.exists(keys.DEAD_LETTERS)


@pytest.mark.parametrize("entity", ["post", "user"])
def test_a_key_of_another_type_stops_the_sink_and_keeps_what_it_holds(setup: Setup, entity: str) -> None:
    event = replace(setup.events[200], kind="impression", user_id=5)
    name = keys.Generation(1).rows(entity, np.array([getattr(event, f"{entity}_id")]))[0]
    setup.client.delete(name)
    setup.client.rpush(name, "someone's list")
    before = everything(setup.client)
    setup.stream.append([event])
    with pytest.raises(DataError, match=f"online key {name.decode()} .* string, found list; run `recsys train`"):
        setup.sink.step()
    assert everything(setup.client) == before


def test_events_up_to_the_erasure_of_their_user_are_ignored_and_later_ones_count(setup: Setup) -> None:
    middle = setup.events[350].ingest_time
    mark_erased(setup.client, 5, middle)
    setup.stream.append(setup.events[200:])
    setup.drain()
    left = [
        event for event in setup.events[200:] if event.user_id != 5 or min(event.event_time, event.ingest_time) > middle
    ]
    assert len(left) < 300
    setup.assert_counts(setup.events[:200] + left)


def test_a_user_erased_between_read_and_write_is_left_out_of_the_retry(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = keys.Generation(1).rows("user", np.array([5]))[0]

    def erase() -> None:
        mark_erased(setup.client, 5, NOW)
        setup.client.delete(name)

    setup.stream.append([replace(event, user_id=5) for event in setup.events[200:220]])
    meanwhile(monkeypatch, erase)
    assert setup.sink.step() == 0
    setup.drain()
    assert not setup.client.exists(name)


def test_gaps_in_the_stream_do_no_harm(setup: Setup) -> None:
    setup.stream.append(setup.events[200:264])
    setup.drain()
    setup.stream.append(setup.events[264:])
    ids = [entry.id for entry in setup.stream.read("", 1000)]
    # The last one applied, a few not applied yet, and the end.
    setup.client.xdel(keys.STREAM, ids[63], *ids[100:110], ids[-1])
    setup.drain()
    setup.assert_counts([event for n, event in enumerate(setup.events) if n - 200 not in {*range(100, 110), 299}])


def test_a_row_of_another_feature_definition_stops_the_sink_with_a_remedy(setup: Setup) -> None:
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


@pytest.mark.parametrize("entity", ["post", "author", "topic", "user"])
def test_the_first_event_of_a_day_renews_the_lifetime_of_a_row(setup: Setup, entity: str) -> None:
    post = 107  # of author 10 and a topic
    row = setup.catalogue.post_rows([post])
    key = {
        "post": np.array([post]),
        "author": setup.catalogue.author_id[setup.catalogue.author[row]],
        "topic": keys.topic_keys(setup.catalogue)[setup.catalogue.likely_topic[row] + 1],
        "user": np.array([5]),
    }[entity]
    (name,) = keys.Generation(1).rows(entity, key)
    impression, full = Event("impression", 10**6, 0, 5, post, NOW, NOW), setup.config.ttl_s * 1000

    def lifetime_after(event: Event) -> int:
        setup.client.pexpire(name, 60_000)
        setup.stream.append([event])
        assert setup.sink.step() == 1
        return int(setup.client.pttl(name))

    lifetime_after(impression)
    assert (
        lifetime_after(replace(impression, event_id=10**6 + 1, event_time=NOW + HOUR, ingest_time=NOW + HOUR)) <= 60_000
    )
    next_day = lifetime_after(replace(impression, event_id=10**6 + 2, event_time=NOW + DAY, ingest_time=NOW + DAY))
    assert full - 60_000 < next_day <= full


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
    write, note, steps = lake.write, to_lake._write_position, []

    def dying(action: Callable[..., None]) -> Callable[..., None]:
        def act(*arguments: object) -> None:
            if len(steps) == fatal:
                raise KeyboardInterrupt
            steps.append(None)
            action(*arguments)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(lake, "write", dying(write))
        patch.setattr(to_lake, "_write_position", dying(note))
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
        assert 0 < setup.client.pttl(keys.LAKE_LOCK) <= to_lake.LOCK_S * 1000


def test_a_reader_keeps_the_lake_for_as_long_as_it_reads(
    setup: Setup, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_lake, "LOCK_S", 0.3)
    with LakeSink(setup.client, setup.stream, lake).held():
        time.sleep(0.7)
        assert setup.client.exists(keys.LAKE_LOCK)


def test_an_interrupted_batch_is_written_without_records_erased_since(
    setup: Setup, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.stream.append(setup.events[:50])
    note = to_lake._write_position
    with monkeypatch.context() as patch:
        patch.setattr(to_lake, "_write_position", lambda at, p: note(at, p) if p.writing else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            LakeSink(setup.client, setup.stream, lake).step()
    # An erasure took the last ones, with the id that was noted.
    setup.client.xdel(keys.STREAM, *[entry.id for entry in setup.stream.read("", 100)[40:]])
    setup.stream.append(setup.events[50:60])
    sink = LakeSink(setup.client, setup.stream, lake)
    while sink.step() or lake_watermark(lake) != setup.stream.read("", 100)[-1].id:
        pass
    assert lake_ids(lake) == [event.event_id for event in setup.events[:40] + setup.events[50:60]]


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


def test_stopping_writes_pending_records_to_the_lake(setup: Setup, lake: Lake, consumer: Consumer) -> None:
    setup.stream.append(setup.events[200:])
    consumer.lake.batch_records = 40
    stop = threading.Event()
    stop.set()
    consumer.run(stop)
    assert lake_ids(lake) == [event.event_id for event in setup.events[200:]]


def test_the_consumer_survives_a_failing_redis_and_logs_why_it_waits(
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


class Waits(threading.Event):
    """Records how long each thread wants to wait, without waiting; set after ten waits of both sinks."""

    def __init__(self) -> None:
        super().__init__()
        self.of: dict[str, list[float]] = {"online": [], "lake-sink": []}

    def wait(self, timeout: float | None = None) -> bool:
        name = threading.current_thread().name
        if name in self.of:
            self.of[name].append(timeout or 0)
            if min(map(len, self.of.values())) >= 10:
                self.set()
        return super().wait(0.001)


def test_after_an_outage_the_online_sink_resumes_within_half_a_second_and_the_lake_sink_within_five(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> int:
        raise DependencyError("nobody there")

    monkeypatch.setattr(consumer.online, "step", away)
    monkeypatch.setattr(consumer.lake, "step", away)
    waits = Waits()
    thread = threading.Thread(target=consumer.run, args=(waits,), name="online")
    thread.start()
    thread.join(20)
    assert waits.of["online"][:5] == [0.1, 0.2, 0.4, 0.5, 0.5]
    assert waits.of["lake-sink"][:8] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@pytest.mark.parametrize("end", ["told to stop", "an error"])
def test_the_garbage_collector_is_as_before_after_a_run_however_it_ends(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    def settings() -> tuple[bool, tuple[int, int, int], int]:
        return gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()

    stop, working = threading.Event(), []

    def step(block_ms: int) -> int:
        working.append(settings())
        if end == "an error":
            raise KeyboardInterrupt
        stop.set()
        return 0

    monkeypatch.setattr(consumer.online, "step", step)
    usual = gc.get_threshold()
    gc.set_threshold(701, 11, 12)  # not what Python starts with
    try:
        before = settings()
        with pytest.raises(KeyboardInterrupt) if end == "an error" else nullcontext():
            consumer.run(stop)
        after = settings()
    finally:
        gc.set_threshold(*usual)
    assert len(working) == 1
    assert working[0] != before
    assert after == before


def test_lag_is_the_wait_of_the_oldest_record(setup: Setup, consumer: Consumer) -> None:
    assert consumer.lag() == {"online": 0.0, "lake": 0.0}
    setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - 60) * 1000)}-0")
    assert 59 < (consumer.lag()["online"] or 0) < 90
    setup.client.delete(keys.CURRENT)
    assert consumer.lag()["online"] is None


@pytest.mark.parametrize(
    ("key", "rule"),
    [
        (keys.DEAD_LETTERS_EVER, "must hold a whole number"),
        (keys.LAKE_REACHED, "must hold a stream id"),
        (keys.Generation(1).applied, "must hold a stream id"),
        (keys.CURRENT, "must hold a whole number"),
    ],
)
def test_a_lag_that_cannot_be_read_names_the_key(setup: Setup, key: bytes, rule: str) -> None:
    setup.client.set(key, b"\xff")
    with pytest.raises(DataError, match=f"online key {key.decode()} {rule}"):
        read_lag(setup.client, setup.stream)


def test_only_records_that_both_stores_have_and_that_are_old_are_trimmed(setup: Setup, consumer: Consumer) -> None:
    for age in (3 * 3600, 2 * 3600, 60):
        setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - age) * 1000)}-0")
    assert consumer.trim() == 0
    setup.drain()
    assert consumer.trim() == 0
    consumer.lake.step()
    assert consumer.trim() == 2
    assert len(setup.stream.read("", 10)) == 1


def test_held_records_are_not_trimmed(setup: Setup, consumer: Consumer) -> None:
    for age in (4, 3, 2):
        setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - age * 3600) * 1000)}-0")
    setup.drain()
    consumer.lake.step()
    first, second, _ = (entry.id for entry in setup.stream.read("", 10))
    with hold(setup.client, second):
        with hold(setup.client, first):
            assert consumer.trim() == 0
        assert consumer.trim() == 1
        assert consumer.trim() == 0
    assert consumer.trim() == 1
    with (
        pytest.raises(DataError, match=f"must still hold what follows {first}, but was trimmed"),
        hold(setup.client, first),
    ):
        pass


def test_the_hold_of_a_dead_process_expires_and_that_of_a_living_one_does_not(
    setup: Setup, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - 9999) * 1000)}-0")
    setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - 9998) * 1000)}-0")
    setup.drain()
    consumer.lake.step()
    monkeypatch.setattr(retention, "HOLD_S", 0.3)
    with hold(setup.client, ""):
        time.sleep(0.7)
        assert consumer.trim() == 0
    retention._renew(setup.client, "of the dead", "0-0")
    assert consumer.trim() == 0
    time.sleep(0.35)
    assert consumer.trim() == 1


def test_the_lag_is_logged_when_it_starts_doubles_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    told = LagLog()
    for seconds in (3.0, 11.0, 12.0, 21.0, 23.0, 9.0, 1.0, None, 11.0):
        told.tell(Lag(seconds, None, 0))
    assert [record.message.split(" is ")[-1] for record in caplog.records] == [
        "11 s behind the stream", "23 s behind the stream", "the online store has caught up with the stream",
        "11 s behind the stream",
    ]  # fmt: skip


def test_the_lag_is_logged_again_after_a_failed_read(
    setup: Setup, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, odd = consumer._read_lag, [ZeroDivisionError("nobody foresaw it")]

    def failing() -> Lag:
        if odd:
            raise odd.pop()
        return read()

    monkeypatch.setattr(consumer_module, "_LAG_EVERY_S", 0.02)
    monkeypatch.setattr(consumer, "_read_lag", failing)
    monkeypatch.setattr(consumer.online, "step", lambda block_ms: stop.wait(0.01))
    setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - 60) * 1000)}-0")
    setup.client.set(keys.DEAD_LETTERS_EVER, "many")
    stop = threading.Event()
    thread = threading.Thread(target=consumer.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: "online key recsys:dead_letters:ever must hold a whole number" in caplog.text)
        setup.client.delete(keys.DEAD_LETTERS_EVER)
        wait_until(lambda: "the online store is 6" in caplog.text)
    finally:
        stop.set()
        thread.join()
    assert "ZeroDivisionError: nobody foresaw it" in caplog.text


def test_a_running_consumer_logs_its_lag(
    setup: Setup, consumer: Consumer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consumer_module, "_LAG_EVERY_S", 0.02)
    monkeypatch.setattr(consumer.online, "step", lambda block_ms: stop.wait(0.01))
    setup.client.xadd(keys.STREAM, {"e": b""}, id=f"{int((time.time() - 60) * 1000)}-0")
    stop = threading.Event()
    thread = threading.Thread(target=consumer.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: "the online store is 6" in caplog.text)
        wait_until(lambda: read_lag(setup.client, setup.stream).lake == 0.0)
    finally:
        stop.set()
        thread.join()
    assert caplog.text.count("the online store is 6") == 1
