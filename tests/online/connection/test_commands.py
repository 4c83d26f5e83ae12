"""Failures of Redis: each cause has its own error with a remedy."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.features.point_in_time import Snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online.connection.commands import PendingAnswers, explain, packet, send, send_packed, send_together
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.store import RedisStore
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Event, Returned

from ..conftest import START


@pytest.fixture
def full(client: redis.Redis) -> Iterator[Callable[[], None]]:
    """Make the server full until the block ends."""

    def fill() -> None:
        client.config_set("maxmemory", 1)

    yield fill
    client.config_set("maxmemory", 0)


def test_a_full_redis_refuses_writes_with_its_cause_reads_go_on_and_nothing_is_lost(
    client: redis.Redis,
    catalogue: Catalogue,
    config: OnlineConfig,
    full: Callable[[], None],
    random_log: Callable[[int, int], list[Event]],
    snapshot_of: Callable[[Sequence[Event]], Snapshot],
    returned_record: Callable[..., Returned],
) -> None:
    log = random_log(0, 300)
    load_snapshot(client, catalogue, snapshot_of(log), config, SnapshotReach("", START))
    store, stream = RedisStore(client, catalogue, config), RedisStream(client, config)
    posts = np.arange(catalogue.n_posts, dtype=np.int32)
    stream.append(log[:10])
    before, user = store.read_counts(1, posts, START), store.read_user(1, -1, START)
    assert len(user.trending) > 0
    full()
    with pytest.raises(DependencyError, match=r"^the online store is full and refuses to write: .*raise its maxmemory"):
        stream.append(log[5:20])
    with pytest.raises(DependencyError, match="is full and refuses to write"):
        store.record_returned(returned_record(1, 5, [100]))
    np.testing.assert_array_equal(store.read_user(1, -1, START).trending, user.trending)
    np.testing.assert_array_equal(store.read_user(1, -1, START).history, user.history)
    after = store.read_counts(1, posts, START)
    for name in before.counts:
        np.testing.assert_array_equal(before.counts[name], after.counts[name])
    client.config_set("maxmemory", 0)
    assert stream.append(log[5:20]) == 10
    store.record_returned(returned_record(1, 5, [100]))
    assert len(stream.read("", 100)) == 21


def test_a_replica_and_an_absent_server_give_different_errors(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(DependencyError, match=r"online\.url names a replica.*name the primary"):
            send(client, "SET", "a", 1)
        with pytest.raises(DependencyError, match=r"online\.url names a replica"):
            send_together(client, [["SET", "a", 1]])
    finally:
        client.replicaof("NO", "ONE")


def test_a_server_that_is_gone_does_not_answer(client: redis.Redis) -> None:
    away = redis.Redis(unix_socket_path="/nonexistent/redis.sock", retry=Retry(NoBackoff(), 0))
    for ask in (
        lambda: send(away, "GET", "a"),
        lambda: send_together(away, [["GET", "a"]]),
        lambda: send_packed(away, b"GET", 1, keys.packed([b"a"])),
    ):
        with pytest.raises(DependencyError, match=r"does not answer: .*check that Redis is running"):
            ask()


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["GET", b"k"], "string"),
        (["ZREVRANGE", b"k", 0, 1], "zset"),
        (["HGET", b"k", "f"], "hash"),
        (["XRANGE", b"k", "-", "+"], "stream"),
        (["XINFO", "STREAM", b"k"], "stream"),
        (["XREAD", "COUNT", 1, "STREAMS", b"k", "0-0"], "stream"),
    ],
)
def test_a_key_of_the_wrong_type_is_named_with_both_types(
    client: redis.Redis, command: list[object], expected: str
) -> None:
    client.lpush("k", 1)
    rule = rf"online key k must hold the Redis type {expected}, found list; .*redis-cli DEL k"
    with pytest.raises(DataError, match=rule):
        send(client, *command)
    with pytest.raises(DataError, match=rule):
        send_together(client, [["SET", "other", 1], command])


def test_a_wrong_type_inside_a_script_is_a_data_error(client: redis.Redis) -> None:
    client.set(keys.STREAM, "not a stream")
    with pytest.raises(DataError, match="holds the wrong type"):
        send(client, "EVAL", "return redis.call('XLEN', KEYS[1])", 1, keys.STREAM)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (redis.BusyLoadingError("Redis is loading the dataset in memory"), "still reading its data"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left"), "space left on its disk"),
        (redis.ResponseError("BUSY Redis is busy running a script"), "SCRIPT KILL"),
        (redis.TimeoutError("Timeout reading from socket"), r"took too long.*online\.timeout_s"),
        (redis.AuthenticationError("WRONGPASS invalid"), r"correct user and password in online\.url"),
        (redis.exceptions.NoPermissionError("no permissions to run 'eval'"), r"correct user and password"),
        (redis.ResponseError("unknown command"), r"Redis 6\.2 or newer"),
        (redis.ConnectionError(), "does not answer: ConnectionError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_cause_has_its_remedy(error: redis.RedisError, sentence: str) -> None:
    told = explain(error)
    assert isinstance(told, DependencyError)
    with pytest.raises(DependencyError, match=sentence):
        raise told


def test_packed_commands_answer_like_any_other(client: redis.Redis) -> None:
    client.mset({"a": b"\r\n$", "b": b""})
    words = [b"a", b"missing", b"b"]
    assert send_packed(client, b"MGET", 3, keys.packed(words)) == send(client, "MGET", *words) == [b"\r\n$", None, b""]
    with pytest.raises(DependencyError, match="refuses a command"):
        send_packed(client, b"GET", 2, keys.packed([b"a", b"b"]))
    assert send_packed(client, b"GET", 1, keys.packed([b"a"])) == b"\r\n$"


def test_a_packed_command_is_retried_on_a_dropped_connection(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("a", 1)
    pool = client.connection_pool
    get_connection, dropped = pool.get_connection, []

    def dropping() -> object:
        connection = get_connection()
        connection._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
        dropped.append(connection)
        return connection

    monkeypatch.setattr(pool, "get_connection", dropping)
    assert send_packed(client, b"GET", 1, keys.packed([b"a"])) == b"1"
    assert len(dropped) == 1


def test_an_interrupted_read_leaves_no_half_read_connection(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("a", 1)
    client.set("b", 2)
    connection = client.connection_pool.get_connection()
    client.connection_pool.release(connection)

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "read_response", interrupt)
    with pytest.raises(KeyboardInterrupt):
        send_packed(client, b"GET", 1, keys.packed([b"a"]))
    monkeypatch.undo()
    assert send_packed(client, b"GET", 1, keys.packed([b"b"])) == b"2"


# A command whose answer is taken later.


def send_later(client: redis.Redis, *command: bytes) -> PendingAnswers:
    return PendingAnswers(client, [packet(command[0], len(command) - 1, keys.packed(command[1:]))])


def n_in_use(client: redis.Redis) -> int:
    return len(client.connection_pool._in_use_connections)


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), redis.TimeoutError("too slow")], ids=lambda f: type(f).__name__)
def test_the_answer_of_an_abandoned_command_is_not_given_to_the_next(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, fault: BaseException
) -> None:
    def interrupted() -> None:
        raise fault

    client.set("a", 1)
    in_use = n_in_use(client)
    underway = send_later(client, b"BLPOP", b"an empty list", b"0.1")  # nothing to read until the next command waits
    with monkeypatch.context() as patch:
        patch.setattr(underway._connection, "read_response", interrupted)
        with pytest.raises((KeyboardInterrupt, DependencyError)):
            underway.wait()
    assert n_in_use(client) == in_use
    assert send(client, "GET", "a") == b"1"
    assert send_packed(client, b"GET", 1, keys.packed([b"a"])) == b"1"


def test_a_connection_that_breaks_within_an_answer_is_not_reused(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("a", 1)
    client.set("large", bytes(8 << 20))  # more than waits in a socket: a part arrives, the rest never
    in_use = n_in_use(client)
    me = send_later(client, b"CLIENT", b"ID")
    connection, number = me._connection, me.wait()[0]
    underway = send_later(client, b"GET", b"large")
    assert underway._connection is connection
    # The client's own way of leaving a connection is taken from it: ours has to do.
    monkeypatch.setattr(connection, "read_response", partial(connection.read_response, disconnect_on_error=False))
    with redis.Redis.from_url(f"unix://{connection.path}") as other:
        assert other.client_kill_filter(_id=number) == 1
    with pytest.raises(DependencyError, match="does not answer"):
        underway.wait()
    assert not connection.is_connected
    assert n_in_use(client) == in_use
    assert [send(client, "GET", "a"), *send_later(client, b"GET", b"a").wait()] == [b"1", b"1"]


def test_a_half_sent_command_does_not_swallow_the_next_one(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.set("a", 1)
    connection = client.connection_pool.get_connection()
    client.connection_pool.release(connection)
    in_use, send_all = n_in_use(client), connection._sock.sendall

    def by_half(packets: Sequence[bytes]) -> None:
        send_all(packets[0][: len(packets[0]) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(connection, "send_packed_command", by_half)
        with pytest.raises(KeyboardInterrupt):
            send_later(client, b"SET", b"b", bytes(1000))
    assert n_in_use(client) == in_use
    assert send(client, "GET", "a") == b"1"
    assert not client.exists("b")


def test_a_refused_pending_command_leaves_its_connection_usable(client: redis.Redis) -> None:
    in_use = n_in_use(client)
    underway = send_later(client, b"GET", b"a", b"b")
    connection = underway._connection
    with pytest.raises(DependencyError, match="refuses a command"):
        underway.wait()
    assert connection.is_connected
    assert n_in_use(client) == in_use
