"""What users were sent before, loaded from the lake."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
import redis

from recsys.config import OnlineConfig
from recsys.features.point_in_time import Snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online import seen_posts as returned_module
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.rows.trending import from_members
from recsys.online.seen_posts import load_returned
from recsys.online.store import RedisStore
from recsys.online.stream.records import Event
from recsys.online.tombstones import mark_erased

from .conftest import START


def sent(rows: Sequence[tuple[int, int, int]]) -> pa.Table:
    """Of (user, post, time) triples."""
    user, post, time = np.array(rows, np.int64).T
    return pa.table({"user_id": user, "post_id": post, "now": pa.array(time).cast(pa.timestamp("us", tz="UTC"))})


def remembered(client: redis.Redis, user_id: int) -> dict[int, float]:
    found = client.zrange(keys.returned(user_id), 0, -1, withscores=True)
    return {int(from_members([member])[0]): score for member, score in found}


def test_each_user_gets_back_the_newest_of_what_they_were_sent_once(
    client: redis.Redis,
    catalogue: Catalogue,
    config: OnlineConfig,
    random_log: Callable[[int, int], list[Event]],
    snapshot_of: Callable[[Sequence[Event]], Snapshot],
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 100)), config, SnapshotReach("", START))
    posts = catalogue.post_id[: config.returned_size + 2]
    rows = pa.table(
        {
            "user_id": [*[5] * len(posts), 7],
            "post_id": [*posts, posts[0]],
            "now": pa.array(START + np.arange(len(posts) + 1)).cast(pa.timestamp("us", tz="UTC")),
        }
    )
    store = RedisStore(client, catalogue, config)
    for _ in range(2):
        load_returned(client, rows, config)
        np.testing.assert_array_equal(catalogue.post_id[store.read_user(5, -1, START).returned], posts[:1:-1])
        np.testing.assert_array_equal(catalogue.post_id[store.read_user(7, -1, START).returned], posts[:1])
    assert client.zcard(keys.returned(5)) == config.returned_size


def test_erased_people_keep_only_posts_sent_after_the_erasure(client: redis.Redis, config: OnlineConfig) -> None:
    mark_erased(client, 5, START + 1)
    rows = pa.table(
        {
            "user_id": [5, 5, 7],
            "post_id": [100, 107, 100],
            "now": pa.array([START + 1, START + 2, START]).cast(pa.timestamp("us", tz="UTC")),
        }
    )
    load_returned(client, rows, config)
    assert from_members(client.zrange(keys.returned(5), 0, -1)).tolist() == [107]
    assert from_members(client.zrange(keys.returned(7), 0, -1)).tolist() == [100]


def test_a_post_that_was_sent_twice_has_its_later_time_and_takes_one_place(
    client: redis.Redis, config: OnlineConfig
) -> None:
    size = config.returned_size
    twice = [(5, post, START + 10 * post + again) for post in range(size + 1) for again in (1, 0)]
    load_returned(client, sent(twice), config)
    assert remembered(client, 5) == {post: START + 10 * post + 1 for post in range(1, size + 1)}


def test_a_load_keeps_later_times_written_by_the_server(client: redis.Redis, config: OnlineConfig) -> None:
    load_returned(client, sent([(5, 100, START + 7)]), config)
    load_returned(client, sent([(5, 100, START), (5, 107, START + 1)]), config)
    assert remembered(client, 5) == {100: START + 7, 107: START + 1}


def test_no_transaction_exceeds_the_limit_of_members(
    client: redis.Redis, config: OnlineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.model_copy(update={"returned_size": 400})
    send, members = returned_module.send_together, []

    def counting(to: redis.Redis, commands: Sequence[Sequence[object]]) -> list[object]:
        members.append(sum((len(command) - 3) // 2 for command in commands if command[0] == "ZADD"))
        return send(to, commands)

    monkeypatch.setattr(returned_module, "send_together", counting)
    load_returned(client, sent([(user, post, START + post) for user in range(30) for post in range(400)]), config)
    assert sum(members) == 30 * 400
    assert max(members) <= 5000
    assert [client.zcard(keys.returned(user)) for user in range(30)] == [400] * 30
