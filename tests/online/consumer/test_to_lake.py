"""The lake sink: one writer at a time, also with slow writes, erasures in between and failing records."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.consumer import to_lake
from recsys.online.consumer.to_lake import LakeSink, Position, lake_watermark, read_position
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Event
from recsys.online.tombstones import mark_erased
from recsys.types import DAY

from ..conftest import START

TABLES = ("impressions", "actions")
LATER = START + 10 * DAY


@pytest.fixture
def stream(client: redis.Redis, config: OnlineConfig) -> RedisStream:
    return RedisStream(client, config)


@pytest.fixture
def events(random_log: Callable[[int, int], list[Event]], stream: RedisStream) -> list[Event]:
    """The stream: 100 events of three days."""
    log = random_log(3, 100)
    stream.append(log)
    return log


@pytest.fixture
def sink(client: redis.Redis, stream: RedisStream, lake: Lake) -> LakeSink:
    return LakeSink(client, stream, lake)


@pytest.fixture
def other(client: redis.Redis, stream: RedisStream, lake: Lake) -> LakeSink:
    """The sink of another process, with another batch size."""
    return LakeSink(client, stream, Lake(lake.url), batch_records=30)


def ids(lake: Lake) -> list[int]:
    return sorted(number for table in TABLES for number in lake.read(table, ["event_id"])["event_id"].to_pylist())


def while_writing(lake: Lake, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[object]:
    """Act once, after the first file is written; gives a list that receives the result."""
    write, done = lake.write, list[object]()

    def acting(*arguments: object) -> None:
        write(*arguments)
        if not done:
            done.append(None)
            done[0] = act()

    monkeypatch.setattr(lake, "write", acting)
    return done


def test_a_write_that_takes_longer_than_the_lock_lives_keeps_others_out(
    sink: LakeSink, other: LakeSink, lake: Lake, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_lake, "LOCK_S", 0.3)

    def slow() -> int:
        time.sleep(0.8)
        return other.step()

    written = while_writing(lake, monkeypatch, slow)
    assert sink.step() == len(events)
    assert written == [0]
    assert ids(lake) == [event.event_id for event in events]


def test_a_writer_that_lost_the_lake_stops_and_every_record_is_there_once(
    sink: LakeSink, other: LakeSink, lake: Lake, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose() -> None:
        sink.client.delete(keys.LAKE_LOCK)
        while other.step():
            pass

    while_writing(lake, monkeypatch, lose)
    with pytest.raises(DependencyError, match=r"must be held while it is .* run it again"):
        sink.step()
    assert ids(lake) == [event.event_id for event in events]
    assert lake_watermark(lake) == sink.stream.last_id()


def test_a_writer_does_not_move_back_a_position_that_others_moved(
    sink: LakeSink, lake: Lake, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    further = Position("9999999999999-0", None)
    while_writing(lake, monkeypatch, lambda: to_lake._write_position(lake, further))
    with pytest.raises(DependencyError, match="another writer moved it"):
        sink.step()
    assert read_position(lake) == further


def test_a_user_who_is_erased_while_a_batch_is_written_is_not_in_it(
    sink: LakeSink, lake: Lake, events: list[Event], stream: RedisStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Event("click", 1000, 1, 5, 100, START + 5 * DAY, START + 5 * DAY)
    stream.append([alone])  # the only one of its day: its whole file goes
    names = list[str]()

    def erase() -> None:
        # After the last file was written for the first time.
        if len(names) == n_files:
            mark_erased(sink.client, 5, LATER)

    write, n_files = lake.write, 3 + 4

    def writing(table: str, rows: pa.Table, date: str, name: str) -> None:
        write(table, rows, date, name)
        names.append(name)
        erase()

    monkeypatch.setattr(lake, "write", writing)
    assert sink.step() == len(events) + 1
    assert len(names) > n_files
    assert ids(lake) == [event.event_id for event in events if event.user_id != 5]
    assert len(lake.files("actions")) == 3
    assert lake_watermark(lake) == stream.last_id()


# What cannot be written.


def failing_with(lake: Lake, monkeypatch: pytest.MonkeyPatch, fails: Callable[[pa.Table], bool]) -> None:
    write = lake.write

    def writing(table: str, rows: pa.Table, *rest: str) -> None:
        if fails(rows):
            raise ZeroDivisionError("cannot be written")
        write(table, rows, *rest)

    monkeypatch.setattr(lake, "write", writing)


def test_a_record_that_makes_writing_fail_is_left_out_alone_and_named(
    sink: LakeSink,
    lake: Lake,
    events: list[Event],
    stream: RedisStream,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    poison = {events[40].event_id, events[77].event_id}
    failing_with(lake, monkeypatch, lambda rows: not poison.isdisjoint(rows["event_id"].to_pylist()))
    assert sink.step() == len(events)
    assert ids(lake) == [event.event_id for event in events if event.event_id not in poison]
    assert lake_watermark(lake) == stream.last_id()
    entries = stream.read("", 100)
    said = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert [message.split()[2] for message in said] == [entries[40].id, entries[77].id]
    assert all("ZeroDivisionError: cannot be written" in message for message in said)


def test_a_program_error_leaves_no_record_out(
    sink: LakeSink, lake: Lake, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing_with(lake, patch, lambda rows: True)
        with pytest.raises(DataError, match=r"more than 20 records from .* repair the program"):
            sink.step()
    assert lake_watermark(lake) == ""
    assert sink.step() == len(events)
    assert ids(lake) == [event.event_id for event in events]


@pytest.mark.parametrize("error", [OSError("disk full"), ZeroDivisionError()])
def test_a_passing_error_leaves_no_record_out(
    sink: LakeSink, lake: Lake, events: list[Event], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    write, failed = lake.write, list[bool]()

    def once(*arguments: object) -> None:
        if not failed:
            failed.append(True)
            raise error
        write(*arguments)

    monkeypatch.setattr(lake, "write", once)
    if isinstance(error, OSError):
        with pytest.raises(OSError, match="disk full"):
            sink.step()
    assert sink.step() == len(events)
    assert ids(lake) == [event.event_id for event in events]


# Waiting for the lake.


def test_a_writer_lets_waiting_processes_in(
    sink: LakeSink, other: LakeSink, stream: RedisStream, events: list[Event]
) -> None:
    sink.client.set(keys.LAKE_LOCK, b"of somebody", px=60_000)
    got, over = threading.Event(), threading.Event()

    def read() -> None:
        with other.held():
            got.set()
            over.wait(20)

    waiting = threading.Thread(target=read)
    waiting.start()
    try:
        time.sleep(0.3)
        sink.client.delete(keys.LAKE_LOCK)
        assert sink.step() == 0
        assert got.wait(5)
    finally:
        over.set()
        waiting.join()
    stream.append([Event("click", 1000, 1, 5, 100, START, START)])
    assert sink.step() == 1, "who has got the lake does not want it any longer"


def test_a_lock_timeout_names_the_seconds_waited(
    sink: LakeSink, other: LakeSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_lake, "WAIT_S", 0.2)
    with (
        other.held(),
        pytest.raises(DependencyError, match=r"is held by another process, still after 0\.2 s; wait"),
        sink.held(),
    ):
        pass


def test_a_reader_that_lost_the_lake_gets_an_error(sink: LakeSink) -> None:
    with pytest.raises(DependencyError, match="run it again"), sink.held():
        sink.client.set(keys.LAKE_LOCK, b"of somebody")


def test_holding_the_lake_finishes_an_interrupted_batch_and_writes_all_later_records(
    sink: LakeSink, other: LakeSink, lake: Lake, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    while_writing(other.lake, monkeypatch, killed)
    with pytest.raises(KeyboardInterrupt):
        other.step()
    with sink.held() as watermark:
        assert watermark == sink.stream.last_id()
        assert ids(lake) == [event.event_id for event in events]


def test_an_absent_redis_gives_one_clear_error(config: OnlineConfig, lake: Lake) -> None:
    absent = redis.Redis(unix_socket_path="/nowhere/redis.sock", retry=Retry(NoBackoff(), 0))
    sink = LakeSink(absent, RedisStream(absent, config), lake)
    with pytest.raises(DependencyError, match="does not answer"):
        sink.step()
    with pytest.raises(DependencyError, match="does not answer"), sink.held():
        pass
