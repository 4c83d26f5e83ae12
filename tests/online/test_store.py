"""Redis and memory answer alike, and a load replaces everything at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.features import decay
from recsys.features.point_in_time import Snapshot
from recsys.features.spec import AUTHOR, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.generations import clear
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.rows.counter_layout import unpack
from recsys.online.rows.user_layout import unpack_users
from recsys.online.store import OnlineStore, RedisStore, SnapshotStore
from recsys.online.stream import retention
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Event, Returned, decode
from recsys.types import DAY, Ids, Rows

from .conftest import START

NOW = START + 4 * DAY
RandomLog = Callable[[int, int], list[Event]]
SnapshotOf = Callable[[Sequence[Event]], Snapshot]


def assert_same_answers(one: OnlineStore, other: OnlineStore, catalogue: Catalogue, users: Sequence[int]) -> None:
    # Repeats and any order: candidates share authors and topics.
    posts: Rows = np.random.default_rng(0).integers(0, catalogue.n_posts, 60).astype(np.int32)
    for user in users:
        a, b = one.read_counts(user, posts, NOW), other.read_counts(user, posts, NOW)
        assert a.counts.keys() == b.counts.keys()
        # A request has read its user's row already; the counters in it are the same.
        again = one.read_counts(user, posts, NOW, one.read_user(user, -1, NOW).row)
        for name in a.counts:
            np.testing.assert_array_equal(again.counts[name], a.counts[name], err_msg=name)
        for name in a.counts:
            np.testing.assert_allclose(a.counts[name], b.counts[name], rtol=1e-12, atol=0, err_msg=name)
        for language in range(-1, len(catalogue.languages)):
            read, expected = one.read_user(user, language, NOW), other.read_user(user, language, NOW)
            np.testing.assert_array_equal(read.history, expected.history)
            np.testing.assert_array_equal(read.trending, expected.trending)


def test_redis_and_memory_give_the_same_numbers_after_a_load(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    snapshot = snapshot_of(random_log(0, 2000))
    load_snapshot(client, catalogue, snapshot, config, SnapshotReach("7-0", NOW))
    store = RedisStore(client, catalogue, config)
    assert_same_answers(store, SnapshotStore(catalogue, snapshot, config), catalogue, [*catalogue.user_id, 999])
    counts = store.read_counts(1, np.arange(catalogue.n_posts, dtype=np.int32), NOW)
    assert counts.watermark == "7-0"
    assert {name: bool(value.any()) for name, value in counts.counts.items()} == dict.fromkeys(counts.counts, True)


def test_packed_reads_equal_plain_commands_bit_for_bit(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(3, 2000)), config, SnapshotReach("", NOW))
    store = RedisStore(client, catalogue, config)
    posts = np.random.default_rng(1).integers(0, catalogue.n_posts, 70).astype(np.int32)
    author = catalogue.author[posts]
    topic_key = keys.topic_keys(catalogue)[catalogue.likely_topic[posts] + 1]
    author_id = np.asarray(catalogue.author_id[np.maximum(author, 0)])

    def plain(entity: Entity, ids: Ids) -> tuple[list[bytes], list[bytes | None]]:
        names = keys.Generation(1).rows(entity.name, ids)
        return names, [send(client, "GET", name) for name in names]

    every = np.arange(len(posts))
    for user_id in (1, 5, 999):
        user = unpack_users(*plain(USER, np.array([user_id])))
        of_author = np.where(author < 0, -1, lookup(user.authors.key, author_id))
        expected = {
            "post": decay.read(unpack(POST, *plain(POST, catalogue.post_id[posts])), POST, every, NOW),
            "author": decay.read(
                unpack(AUTHOR, *plain(AUTHOR, author_id)), AUTHOR, np.where(author < 0, -1, every), NOW
            ),
            "topic": decay.read(unpack(TOPIC, *plain(TOPIC, topic_key)), TOPIC, every, NOW),
            "user": decay.read(user.states, USER, np.zeros(1, np.int64), NOW),
            "user_topic": decay.read(user.topics.states, USER_TOPIC, lookup(user.topics.key, topic_key), NOW),
            "user_author": decay.read(user.authors.states, USER_AUTHOR, of_author, NOW),
        }
        counts = store.read_counts(user_id, posts, NOW).counts
        assert counts.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(counts[name], expected[name], err_msg=name)


def test_a_user_comes_with_the_position_their_history_reflects_and_the_moment_of_their_erasure(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    snapshot = snapshot_of(random_log(0, 300))
    load_snapshot(client, catalogue, snapshot, config, SnapshotReach("", NOW))
    store = RedisStore(client, catalogue, config)
    assert (store.read_user(1, -1, NOW).watermark, store.read_user(1, -1, NOW).erased_at) == ("", None)
    client.set(keys.Generation(1).applied, "7-3")
    client.hset(keys.ERASED, "1", NOW - 5)
    assert (store.read_user(1, -1, NOW).watermark, store.read_user(1, -1, NOW).erased_at) == ("7-3", NOW - 5)
    assert store.read_user(2, -1, NOW).erased_at is None
    in_memory = SnapshotStore(catalogue, snapshot, config).read_user(1, -1, NOW)
    assert (in_memory.watermark, in_memory.erased_at) == ("", None)


def test_without_candidates_read_counts_gives_empty_arrays(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 300)), config, SnapshotReach("", NOW))
    counts = RedisStore(client, catalogue, config).read_counts(1, np.empty(0, np.int32), NOW).counts
    assert {name: len(value) for name, value in counts.items()} == {
        "user": 1, "post": 0, "author": 0, "topic": 0, "user_topic": 0, "user_author": 0,
    }  # fmt: skip
    assert counts["user"].any()


def test_a_post_without_author_has_no_author_counts_and_counts_under_the_missing_topic(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 2000)), config, SnapshotReach("", NOW))
    unknown, described = catalogue.post_rows([9, 107])
    assert catalogue.author[unknown] == catalogue.likely_topic[unknown] == -1
    counts = RedisStore(client, catalogue, config).read_counts(2, np.array([unknown, described], np.int32), NOW).counts
    assert not counts["author"][0].any()
    assert not counts["user_author"][0].any()
    assert counts["author"][1].any()
    assert counts["topic"][0].any()


def test_an_unknown_user_reads_as_empty_and_the_watermark_of_a_fresh_load_too(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 300)), config, SnapshotReach("", NOW))
    store = RedisStore(client, catalogue, config)
    read = store.read_user(-(2**60), -1, NOW)
    assert len(read.history) == len(read.returned) == 0
    assert len(read.trending) > 0
    counts = store.read_counts(-(2**60), np.array([3], np.int32), NOW)
    assert counts.counts["user"].shape[0] == 1
    assert not counts.counts["user"].any()
    assert counts.watermark == ""


def test_rows_survive_a_new_catalogue_with_other_row_numbers(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 2000)), config, SnapshotReach("", NOW))
    post = catalogue.post_rows([107])
    topic = int(catalogue.likely_topic[post[0]])
    # A topic that sorts before all others moves every topic row up by one.
    moved = replace(catalogue, topics=("a new one", *catalogue.topics), topic=catalogue.topic + (catalogue.topic >= 0))
    assert moved.likely_topic[post[0]] == topic + 1
    before = RedisStore(client, catalogue, config).read_counts(1, post, NOW).counts
    after = RedisStore(client, moved, config).read_counts(1, post, NOW).counts
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_reading_before_any_load_says_which_command_loads(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig
) -> None:
    store = RedisStore(client, catalogue, config)
    with pytest.raises(DataError, match="run `recsys train`"):
        store.read_counts(1, np.array([0], np.int32), NOW)
    with pytest.raises(DataError, match="run `recsys train`"):
        store.read_user(1, 0, NOW)


def test_readers_notice_a_new_generation_at_once_and_old_rows_are_gone(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    first, second = snapshot_of(random_log(1, 500)), snapshot_of(random_log(2, 500))
    load_snapshot(client, catalogue, first, config, SnapshotReach("1-0", NOW))
    client.set(keys.Generation(1).rows("post", np.array([1]))[0], b"left by a load that was killed")
    store = RedisStore(client, catalogue, config)
    assert_same_answers(store, SnapshotStore(catalogue, first, config), catalogue, [1, 2])
    load_snapshot(client, catalogue, second, config, SnapshotReach("2-0", NOW))
    assert_same_answers(store, SnapshotStore(catalogue, second, config), catalogue, [1, 2])
    assert store.read_counts(1, np.array([0], np.int32), NOW).watermark == "2-0"
    assert list(client.scan_iter(keys.Generation(1).prefix + b"*")) == []


def test_a_load_that_was_overtaken_changes_nothing(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    snapshot = snapshot_of(random_log(1, 200))

    def overtake(done: int, total: int) -> None:
        if done == total:
            client.set(keys.CURRENT, 50)

    with pytest.raises(DependencyError, match="overtaken by a newer load"):
        load_snapshot(client, catalogue, snapshot, config, SnapshotReach("", NOW), overtake)
    assert client.get(keys.CURRENT) == b"50"


def test_progress_counts_rows_to_the_end(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    seen: list[tuple[int, int]] = []
    reach = SnapshotReach("", NOW)
    load_snapshot(client, catalogue, snapshot_of(random_log(1, 300)), config, reach, lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_load_whose_watermark_was_trimmed_away_is_refused(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    stream = RedisStream(client, config)
    stream.append(random_log(1, 10))
    middle, last = stream.read("", 10)[4].id, stream.read("", 10)[-1].id
    assert retention.trim(client, middle) == 4
    snapshot = snapshot_of(random_log(1, 10))
    load_snapshot(client, catalogue, snapshot, config, SnapshotReach(last, NOW))
    with pytest.raises(DataError, match=f"trimmed up to {middle}; run `recsys train` again"):
        load_snapshot(client, catalogue, snapshot, config, SnapshotReach("", NOW))


def test_returned_posts_are_stored_newest_first_bounded_and_on_the_stream(
    client: redis.Redis,
    catalogue: Catalogue,
    config: OnlineConfig,
    random_log: RandomLog,
    snapshot_of: SnapshotOf,
    returned_record: Callable[..., Returned],
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 100)), config, SnapshotReach("", NOW))
    store = RedisStore(client, catalogue, config)
    store.record_returned(returned_record(1, 5, [100, 107, 114, 121], NOW))
    second = returned_record(2, 5, [128, 135, 142], NOW + 1)
    store.record_returned(second)
    store.record_returned(second)
    returned = catalogue.post_id[store.read_user(5, -1, NOW).returned]
    assert set(returned[:3]) == {128, 135, 142}
    assert set(returned[3:]) < {100, 107, 114, 121}
    assert len(returned) == config.returned_size == client.zcard(keys.returned(5))
    assert [record.request_id for record in decode(RedisStream(client, config).read("", 10)).returned] == [1, 2]
    assert len(store.read_user(6, -1, NOW).returned) == 0
    assert 0 < client.pttl(keys.returned(5)) <= config.ttl_s * 1000


def test_a_store_without_its_server_says_so(catalogue: Catalogue, config: OnlineConfig) -> None:
    away = redis.Redis(unix_socket_path="/nonexistent/redis.sock", retry=Retry(NoBackoff(), 0))
    with pytest.raises(DependencyError, match="does not answer"):
        RedisStore(away, catalogue, config).read_user(1, 0, NOW)


def test_clear_removes_every_key_of_the_project_and_no_other(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 100)), config, SnapshotReach("", NOW))
    client.set(b"somebody else's", 1)
    clear(client)
    assert client.keys() == [b"somebody else's"]
