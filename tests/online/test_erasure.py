"""Erasure: a person leaves Redis at once, does not come back with old records, may come back as a new person."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.errors import DataError, DependencyError
from recsys.features.spec import USER
from recsys.offline.lake import erasure as lake_erasure
from recsys.offline.lake.erasure import PERSONAL
from recsys.online import keys
from recsys.online.consumer.loop import LakeSink, OnlineSink
from recsys.online.consumer.to_lake import read_position
from recsys.online.erasure import remove_dead_letters, remove_records, remove_returned, remove_rows
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import EVENT, RETURNED, Event, Returned, encode_event, encode_returned
from recsys.online.tombstones import Erased, mark_erased, read_erased
from recsys.types import DAY, HOUR, SECOND

START = 20_000 * DAY
GONE, OTHER = 3, 4
ERASED_AT = START + 10 * HOUR


def event(n, user, time, kind="click", late=0):
    return Event(kind, n, n, user, 100 + 7 * (n % 40), time, time + late)


def sent(n, user, time):
    return Returned(
        request_id=n, user_id=user, now=time, release="r", policy="p", watermark="", user_watermark="",
        post_id=np.array([100, 107]), position=np.arange(2, dtype=np.int32), propensity=np.full(2, 0.5, np.float32),
        sources=np.ones(2, np.uint16), score=np.ones(2, np.float32), features=np.ones((2, 1), np.float32),
        candidates=np.array([100, 107, 114]),
    )  # fmt: skip


@pytest.fixture
def stream(client, config):
    return RedisStream(client, config)


@pytest.fixture
def loaded(client, catalogue, config, snapshot_of):
    """An empty generation; events stream into it."""
    load_snapshot(client, catalogue, snapshot_of([]), config, SnapshotReach("", START))
    return client


@pytest.fixture
def sink(loaded, stream, catalogue, config):
    return OnlineSink(loaded, stream, catalogue, config, "explicit")


def applied_all(sink):
    while sink.step():
        pass


def append(stream, records):
    for record in records:
        if isinstance(record, Event):
            stream.append([record])
        else:
            stream.append_returned(record)


def row_of(client, user):
    number = int(client.get(keys.CURRENT))
    return client.get(keys.Generation(number).rows(USER.name, np.array([user]))[0])


def rows_of(client):
    """Every row of counters, by key without its generation."""
    prefix = keys.Generation(int(client.get(keys.CURRENT))).prefix
    entities = [b"user:", b"post:", b"author:", b"topic:"]
    return {
        name.removeprefix(prefix): client.get(name)
        for name in client.scan_iter(prefix + b"*")
        if any(name.removeprefix(prefix).startswith(entity) for entity in entities)
    }


def erase_online(client, stream, user=GONE, now=ERASED_AT):
    """As `serving.erasing` does; gives rows, posts returned, records."""
    until = mark_erased(client, user, now)
    return remove_rows(client, user), remove_returned(client, user, until), remove_records(stream, user, until)[0]


def test_a_tombstone_stores_user_and_moment_and_raises_the_version(client):
    assert read_erased(client).version == 0
    assert len(read_erased(client).user_id) == 0
    for user, now in ((9, 50), (-7, 40), (9, 70)):
        assert mark_erased(client, user, now) == now
    erased = read_erased(client)
    assert (erased.version, erased.user_id.tolist(), erased.until.tolist()) == (3, [-7, 9], [40, 70])
    assert client.hgetall(keys.ERASED) == {b"-7": b"40", b"9": b"70"}


def test_a_tombstone_never_goes_back(client):
    mark_erased(client, 9, 70)
    assert mark_erased(client, 9, 60) == 70
    assert read_erased(client).until.tolist() == [70]


def test_ids_and_times_at_the_ends_of_their_range_survive(client):
    for user in (2**63 - 1, -(2**63)):
        mark_erased(client, user, 6_311_000_000_123_457)
    assert read_erased(client).user_id.tolist() == [-(2**63), 2**63 - 1]
    assert set(read_erased(client).until.tolist()) == {6_311_000_000_123_457}


def test_a_tombstone_covers_its_user_up_to_and_with_its_moment():
    erased = Erased(1, np.array([-5, 3, 8]), np.array([10, 20, 30]))
    covered = erased.covers(np.array([3, 3, 4, -5, -5, 8, 9, -9]), np.array([20, 21, 5, 10, 11, 0, 0, 0]))
    assert covered.tolist() == [True, False, False, True, False, True, False, False]
    assert erased.covers(np.array([], np.int64), np.array([], np.int64)).tolist() == []
    nobody = Erased(0, np.array([], np.int64), np.array([], np.int64))
    assert nobody.covers(np.array([1]), np.array([1])).tolist() == [False]


def test_rows_of_every_generation_and_what_was_sent_go_at_once_others_stay(loaded, stream, sink):
    append(stream, [event(n, user, START + n * SECOND) for n, user in enumerate([GONE, OTHER, GONE, OTHER])])
    applied_all(sink)
    loading = keys.Generation(int(loaded.incr(keys.NEWEST))).rows(USER.name, np.array([GONE, OTHER]))
    for name in loading:
        loaded.set(name, b"row")
    for user in (GONE, OTHER):
        loaded.zadd(keys.returned(user), {b"a": ERASED_AT, b"b": ERASED_AT + 1, b"c": 5})
    before = row_of(loaded, OTHER)
    assert erase_online(loaded, stream)[:2] == (2, 2)
    assert row_of(loaded, GONE) is None
    assert row_of(loaded, OTHER) == before
    assert [loaded.exists(name) for name in loading] == [0, 1]
    assert loaded.zrange(keys.returned(GONE), 0, -1) == [b"b"]
    assert loaded.zcard(keys.returned(OTHER)) == 3


def test_an_invalid_newest_number_is_an_error_before_anything_is_removed(loaded, stream, sink):
    append(stream, [event(1, GONE, START)])
    applied_all(sink)
    loaded.set(keys.NEWEST, "the last")
    with pytest.raises(DataError, match=r"recsys:newest must hold a whole number, .*; see what wrote it, then set it"):
        remove_rows(loaded, GONE)
    assert row_of(loaded, GONE) is not None


def test_records_go_from_the_stream_and_others_keep_their_ids(client, stream, monkeypatch):
    monkeypatch.setattr("recsys.online.erasure.PAGE", 3)
    records = [event(1, GONE, START), event(2, OTHER, START), sent(3, GONE, START), sent(4, OTHER, START),
               event(5, GONE, ERASED_AT, late=HOUR), event(6, GONE, ERASED_AT + HOUR, late=-2 * HOUR),
               event(7, GONE, ERASED_AT + 1), sent(8, GONE, ERASED_AT + 1), event(9, OTHER, START)]  # fmt: skip
    append(stream, records)
    before = stream.read("", 100)
    assert remove_records(stream, GONE, ERASED_AT) == (4, before[-1].id)
    assert stream.read("", 100) == [before[place] for place in (1, 3, 6, 7, 8)]
    assert remove_records(stream, GONE, ERASED_AT) == (0, before[-1].id)
    append(stream, [event(10, GONE, START)])
    client.xadd(keys.STREAM, {EVENT: encode_event(event(11, GONE, ERASED_AT + 1))[:-1]})  # no time to be read
    assert remove_records(stream, GONE, ERASED_AT, before[-1].id)[0] == 2


def test_dead_letters_of_which_only_the_user_can_be_read_are_removed_too(client):
    torn = encode_returned(sent(1, GONE, START))[:-5]
    letters = [(EVENT, encode_event(event(1, GONE, START))), (EVENT, encode_event(event(1, GONE, START))[:30]),
               (RETURNED, torn), (EVENT, encode_event(event(1, OTHER, START))), (RETURNED, b"\xff"), (b"?", b"x"),
               (RETURNED, (2).to_bytes(4, "little") + b"[]"), (EVENT, b"")]  # fmt: skip
    for kind, payload in letters:
        client.xadd(keys.DEAD_LETTERS, {"id": "1-1", "kind": kind, "payload": payload, "reason": "bad"})
    assert remove_dead_letters(client, GONE) == 3
    left = [fields[b"payload"] for _, fields in client.xrange(keys.DEAD_LETTERS)]
    assert left == [payload for _, payload in letters[3:]]
    assert remove_dead_letters(client, GONE) == 0


def test_removing_somebody_unknown_from_an_empty_store_removes_nothing(client, stream):
    assert erase_online(client, stream, user=-(2**63)) == (0, 0, 0)
    assert remove_dead_letters(client, 5) == 0


def test_events_erased_before_they_were_applied_never_count_and_others_do(loaded, stream, sink, random_log):
    log = [record for record in random_log(5, 400) if record.ingest_time < ERASED_AT]
    theirs = [record for record in log if record.user_id == GONE]
    assert theirs
    append(stream, log[:50])
    sink.step()
    append(stream, log[50:])
    erase_online(loaded, stream)
    applied_all(sink)
    assert row_of(loaded, GONE) is None
    for record in theirs:
        loaded.delete(keys.seen_event(record.event_id))
    append(stream, theirs)  # a phone that sends them again, after their marks expired
    applied_all(sink)
    assert row_of(loaded, GONE) is None
    assert loaded.xlen(keys.DEAD_LETTERS) == 0, "a batch of nothing but theirs is passed over, not set aside"


def test_others_rows_are_byte_identical_to_a_store_that_never_knew_the_person(
    loaded, stream, sink, random_log, catalogue, config, snapshot_of
):
    log = [record for record in random_log(6, 400) if record.ingest_time < ERASED_AT]
    append(stream, log)
    erase_online(loaded, stream)
    applied_all(sink)
    with_erasure = rows_of(loaded)
    loaded.flushall()
    load_snapshot(loaded, catalogue, snapshot_of([]), config, SnapshotReach("", START))
    append(stream, [record for record in log if record.user_id != GONE])
    applied_all(OnlineSink(loaded, stream, catalogue, config, "explicit"))
    assert with_erasure == rows_of(loaded)


def test_events_after_the_erasure_are_a_new_persons(loaded, stream, sink, catalogue, config, snapshot_of):
    append(stream, [event(n, GONE, START + n) for n in range(5)])
    applied_all(sink)
    erase_online(loaded, stream)
    later = [event(20, GONE, ERASED_AT + HOUR), event(21, GONE, ERASED_AT + 2 * HOUR, late=SECOND)]
    append(stream, later)
    applied_all(sink)
    again = row_of(loaded, GONE)
    loaded.flushall()
    load_snapshot(loaded, catalogue, snapshot_of([]), config, SnapshotReach("", START))
    append(stream, later)
    applied_all(OnlineSink(loaded, stream, catalogue, config, "explicit"))
    assert again == row_of(loaded, GONE)


def test_a_replay_from_the_beginning_does_not_bring_the_person_back(
    loaded, stream, sink, random_log, catalogue, config, snapshot_of, lake
):
    log = [record for record in random_log(7, 300) if record.ingest_time < ERASED_AT]
    append(stream, log)
    until = mark_erased(loaded, GONE, ERASED_AT)  # and nothing else: their records are still on the stream
    load_snapshot(loaded, catalogue, snapshot_of([]), config, SnapshotReach("", START))
    applied_all(OnlineSink(loaded, stream, catalogue, config, "explicit"))
    assert row_of(loaded, GONE) is None
    while LakeSink(loaded, stream, lake).step():
        pass
    assert all(GONE not in lake.read(table, ["user_id"])["user_id"].to_pylist() for table in ("impressions", "actions"))
    assert len(lake.read("actions")) + len(lake.read("impressions")) == len(log) - sum(r.user_id == GONE for r in log)
    assert remove_records(stream, GONE, until)[0] == sum(record.user_id == GONE for record in log)


def test_erased_with_events_unapplied_neither_store_has_them_and_others_lose_nothing(
    loaded, stream, sink, random_log, lake
):
    log = [record for record in random_log(8, 500) if record.ingest_time < ERASED_AT]
    returned = [sent(10_000 + n, user, START + n) for n, user in enumerate([GONE, OTHER] * 3)]
    append(stream, log[: len(log) // 2] + returned[:3])
    applied_all(sink)
    lake_sink = LakeSink(loaded, stream, lake)
    lake_sink.step()
    append(stream, log[len(log) // 2 :] + returned[3:])
    written = {table: lake.read(table) for table in PERSONAL}
    erase_online(loaded, stream)
    with lake_sink.held():
        lake_erasure.erase(lake, GONE, str(GONE))
    applied_all(sink)
    assert lake_sink.step() == 0
    assert row_of(loaded, GONE) is None
    events = [record for record in log if record.user_id != GONE]
    assert len(lake.read("actions")) + len(lake.read("impressions")) == len(events)
    assert len(lake.read("requests")) == 3
    for table, rows in written.items():
        before = rows.filter(pc.not_equal(rows["user_id"], GONE))
        after = lake.read(table)
        assert GONE not in after["user_id"].to_pylist()
        changed = set(map(str, before.to_pylist())) - set(map(str, after.to_pylist()))
        assert not changed, f"{table}: rows of others"


def test_an_interrupted_batch_of_the_lake_is_finished_without_the_person(loaded, stream, lake, monkeypatch):
    records = [event(1, OTHER, START), event(2, OTHER, START, "impression"), event(3, GONE, START)]
    append(stream, records)
    write = lake.write

    def dies(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(lake, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        LakeSink(loaded, stream, lake).step()
    monkeypatch.undo()
    assert read_position(lake).writing is not None, "its last record is the person's"
    erase_online(loaded, stream)
    with LakeSink(loaded, stream, lake).held():
        lake_erasure.erase(lake, GONE, str(GONE))
    assert lake.read("actions")["event_id"].to_pylist() == [1]
    assert lake.read("impressions")["event_id"].to_pylist() == [2]
    assert read_position(lake).writing is None


def test_an_absent_redis_gives_one_clear_error(config):
    absent = redis.Redis(unix_socket_path="/nowhere/redis.sock", retry=Retry(NoBackoff(), 0))
    for work in (
        lambda: mark_erased(absent, 1, 2),
        lambda: read_erased(absent),
        lambda: remove_rows(absent, 1),
        lambda: remove_returned(absent, 1, 2),
        lambda: remove_records(RedisStream(absent, config), 1, 2),
        lambda: remove_dead_letters(absent, 1),
    ):
        with pytest.raises(DependencyError, match="does not answer"):
            work()
