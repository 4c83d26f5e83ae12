"""Batch and stream give the same state, for any events, order of delivery, repeats and split between them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.config import OfflineConfig, OnlineConfig
from recsys.features.point_in_time import Snapshot, snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import ACTIONS, read_events
from recsys.online.connection.client import Connection
from recsys.online.consumer.to_lake import LakeSink, lake_watermark
from recsys.online.consumer.to_redis import OnlineSink
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.store import RedisStore, SnapshotStore
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Event
from recsys.types import DAY, HOUR

from ..conftest import START

NOW = START + 40 * DAY
CONFIG = OnlineConfig(history_size=3, batch_size=4)

SnapshotOf = Callable[[Sequence[Event]], Snapshot]


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Event], list[int]]:
    """Events, and their places in order of delivery: each at least once, some more often."""
    hours = st.integers(0, 30 * 24)
    drawn = draw(
        st.lists(
            st.tuples(st.sampled_from(ACTIONS), st.integers(1, 3), st.integers(0, 4), hours, st.integers(-1, 50)),
            min_size=1,
            max_size=25,
        )
    )
    events = [
        Event(
            kind=kind,
            event_id=number + 1,
            request_id=number // 5,
            user_id=user,
            post_id=9 if post == 4 else 100 + 7 * post,
            event_time=START + arrived * HOUR - late * HOUR,
            ingest_time=START + arrived * HOUR,
        )
        for number, (kind, user, post, arrived, late) in enumerate(drawn)
    ]
    places = list(range(len(events)))
    order = draw(st.permutations(places + draw(st.lists(st.sampled_from(places), max_size=5))))
    return events, list(order)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(deliveries(), st.integers(0, 30), st.integers(0, 30))
def test_any_delivery_split_anywhere_gives_the_state_of_the_batch(
    server: Connection,
    catalogue: Catalogue,
    snapshot_of: SnapshotOf,
    delivery: tuple[list[Event], list[int]],
    before_load: int,
    in_batch: int,
) -> None:
    """Some events come before the load: part of them is in its lake, the load replays the rest."""
    events, order = delivery
    client = server.client
    client.flushall()
    stream = RedisStream(client, CONFIG)
    appended = sum(stream.append([events[place]]) for place in order[:before_load])
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        if in_batch:
            LakeSink(client, stream, lake, batch_records=in_batch).step()
        read, _ = read_events(lake, catalogue, OfflineConfig())
        assert len(read) == min(in_batch, appended)
        load_snapshot(client, catalogue, snapshot(catalogue, read, 1), CONFIG, SnapshotReach(lake_watermark(lake), NOW))
    appended += sum(stream.append([events[place]]) for place in order[before_load:])
    assert appended == len(events), "an event that comes again is not appended again"
    sink = OnlineSink(client, stream, catalogue, CONFIG, "explicit")
    while sink.step():
        pass
    _assert_same(client, catalogue, snapshot_of(events))


def _assert_same(client: redis.Redis, catalogue: Catalogue, expected: Snapshot) -> None:
    store, batch = RedisStore(client, catalogue, CONFIG), SnapshotStore(catalogue, expected, CONFIG)
    posts = catalogue.post_rows([9, *range(100, 130, 7)])
    for user in (1, 2, 3):
        one, other = store.read_counts(user, posts, NOW).counts, batch.read_counts(user, posts, NOW).counts
        for name in other:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-11, atol=1e-300, err_msg=name)
        histories = [reader.read_user(user, -1, NOW).history.tolist() for reader in (store, batch)]
        assert histories[0] == histories[1]
