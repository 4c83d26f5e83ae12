"""What users were sent before, loaded from the lake."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import redis

from recsys.config import OnlineConfig
from recsys.features.point_in_time import Snapshot
from recsys.offline.catalogue import Catalogue
from recsys.online import keys
from recsys.online.erased import mark_erased
from recsys.online.records import Event
from recsys.online.returned import load_returned
from recsys.online.store import RedisStore, load_snapshot
from recsys.online.trending import from_members

from .conftest import START


def test_each_user_gets_back_the_newest_of_what_they_were_sent_once(
    client: redis.Redis,
    catalogue: Catalogue,
    config: OnlineConfig,
    random_log: Callable[[int, int], list[Event]],
    snapshot_of: Callable[[Sequence[Event]], Snapshot],
) -> None:
    load_snapshot(client, catalogue, snapshot_of(random_log(0, 100)), config, "", START)
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


def test_of_erased_people_only_what_they_were_sent_since_is_remembered(
    client: redis.Redis, config: OnlineConfig
) -> None:
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
