"""The online sink under erasures, lost races, keys with invalid values, and a newer catalogue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import redis

from recsys import release
from recsys.config import Config, OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.features.point_in_time import Snapshot
from recsys.features.spec import AUTHOR, POST
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.connection.client import connect
from recsys.online.consumer import changes, to_redis, transaction
from recsys.online.consumer.to_redis import OnlineSink
from recsys.online.erasure import remove_rows
from recsys.online.generations import current
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.rows.counter_layout import unpack
from recsys.online.store import RedisStore, SnapshotStore
from recsys.online.stream.lag import read_lag
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Entry, Event
from recsys.online.tombstones import mark_erased, read_erased
from recsys.serving.processes.consuming import CurrentCatalogue, consume

from ..conftest import START

GENERATION = keys.Generation(1)
SnapshotOf = Callable[[Sequence[Event]], Snapshot]


def event(event_id: int, user_id: int = 1, post_id: int = 100, kind: str = "click") -> Event:
    return Event(kind, event_id, 0, user_id, post_id, START, START)


@pytest.fixture
def stream(client: redis.Redis, config: OnlineConfig) -> RedisStream:
    return RedisStream(client, config)


@pytest.fixture
def sink(
    client: redis.Redis, stream: RedisStream, catalogue: Catalogue, config: OnlineConfig, snapshot_of: SnapshotOf
) -> OnlineSink:
    load_snapshot(client, catalogue, snapshot_of([]), config, SnapshotReach("", START))
    return OnlineSink(client, stream, catalogue, config, "explicit")


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    return {name: client.dump(name) for name in client.scan_iter(b"recsys:*")}


def test_a_record_that_cannot_be_applied_is_set_aside_after_an_erasure_too(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = changes.counted_events

    def failing(catalogue: Catalogue, events: np.ndarray, *rest: object) -> object:
        if 2 in events["event_id"]:
            raise ZeroDivisionError("cannot be counted")
        return count(catalogue, events, *rest)

    monkeypatch.setattr(changes, "counted_events", failing)
    mark_erased(client, 999, START)
    stream.append([event(2), event(3)])
    assert [sink.step() for _ in range(2)] == [1, 1]
    assert client.xlen(keys.DEAD_LETTERS) == 1
    assert client.get(GENERATION.applied).decode() == stream.last_id()


class Lost:
    """A write that does not go through."""

    def wait(self) -> bool:
        return False


@pytest.mark.parametrize("trouble", ["no write goes through", "no position"])
def test_a_sink_that_loses_every_race_says_so(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    stream.append([event(1)])
    if trouble == "no position":
        client.delete(GENERATION.applied)
    else:
        monkeypatch.setattr(transaction, "write", lambda *_: Lost())
    assert [sink.step() for _ in range(49)] == [0] * 49
    with pytest.raises(DependencyError, match=r"50 times in a row.*recsys:g:1:applied"):
        sink.step()


@pytest.mark.parametrize("entity", ["post", "user"])
def test_a_missing_row_and_an_extra_key_do_not_cancel_out(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink, monkeypatch: pytest.MonkeyPatch, entity: str
) -> None:
    stream.append([event(1, 1, 100)])
    sink.step()
    mine, foreign = GENERATION.rows(entity, np.array([1, 2] if entity == "user" else [100, 107]))
    client.rpush(foreign, "someone's list")
    stream.append([event(2, 1, 100, "impression"), event(3, 2, 107, "impression")])
    read, before = transaction.read, {}

    def expiring(*arguments: object) -> transaction.Found:
        found = read(*arguments)
        client.delete(mine)
        before.update(everything(client))
        return found

    monkeypatch.setattr(transaction, "read", expiring)
    with pytest.raises(DataError, match=f"online key {foreign.decode()} must hold the Redis type string, found list"):
        sink.step()
    assert everything(client) == before


@pytest.mark.parametrize(
    ("key", "garbage"),
    [
        (GENERATION.origin, b"soon"),
        (GENERATION.applied, b"\xff"),
        (keys.CURRENT, b"the first"),
        (keys.ERASED_VERSION, b"1.5"),
    ],
)
def test_an_invalid_value_is_named_and_makes_no_dead_letter(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink, key: bytes, garbage: bytes
) -> None:
    stream.append([event(1), event(2)])
    client.set(key, garbage)
    for _ in range(5):
        with pytest.raises(DataError, match=f"online key {key.decode()} must hold a"):
            sink.step()
    assert not client.exists(keys.DEAD_LETTERS)


@pytest.mark.parametrize(
    ("key", "spoil", "rule"),
    [
        (keys.DEAD_LETTERS_EVER, ("SET", b"many"), "must hold a whole number of at most 18 digits, found 'many'; "),
        (keys.DEAD_LETTERS_EVER, ("SET", b"007"), "must hold a whole number of at most 18 digits, found '007'; "),
        (keys.DEAD_LETTERS_EVER, ("SET", b"%d" % (2**63 - 1)), "must hold a whole number of at most 18 digits, found "),
        (keys.DEAD_LETTERS_EVER, ("RPUSH", b"1"), "must hold the Redis type string, found list; "),
        (
            keys.DEAD_LETTERS,
            ("XADD", b"18446744073709551615-18446744073709551615", b"id", b"1-1"),
            "must have stream ids left for more records, found '18446744073709551615-",
        ),
        (keys.DEAD_LETTERS, ("SET", b"none"), "must hold the Redis type stream, found string; "),
        (GENERATION.trending(None), ("SET", b"none"), "must hold the Redis type zset, found string; "),
    ],
)
def test_a_key_that_cannot_be_written_is_named_before_any_row_is_written(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink, key: bytes, spoil: tuple[object, ...], rule: str
) -> None:
    stream.append([event(1), event(2)])
    sink.step()
    client.delete(key)
    client.execute_command(spoil[0], key, *spoil[1:])
    stream.append([event(3)])
    client.xadd(keys.STREAM, {"e": b"poison"})
    before, remedy = everything(client), f"(`redis-cli DEL {key.decode()}`)"
    if key.startswith(keys.GENERATIONS):
        remedy = "loads the online store anew"
    for _ in range(3):
        with pytest.raises(DataError) as told:
            sink.step()
        assert str(told.value).startswith(f"online key {key.decode()} {rule}")
        assert str(told.value).endswith(remedy)
    assert everything(client) == before
    client.delete(key)
    assert sink.step() == 2
    assert client.xlen(keys.DEAD_LETTERS) == 1
    assert client.get(keys.DEAD_LETTERS_EVER) == b"1"


def test_a_broken_dead_letter_key_stops_only_batches_with_dead_letters(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink
) -> None:
    client.set(keys.DEAD_LETTERS_EVER, b"many")
    stream.append([event(1)])
    assert sink.step() == 1


@pytest.mark.parametrize(("user", "until"), [(b"7", b"yesterday"), (b"Ann", b"7"), (b"7", b"%d" % 2**63)])
def test_an_invalid_tombstone_is_named_and_makes_no_dead_letter(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink, user: bytes, until: bytes
) -> None:
    mark_erased(client, 3, START)
    client.hset(keys.ERASED, user, until)
    stream.append([event(1), event(2)])
    for _ in range(5):
        with pytest.raises(DataError, match="online key recsys:erased must hold a whole number"):
            sink.step()
    assert not client.exists(keys.DEAD_LETTERS)


def test_tombstones_hold_although_their_version_was_lost(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink
) -> None:
    mark_erased(client, 1, START)
    client.delete(keys.ERASED_VERSION)
    assert len(read_erased(client).user_id) == 1
    stream.append([event(1)])
    assert sink.step() == 1
    assert not client.exists(*GENERATION.rows("user", np.array([1])))


def test_every_reader_names_a_stream_key_of_the_wrong_type(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink
) -> None:
    client.set(keys.STREAM, "someone's text")
    readers: list[Callable[[], object]] = [
        sink.step, lambda: sink.step(block_ms=10), stream.last_id, lambda: stream.waited_s(""),
        lambda: stream.remove(["1-1"]), lambda: read_lag(client, stream),
    ]  # fmt: skip
    for read in readers:
        with pytest.raises(DataError, match="key recsys:stream must hold the Redis type stream, found string; see"):
            read()


def test_events_refused_because_the_stream_has_no_ids_left_are_appended_later(
    client: redis.Redis, stream: RedisStream
) -> None:
    client.xadd(keys.STREAM, {"e": b""}, id="18446744073709551615-18446744073709551615")
    with pytest.raises(DependencyError):
        stream.append([event(1)])
    client.delete(keys.STREAM)
    assert stream.append([event(1)]) == 1


def test_events_refused_because_of_a_wrong_key_type_are_appended_after_its_removal(
    client: redis.Redis, stream: RedisStream
) -> None:
    events = [event(number) for number in range(5)]
    client.rpush(keys.STREAM, "someone's list")
    with pytest.raises(DataError, match="online key recsys:stream must hold the Redis type stream, found list; see"):
        stream.append(events)
    client.delete(keys.STREAM)
    assert stream.append(events) == 5


def test_everything_the_sink_writes_expires_except_position_and_dead_letters(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink
) -> None:
    of_load = set(client.scan_iter(b"recsys:*"))
    assert of_load == {keys.CURRENT, keys.NEWEST, GENERATION.applied, GENERATION.origin}
    stream.append([event(1)])
    client.xadd(keys.STREAM, {"e": b"poison"})
    of_stream = {keys.STREAM, keys.seen_event(1)}
    assert sink.step() == 2
    lifetime = {name: client.pttl(name) for name in client.scan_iter(b"recsys:*") if name not in of_load | of_stream}
    stays = {name for name, ms in lifetime.items() if ms < 0}
    assert stays == {keys.DEAD_LETTERS, keys.DEAD_LETTERS_EVER}
    parts = {name.removeprefix(GENERATION.prefix).split(b":")[0] for name in lifetime.keys() - stays}
    assert parts == {b"user", b"post", b"author", b"topic", b"trending"}
    full = sink.config.ttl_s * 1000
    assert all(full - 60_000 < lifetime[name] <= full for name in lifetime.keys() - stays)


def test_every_click_renews_the_lifetime_of_a_trending_set(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink
) -> None:
    full = sink.config.ttl_s * 1000
    for number in (1, 2):
        stream.append([event(number)])
        sink.step()
        assert full - 60_000 < client.pttl(GENERATION.trending(None)) <= full
        client.pexpire(GENERATION.trending(None), 60_000)


# Batch after batch.

SMALL = 4
"""Records of a batch."""


@pytest.fixture
def small(sink: OnlineSink) -> OnlineSink:
    sink.config = sink.config.model_copy(update={"batch_size": SMALL})
    return sink


def busy(n_events: int) -> list[Event]:
    """Events such that every batch touches rows of the batch before."""
    kinds = ("impression", "click", "hide", "like")
    return [event(n + 1, 1 + n % 3, 100 + 7 * (n % 2), kinds[n % 4]) for n in range(n_events)]


def counts(client: redis.Redis, catalogue: Catalogue, config: OnlineConfig) -> list[dict[str, np.ndarray]]:
    posts = np.arange(catalogue.n_posts, dtype=np.int32)
    store = RedisStore(client, catalogue, config)
    return [store.read_counts(user, posts, START).counts for user in (1, 2, 3)]


def assert_counted(client: redis.Redis, sink: OnlineSink, expected: Snapshot) -> None:
    store = SnapshotStore(sink.catalogue, expected, sink.config)
    posts = np.arange(sink.catalogue.n_posts, dtype=np.int32)
    for user, found in zip((1, 2, 3), counts(client, sink.catalogue, sink.config), strict=True):
        for entity, wanted in store.read_counts(user, posts, START).counts.items():
            np.testing.assert_allclose(found[entity], wanted, rtol=1e-12, err_msg=f"user {user}: {entity}")


def test_each_batch_of_a_step_sees_the_batch_before(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, snapshot_of: SnapshotOf
) -> None:
    events = busy(5 * SMALL + 1)
    stream.append(events)
    assert small.step() == len(events)
    assert small.step() == 0
    assert_counted(client, small, snapshot_of(events))


def test_a_step_ends_after_its_largest_number_of_batches(stream: RedisStream, small: OnlineSink) -> None:
    most = to_redis._MAX_BATCHES
    stream.append(busy(SMALL * (most + 1)))
    assert small.step() == SMALL * most
    assert small.step() == SMALL


def test_a_batch_is_computed_while_the_one_before_is_written(
    stream: RedisStream, small: OnlineSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def telling(owner: object, name: str) -> None:
        act = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *arguments: (told.append(name), act(*arguments))[1])

    telling(transaction, "write")
    telling(transaction.PendingWrite, "wait")
    telling(to_redis, "apply_batch")
    stream.append(busy(3 * SMALL))
    small.step()
    assert told == ["apply_batch", "write", "apply_batch", "wait", "write", "apply_batch", "wait", "write", "wait"]


def test_rows_are_read_behind_the_write_two_batches_before(
    client: redis.Redis,
    stream: RedisStream,
    small: OnlineSink,
    snapshot_of: SnapshotOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, write = transaction.read, transaction.write
    n_reads, behind = [], []

    def reading(*arguments: object) -> transaction.Found:
        n_reads.append(True)
        return read(*arguments)

    def writing(*arguments: object) -> transaction.PendingWrite:
        behind.append(arguments[-1])
        return write(*arguments)

    monkeypatch.setattr(transaction, "read", reading)
    monkeypatch.setattr(transaction, "write", writing)
    # Users 1, 2 and 3 in turn, but the third batch is of user 1 alone and the fourth of user 2.
    events = busy(5 * SMALL)
    for nth, user in ((2, 1), (3, 2)):
        for place in range(nth * SMALL, (nth + 1) * SMALL):
            events[place] = replace(events[place], user_id=user)
    stream.append(events)
    assert small.step() == 5 * SMALL
    assert len(n_reads) == 3, "the first batch before and after the tombstones were read, and the second"
    one, two, three = GENERATION.rows("user", np.array([1, 2, 3]))
    users = [{one, two, three} & set(some or []) for some in behind]
    assert [len(behind), behind[3:]] == [5, [None, None]]
    assert users == [set(), {two}, {one, three}, set(), set()]
    assert_counted(client, small, snapshot_of(events))


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_results_computed_from_a_lost_write_are_dropped(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, snapshot_of: SnapshotOf,
    monkeypatch: pytest.MonkeyPatch, lost: int,
) -> None:  # fmt: skip
    events = busy(4 * SMALL)
    other = OnlineSink(client, stream, small.catalogue, small.config, "explicit")
    write, written = transaction.write, []

    def overtaken(*arguments: object) -> transaction.PendingWrite:
        written.append(True)
        if len(written) == lost + 1:
            monkeypatch.setattr(transaction, "write", write)
            assert other.step() > 0
        return write(*arguments)

    stream.append(events)
    monkeypatch.setattr(transaction, "write", overtaken)
    assert small.step() == lost * SMALL
    while small.step():
        pass
    assert_counted(client, small, snapshot_of(events))


@pytest.mark.parametrize("nth", [0, 1, 3])
def test_an_unreadable_record_among_many_batches_is_logged_once(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, caplog: pytest.LogCaptureFixture, nth: int
) -> None:
    events = busy(5 * SMALL)
    stream.append(events[: nth * SMALL])
    bad = client.xadd(keys.STREAM, {"e": b"poison"}).decode()
    stream.append(events[nth * SMALL :])
    small.step()
    told = [record.args[0] for record in caplog.records if "set aside" in record.msg]
    assert told == [bad]


@pytest.mark.parametrize("poison", [1, SMALL + 2, 3 * SMALL])
@pytest.mark.parametrize("fault", ["decode", "apply"])
def test_a_failing_record_is_found_among_full_batches(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, snapshot_of: SnapshotOf,
    monkeypatch: pytest.MonkeyPatch, poison: int, fault: str,
) -> None:  # fmt: skip
    events = busy(4 * SMALL)
    act = getattr(to_redis, "decode_batch" if fault == "decode" else "apply_batch")

    def failing(first: object, second: object, *rest: object) -> object:
        batch = act(first, second, *rest) if fault == "decode" else first
        payloads = [entry.payload[:8] for entry in batch.entries]
        if poison.to_bytes(8, "little") in payloads:
            raise ZeroDivisionError("cannot be counted")
        return batch if fault == "decode" else act(first, second, *rest)

    monkeypatch.setattr(to_redis, "decode_batch" if fault == "decode" else "apply_batch", failing)
    stream.append(events)
    while small.step():
        pass
    assert client.xlen(keys.DEAD_LETTERS) == 1
    assert client.get(GENERATION.applied).decode() == stream.last_id()
    assert_counted(client, small, snapshot_of([event for event in events if event.event_id != poison]))


def test_an_unreadable_release_makes_no_dead_letter(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, snapshot_of: SnapshotOf
) -> None:
    def damaged() -> Catalogue:
        raise ValueError("cannot reshape array")

    events, whole = busy(3 * SMALL), small.catalogue
    stream.append(events)
    small.latest_catalogue = damaged
    for _ in range(30):
        with pytest.raises(ValueError, match="cannot reshape"):
            small.step()
    assert not client.exists(keys.DEAD_LETTERS)
    small.latest_catalogue = lambda: whole
    while small.step():
        pass
    assert_counted(client, small, snapshot_of(events))


def test_bad_records_with_good_batches_between_them_never_stop_the_sink(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = to_redis.decode_batch

    def failing(catalogue: Catalogue, entries: Sequence[Entry], *rest: object) -> object:
        made = read(catalogue, entries, *rest)
        if any(int.from_bytes(entry.payload[:8], "little") % (SMALL + 1) == 1 for entry in entries):
            raise ZeroDivisionError
        return made

    monkeypatch.setattr(to_redis, "decode_batch", failing)
    stream.append(busy(30 * (SMALL + 1)))
    while small.step():
        pass
    assert client.xlen(keys.DEAD_LETTERS) == 30


def test_an_invalid_row_stops_the_sink_after_the_pending_batch(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, caplog: pytest.LogCaptureFixture
) -> None:
    (foreign,) = GENERATION.rows("post", np.array([114]))
    client.set(foreign, b"\x01" * 136)
    stream.append(busy(SMALL - 1))
    client.xadd(keys.STREAM, {"e": b"poison"})
    first = stream.last_id()
    stream.append([event(100 + n, post_id=114) for n in range(SMALL)])
    in_use = len(client.connection_pool._in_use_connections)
    with pytest.raises(DataError, match=f"{foreign.decode()} must have the feature fingerprint"):
        small.step()
    assert client.get(GENERATION.applied).decode() == first
    assert "set aside" in caplog.text
    assert len(client.connection_pool._in_use_connections) == in_use


def test_an_erasure_between_two_batches_of_a_step_holds(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = transaction.write, []

    def erasing(*arguments: object) -> transaction.PendingWrite:
        written.append(True)
        if len(written) == 2:
            mark_erased(client, 1, START)
            remove_rows(client, 1)
        return write(*arguments)

    monkeypatch.setattr(transaction, "write", erasing)
    stream.append(busy(4 * SMALL))
    while small.step():
        pass
    assert not client.exists(*GENERATION.rows("user", np.array([1])))
    assert client.exists(*GENERATION.rows("user", np.array([2, 3]))) == 2


@pytest.mark.parametrize("with_row", [False, True], ids=["without a row", "whose row stays"])
def test_a_batch_computed_before_an_erasure_is_not_written_after_it(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, monkeypatch: pytest.MonkeyPatch, with_row: bool
) -> None:
    gone, last = 9, 4 * SMALL
    (name,) = GENERATION.rows("user", np.array([gone]))
    if with_row:
        stream.append([event(100, gone)])
        small.step()
    before = client.get(name)
    wait = transaction.PendingWrite.wait
    told: list[bool] = []

    def erasing(writing: transaction.PendingWrite) -> bool:
        # The answer first, then the tombstone: the write under way holds, and only the next one is too old.
        told.append(wait(writing))
        if len(told) == 1:
            mark_erased(client, gone, START)
        return told[-1]

    monkeypatch.setattr(transaction.PendingWrite, "wait", erasing)
    stream.append([replace(event, user_id=gone) if event.event_id > SMALL else event for event in busy(last)])
    assert small.step() == SMALL
    assert told == [True, False]
    while small.step():
        pass
    assert client.get(GENERATION.applied).decode() == stream.last_id()
    assert client.get(name) == before


# A newer catalogue.

NEW_POST, NEW_AUTHOR = 5000, 77


def catalogue_of(folder: Path, post_id: Sequence[int], author_id: Sequence[int], first: str = "en") -> Catalogue:
    """`first`: language of the first post."""
    lake, n = Lake(str(folder)), len(post_id)
    born = pa.array(np.full(n, START)).cast(pa.timestamp("us", tz="UTC"))
    posts = {
        "post_id": list(post_id), "author_id": list(author_id), "topic": ["sports"] * n,
        "language": [first, *["en"] * (n - 1)], "text": ["a post"] * n, "created_at": born, "visible": [True] * n,
    }  # fmt: skip
    users = {"user_id": [1], "language": ["en"], "created_at": born[:1]}
    lake.write("posts", pa.table(posts), "2024-10-04", "posts")
    lake.write("users", pa.table(users), "2024-10-04", "users")
    return build_catalogue(lake, np.empty(0, np.int64), np.empty(0, np.int64))


@pytest.fixture
def older(tmp_path: Path) -> Catalogue:
    return catalogue_of(tmp_path / "older", [100], [3])


@pytest.fixture
def newer(tmp_path: Path) -> Catalogue:
    return catalogue_of(tmp_path / "newer", [100, NEW_POST], [3, NEW_AUTHOR])


def publish(releases_path: Path, catalogue: Catalogue) -> str:
    with release.staging(releases_path) as folder:
        catalogue.save(folder / "catalogue")
        return release.publish(folder, config={}, metrics={}, logs_end=START).version


def author_counts(client: redis.Redis) -> float:
    (name,) = current(client).rows("author", np.array([NEW_AUTHOR]))
    return float(unpack(AUTHOR, [name], [client.get(name)]).v.sum())


def test_records_are_counted_with_a_catalogue_that_arrived_during_the_wait(
    client: redis.Redis, stream: RedisStream, sink: OnlineSink, older: Catalogue, newer: Catalogue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    in_use, read = [older], stream.read
    sink.latest_catalogue = lambda: in_use[-1]
    stream.append([event(1, post_id=NEW_POST)])
    assert sink.step() == 1
    assert author_counts(client) == 0

    def waiting(*arguments: object) -> object:
        in_use.append(newer)
        stream.append([event(2, post_id=NEW_POST)])
        return read(*arguments)

    monkeypatch.setattr(stream, "read", waiting)
    assert sink.step(block_ms=10) == 1
    assert author_counts(client) > 0


@pytest.mark.parametrize("switched", [1, 2, 3])
def test_each_batch_is_counted_with_one_catalogue(
    client: redis.Redis, stream: RedisStream, small: OnlineSink, older: Catalogue, tmp_path: Path, switched: int
) -> None:
    n_batches, asked = 4, []
    # Its rows are others: looked up in one catalogue and counted with the other, a post would be of another language.
    newer = catalogue_of(tmp_path / "newer", [7, 100, NEW_POST], [3, 3, NEW_AUTHOR], first="de")
    releases_path = tmp_path / "releases"
    release.use(releases_path, publish(releases_path, older))
    version, of_now = publish(releases_path, newer), CurrentCatalogue(releases_path)

    def switching() -> Catalogue:
        asked.append(True)
        if len(asked) == 1 + switched:
            release.use(releases_path, version)
        return of_now()

    small.latest_catalogue = switching
    stream.append([event(n + 1, post_id=(100, NEW_POST)[n % 2]) for n in range(n_batches * SMALL)])
    assert small.step() == n_batches * SMALL
    assert small.step() == 0
    of_each, of_newer = n_batches * SMALL / 2, (n_batches - switched) * SMALL / 2
    for entity, row_id, clicks in (
        (POST, 100, of_each), (POST, NEW_POST, of_each), (AUTHOR, 3, of_each), (AUTHOR, NEW_AUTHOR, of_newer),
    ):  # fmt: skip
        (name,) = GENERATION.rows(entity.name, np.array([row_id]))
        counted = unpack(entity, [name], [client.get(name)]).v[0]
        assert counted[entity.actions.index("click")].tolist() == [clicks] * len(entity.half_lives)
        assert counted.sum() == clicks * len(entity.half_lives)
    for language, clicks in ((None, [of_each, of_each]), ("en", [of_each, of_newer]), ("de", [])):
        scores = [score for _, score in client.zrange(GENERATION.trending(language), 0, -1, withscores=True)]
        assert sorted(scores) == sorted(clicks)


def test_the_catalogue_is_that_of_the_release_in_use_and_loaded_once(
    tmp_path: Path, older: Catalogue, newer: Catalogue
) -> None:
    releases_path = tmp_path / "releases"
    release.use(releases_path, publish(releases_path, older))
    version, of_now = publish(releases_path, newer), CurrentCatalogue(releases_path)
    first = of_now()
    assert first.post_id.tolist() == [100]
    assert of_now() is first
    release.use(releases_path, version)
    second = of_now()
    assert second.post_id.tolist() == [100, NEW_POST]
    release.clear_current(releases_path)
    assert of_now() is second


def test_a_running_consumer_counts_new_posts_in_full_from_the_release_that_has_them(
    tmp_path: Path, older: Catalogue, newer: Catalogue, snapshot_of: SnapshotOf
) -> None:
    config, stop = Config(data_dir=tmp_path), threading.Event()
    release.use(config.releases_path, publish(config.releases_path, older))
    version = publish(config.releases_path, newer)
    with connect(config.online, config.data_dir) as connection:
        client, stream = connection.client, RedisStream(connection.client, config.online)
        load_snapshot(client, older, snapshot_of([]), config.online, SnapshotReach("", START))
        consumer = threading.Thread(target=consume, args=(config, stop))
        consumer.start()
        try:
            for number, expected in ((1, False), (2, True)):
                stream.append([replace(event(number), post_id=NEW_POST)])
                deadline = time.monotonic() + 20
                while client.get(current(client).applied).decode() != stream.last_id():
                    assert time.monotonic() < deadline, "the event is applied"
                    time.sleep(0.02)
                assert (author_counts(client) > 0) is expected
                release.use(config.releases_path, version)
        finally:
            stop.set()
            consumer.join()
