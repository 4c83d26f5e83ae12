"""Damage in Redis is an error that names the key, never a number."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.features.point_in_time import Snapshot
from recsys.features.spec import USER, USER_TOPIC
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online.connection import commands
from recsys.online.connection.client import connect
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.store import RedisStore, SnapshotStore
from recsys.online.stream.records import LATEST, Event
from recsys.types import DAY, Rows

from .conftest import START

NOW = START + 4 * DAY
POST_ID, USER_ID = 107, 1
GENERATION = keys.Generation(1)


@pytest.fixture
def snapshot(
    random_log: Callable[[int, int], list[Event]], snapshot_of: Callable[[Sequence[Event]], Snapshot]
) -> Snapshot:
    return snapshot_of(random_log(0, 2000))


@pytest.fixture
def store(client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, snapshot: Snapshot) -> RedisStore:
    load_snapshot(client, catalogue, snapshot, config, SnapshotReach("7-0", NOW))
    return RedisStore(client, catalogue, config)


@pytest.fixture
def posts(catalogue: Catalogue) -> Rows:
    return catalogue.post_rows([100, POST_ID, 9])


def key_of(entity: str, catalogue: Catalogue) -> bytes:
    """Key of a row that every read of `posts` for `USER_ID` needs."""
    row = catalogue.post_rows([POST_ID])
    number = {
        "post": np.array([POST_ID]),
        "author": catalogue.author_id[catalogue.author[row]],
        "topic": keys.topic_keys(catalogue)[catalogue.likely_topic[row] + 1],
        "user": np.array([USER_ID]),
    }[entity]
    return GENERATION.rows(entity, number)[0]


def damage(client: redis.Redis, key: bytes, word: int, value: float | int) -> None:
    """Overwrite one word of a packed row; negative words count from the end."""
    raw = client.get(key)
    assert isinstance(raw, bytes)
    words = np.frombuffer(raw, np.int64).copy()
    (words.view(np.float64) if isinstance(value, float) else words)[word] = value
    client.set(key, words.tobytes())


@pytest.mark.parametrize("entity", ["post", "author", "topic", "user"])
def test_a_row_of_the_wrong_type_does_not_read_as_absent(
    client: redis.Redis, catalogue: Catalogue, store: RedisStore, posts: Rows, entity: str
) -> None:
    key = key_of(entity, catalogue)
    store.read_counts(USER_ID, posts, NOW)
    client.delete(key)
    store.read_counts(USER_ID, posts, NOW)
    client.lpush(key, 1)
    rule = f"online key {key.decode()} must hold the Redis type string, found list; run `recsys train`"
    with pytest.raises(DataError, match=rule):
        store.read_counts(USER_ID, posts, NOW)
    if entity == "user":
        with pytest.raises(DataError, match=rule):
            store.read_user(USER_ID, -1, NOW)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (keys.returned(USER_ID), "zset"),
        (GENERATION.trending(None), "zset"),
        (keys.ERASED, "hash"),
        (keys.CURRENT, "string"),
        (GENERATION.applied, "string"),
    ],
)
def test_any_other_key_of_the_wrong_type_is_refused(
    client: redis.Redis, store: RedisStore, posts: Rows, key: bytes, expected: str
) -> None:
    store.read_user(USER_ID, -1, NOW)
    client.delete(key)
    client.lpush(key, 1)
    rule = f"online key {key.decode()} must hold the Redis type {expected}, found list; "
    with pytest.raises(DataError, match=rule):
        store.read_user(USER_ID, -1, NOW)
    if expected == "string":
        with pytest.raises(DataError, match=rule):
            store.read_counts(USER_ID, posts, NOW)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        (keys.CURRENT, "one", "must hold a whole number, found 'one'"),
        (GENERATION.applied, "yesterday", "must hold a stream id, found 'yesterday'"),
        (GENERATION.applied, None, "must hold a stream id, found nothing"),
    ],
)
def test_an_invalid_pointer_is_refused(
    client: redis.Redis, store: RedisStore, posts: Rows, key: bytes, value: str | None, rule: str
) -> None:
    store.read_user(USER_ID, -1, NOW)
    if value is None:
        client.delete(key)
    else:
        client.set(key, value)
    for read in (lambda: store.read_user(USER_ID, -1, NOW), lambda: store.read_counts(USER_ID, posts, NOW)):
        with pytest.raises(DataError, match=f"online key {key.decode()} {rule}; run `recsys train`"):
            read()


def test_a_set_member_of_the_wrong_length_is_refused(client: redis.Redis, store: RedisStore) -> None:
    client.zadd(keys.returned(USER_ID), {"107": 1.0})
    with pytest.raises(DataError, match=r"recsys:returned:1 must hold members of 8 bytes, found '107'"):
        store.read_user(USER_ID, -1, NOW)


def test_a_row_written_after_the_mget_and_before_the_check_is_read(
    client: redis.Redis, catalogue: Catalogue, store: RedisStore, posts: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store.read_counts(USER_ID, posts, NOW)
    key = key_of("post", catalogue)
    row = client.getdel(key)
    assert isinstance(row, bytes)
    asked: list[bytes] = []

    def send_packed(to: redis.Redis, name: bytes, n: int, arguments: bytes) -> object:
        if name == b"EXISTS":
            client.set(key, row)
        asked.append(name)
        return real(to, name, n, arguments)

    real = commands.send_packed
    monkeypatch.setattr("recsys.online.store.send_packed", send_packed)
    after = store.read_counts(USER_ID, posts, NOW)
    assert asked[:3] == [b"MGET", b"EXISTS", b"MGET"]
    assert before.counts["post"][1].any()
    np.testing.assert_array_equal(before.counts["post"], after.counts["post"])


@pytest.mark.parametrize("entity", ["post", "author", "topic", "user"])
@pytest.mark.parametrize(
    ("word", "value", "rule"),
    [
        (0, 42, "must have the feature fingerprint .*, found 42"),
        (1, float("nan"), "must have its.* time between 1970 and 2169, found nan"),
        (1, -1.0, "must have its.* time between 1970 and 2169, found -1.0"),
        (1, 2.0 * LATEST, "must have its.* time between 1970 and 2169, found 1"),
        (2, float("nan"), "must have its.* counts finite and >= 0, found nan"),
        (4, float("inf"), "must have its.* counts finite and >= 0, found inf"),
        (7, -0.5, "must have its.* counts finite and >= 0, found -0.5"),
    ],
)
def test_a_damaged_row_of_the_right_length_is_refused(
    client: redis.Redis,
    catalogue: Catalogue,
    store: RedisStore,
    posts: Rows,
    entity: str,
    word: int,
    value: float | int,
    rule: str,
) -> None:
    key = key_of(entity, catalogue)
    damage(client, key, word, value)
    with pytest.raises(DataError, match=rf"online row {key.decode()} {rule}.*; run `recsys train`"):
        store.read_counts(USER_ID, posts, NOW)
    if entity == "user":
        with pytest.raises(DataError, match=rf"online row {key.decode()} {rule}"):
            store.read_user(USER_ID, -1, NOW)


@pytest.mark.parametrize("entity", ["post", "author", "topic", "user"])
@pytest.mark.parametrize("cut", [-1, -8, -16, 0])
def test_a_truncated_row_is_refused(
    client: redis.Redis, catalogue: Catalogue, store: RedisStore, posts: Rows, entity: str, cut: int
) -> None:
    key = key_of(entity, catalogue)
    row = client.get(key)
    assert isinstance(row, bytes)
    client.set(key, row[:cut])
    with pytest.raises(DataError, match=rf"online row {key.decode()} must have .*bytes.*, found {len(row[:cut])}; run"):
        store.read_counts(USER_ID, posts, NOW)
    if entity == "user":
        with pytest.raises(DataError, match=rf"online row {key.decode()} must have .*bytes.*, found {len(row[:cut])}"):
            store.read_user(USER_ID, -1, NOW)


N_OWN = 2 + int(np.prod(USER.shape))
TOPIC_WIDTH = 2 + int(np.prod(USER_TOPIC.shape))


@pytest.mark.parametrize(
    ("word", "value", "rule"),
    [
        (N_OWN, -1, "for the -1 topics"),
        (N_OWN + 1, 1, "topics, 1 authors and"),
        (N_OWN + 2, 0, "authors and 0 clicks in its header"),
        (N_OWN + 3, 2**62, "must list each topic once, by rising key"),
        (N_OWN + 4, float("nan"), "must have its topics' time between 1970 and 2169, found nan"),
        (N_OWN + 3 + TOPIC_WIDTH - 1, float("inf"), "must have its topics' counts finite and >= 0, found inf"),
        (-1, -1, "must hold clicks between 1970 and 2169, found one at -1 microseconds"),
        (-1, LATEST, "must list clicks newest first"),
    ],
)
def test_a_user_row_whose_entry_counts_do_not_fit_is_refused(
    client: redis.Redis,
    catalogue: Catalogue,
    store: RedisStore,
    posts: Rows,
    word: int,
    value: float | int,
    rule: str,
) -> None:
    key = key_of("user", catalogue)
    damage(client, key, word, value)
    for read in (lambda: store.read_user(USER_ID, -1, NOW), lambda: store.read_counts(USER_ID, posts, NOW)):
        with pytest.raises(DataError, match=rf"online row {key.decode()} .*{rule}.*; run `recsys train`"):
            read()


def test_a_number_of_entries_that_overflows_to_the_right_length_is_refused(
    client: redis.Redis, catalogue: Catalogue, store: RedisStore, posts: Rows
) -> None:
    key = key_of("user", catalogue)
    row = client.get(key)
    assert isinstance(row, bytes)
    n_topics = int(np.frombuffer(row, np.int64)[N_OWN]) + 2**61
    assert 2**61 * TOPIC_WIDTH % 2**64 == 0
    damage(client, key, N_OWN, n_topics)
    with pytest.raises(DataError, match=rf"online row {key.decode()} .* for the {n_topics} topics"):
        store.read_counts(USER_ID, posts, NOW)


def test_a_hanging_server_times_out_and_is_read_again_when_it_answers(
    tmp_path: Path, catalogue: Catalogue, config: OnlineConfig, snapshot: Snapshot, posts: Rows
) -> None:
    config = config.model_copy(update={"timeout_s": 1.0})
    expected = SnapshotStore(catalogue, snapshot, config)
    with connect(config, tmp_path) as connection:
        load_snapshot(connection.client, catalogue, snapshot, config, SnapshotReach("", NOW))
        store = RedisStore(connection.client, catalogue, config)
        store.read_counts(USER_ID, posts, NOW)
        pid = int(connection.client.info("server")["process_id"])
        os.kill(pid, signal.SIGSTOP)
        try:
            for read in (lambda: store.read_counts(2, posts, NOW), lambda: store.read_user(2, -1, NOW)):
                start = time.monotonic()
                with pytest.raises(DependencyError, match=r"took too long.*online\.timeout_s"):
                    read()
                assert 0.9 < time.monotonic() - start < 3.5
        finally:
            os.kill(pid, signal.SIGCONT)
        for user in (USER_ID, 2, 3):
            read_again = store.read_counts(user, posts, NOW).counts
            for name, counts in expected.read_counts(user, posts, NOW).counts.items():
                np.testing.assert_allclose(read_again[name], counts, rtol=1e-12, atol=0)
