"""Loading beside a running stream: counters never go back, nothing is lost, erased people stay erased."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from recsys import training
from recsys.config import Config, OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.features.point_in_time import Snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import generations, keys, load
from recsys.online.connection.client import connect
from recsys.online.consumer import transaction
from recsys.online.consumer.to_redis import OnlineSink
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.rows.user_layout import unpack_users
from recsys.online.store import RedisStore, SnapshotStore
from recsys.online.stream import retention
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Event, Returned
from recsys.online.tombstones import Erased, mark_erased, read_erased
from recsys.progress import Progress
from recsys.types import DAY

from .conftest import START
from .test_store import assert_same_answers

NOW = START + 4 * DAY
RandomLog = Callable[[int, int], list[Event]]
SnapshotOf = Callable[[Sequence[Event]], Snapshot]


class Setup:
    """A stream with all events, of which the lake's snapshot holds the first."""

    def __init__(
        self,
        client: redis.Redis,
        catalogue: Catalogue,
        config: OnlineConfig,
        random_log: RandomLog,
        snapshot_of: SnapshotOf,
    ) -> None:
        self.client, self.catalogue, self.snapshot_of = client, catalogue, snapshot_of
        self.config = config.model_copy(update={"batch_size": 16, "trending_size": 100})
        self.events = random_log(0, 500)
        self.stream = RedisStream(client, self.config)
        self.stream.append(self.events)
        self.ids = [entry.id for entry in self.stream.read("", 1000)]
        self.store = RedisStore(client, catalogue, self.config)

    def load(self, n: int, now: int = NOW, erased: Erased | None = None, **options: object) -> None:
        """Load a snapshot of the first n events."""
        watermark = self.ids[n - 1] if n else ""
        snapshot = self.snapshot_of(self.events[:n])
        reach = SnapshotReach(watermark, now, erased)
        load_snapshot(self.client, self.catalogue, snapshot, self.config, reach, **options)

    def sink(self) -> OnlineSink:
        return OnlineSink(self.client, self.stream, self.catalogue, self.config, "explicit")

    def assert_counts(self, events: Sequence[Event]) -> None:
        expected = SnapshotStore(self.catalogue, self.snapshot_of(events), self.config)
        assert_same_answers(self.store, expected, self.catalogue, self.catalogue.user_id.tolist())

    def user(self, user_id: int) -> bytes | None:
        return self.client.get(generations.current(self.client).rows("user", np.array([user_id]))[0])


@pytest.fixture
def setup(
    client: redis.Redis, catalogue: Catalogue, config: OnlineConfig, random_log: RandomLog, snapshot_of: SnapshotOf
) -> Setup:
    return Setup(client, catalogue, config, random_log, snapshot_of)


@pytest.mark.parametrize("n", [0, 200, 500])
def test_a_load_ends_with_everything_that_is_on_the_stream(setup: Setup, n: int) -> None:
    setup.load(n)
    setup.assert_counts(setup.events)
    assert setup.store.read_counts(1, np.array([0], np.int32), NOW).watermark == setup.ids[-1]


def test_the_replay_counts_returned_posts_when_impressions_are_implied(
    setup: Setup, returned_record: Callable[..., Returned]
) -> None:
    setup.stream.append_returned(returned_record(1, 77, [100, 107]))
    setup.load(500, impressions="implied")
    assert unpack_users([b""], [setup.user(77)]).states.v[0, 0, -1] == 2
    setup.load(500)
    assert setup.user(77) is None


def test_counters_never_go_back_during_loads(setup: Setup) -> None:
    setup.load(100)
    user_id, posts = int(setup.events[0].user_id), np.array([0], np.int32)
    stop, faults, seen = threading.Event(), [], []

    def read() -> None:
        before = np.zeros(1)
        while not stop.is_set():
            # At a fixed moment nothing decays: more events only ever make a count larger.
            after = setup.store.read_counts(user_id, posts, NOW).counts["user"]
            seen.append(float(after.sum()))
            if (after < before * (1 - 1e-9)).any():
                faults.append((before, after))
            before = after

    def write() -> None:
        sink, number = setup.sink(), 10_000
        while not stop.is_set():
            number += 1
            time = START + 3 * DAY
            setup.stream.append([Event("impression", number, 0, user_id, 100, time, time)])
            sink.step()

    threads = [threading.Thread(target=read), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            setup.load(100)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults
    assert seen[-1] > seen[0]


def test_a_load_survives_a_lost_answer_in_its_replay(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third write is carried out, and the connection breaks before its answer."""
    wait, asked = transaction.PendingWrite.wait, []

    def losing(self: transaction.PendingWrite) -> bool:
        asked.append(True)
        if len(asked) == 3:
            wait(self)
            raise DependencyError("the online store does not answer")
        return wait(self)

    monkeypatch.setattr(transaction.PendingWrite, "wait", losing)
    setup.load(200)
    assert len(asked) > 3
    setup.assert_counts(setup.events)


def test_the_switch_waits_for_a_consumer_that_was_faster(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.load(100)
    sink, replay, after = setup.sink(), OnlineSink.step, []

    def slower(self: OnlineSink, block_ms: int = 0) -> int:
        taken = replay(self, block_ms)
        if self is not sink and taken < 16 and not after:
            after.append(replace(setup.events[0], event_id=9999))
            setup.stream.append(after)
            while replay(sink):
                pass
        return taken

    monkeypatch.setattr(OnlineSink, "step", slower)
    setup.load(200)
    setup.assert_counts(setup.events + after)


def test_a_load_succeeds_when_records_of_the_old_rows_were_deleted(setup: Setup) -> None:
    setup.load(0)
    setup.client.xdel(keys.STREAM, *setup.ids[480:])
    setup.load(300)
    setup.assert_counts(setup.events[:480])


def test_nothing_that_a_load_still_needs_is_trimmed_while_it_works(setup: Setup) -> None:
    trimmed: list[int] = []
    setup.load(200, progress=lambda done, total: trimmed.append(retention.trim(setup.client, setup.ids[-1])))
    assert max(trimmed) > 0
    setup.assert_counts(setup.events)
    assert retention.trim(setup.client, setup.ids[-1]) > 0


def test_a_load_names_the_key_when_the_newest_number_is_invalid(setup: Setup) -> None:
    setup.client.set(keys.NEWEST, "the last")
    with pytest.raises(DataError, match="online key recsys:newest must hold a whole number, found 'the last'; "):
        setup.load(200)


def test_a_load_that_lost_its_hold_is_refused_and_changes_nothing(setup: Setup) -> None:
    setup.load(500)

    def lose(done: int, total: int) -> None:
        setup.client.delete(keys.HOLDS)
        retention.trim(setup.client, setup.ids[300])

    with pytest.raises(DataError, match=f"trimmed up to {setup.ids[300]}"):
        setup.load(200, progress=lose)
    assert generations.current(setup.client).number == 1


@pytest.mark.parametrize(("days", "present"), [(279, True), (281, False)])
def test_rows_idle_for_forty_half_lives_are_left_out(setup: Setup, days: int, present: bool) -> None:
    quiet = replace(setup.events[0], event_id=10**6, user_id=12, post_id=9, event_time=NOW - days * DAY)
    setup.events = [quiet, *(event for event in setup.events if event.user_id != 12)]
    setup.client.delete(keys.STREAM)
    setup.ids = ["1-1"] * 501
    setup.load(len(setup.events), now=NOW)
    assert (setup.user(12) is not None) is present
    assert setup.user(5) is not None


def test_a_switch_may_be_sent_twice(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    send, sent = load.send, []

    def twice(client: redis.Redis, *command: object) -> object:
        if load._SWITCH in command:
            sent.append(send(client, *command))
        return send(client, *command)

    setup.load(100)
    monkeypatch.setattr(load, "send", twice)
    setup.load(200)
    assert sent == [b"switched"]
    assert generations.current(setup.client).number == 2
    assert list(setup.client.scan_iter(keys.Generation(1).prefix + b"*")) == []
    setup.assert_counts(setup.events)


@pytest.mark.parametrize("key", [keys.CURRENT, keys.Generation(1).applied])
def test_a_load_repairs_an_invalid_pointer_or_position(setup: Setup, key: bytes) -> None:
    setup.load(100)
    setup.client.set(key, "the first")
    setup.load(200)
    setup.assert_counts(setup.events)


def test_users_erased_before_or_during_a_load_are_not_in_it(setup: Setup) -> None:
    mark_erased(setup.client, 3, NOW)

    def erase(done: int, total: int) -> None:
        if done == total:
            mark_erased(setup.client, 5, NOW)

    setup.load(200, progress=erase)
    assert setup.user(3) is setup.user(5) is None
    assert setup.user(4) is not None


def test_a_user_erased_after_the_replay_is_not_in_the_new_rows(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    step = OnlineSink.step

    def erasing(self: OnlineSink, block_ms: int = 0) -> int:
        taken = step(self, block_ms)
        if taken < 16 and not read_erased(setup.client).version:
            mark_erased(setup.client, 5, NOW)
        return taken

    monkeypatch.setattr(OnlineSink, "step", erasing)
    setup.load(200)
    assert setup.user(5) is None
    assert setup.user(4) is not None


def test_a_person_who_came_back_keeps_new_events_when_the_snapshot_respects_the_erasure(setup: Setup) -> None:
    mark_erased(setup.client, 5, START - DAY)
    setup.load(200, erased=read_erased(setup.client))
    setup.assert_counts(setup.events)


def test_a_training_run_holds_the_stream_before_it_gives_the_lake_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, seen = Config(data_dir=tmp_path), []

    def interrupted(*_: object) -> None:
        with connect(config.online, config.data_dir) as connection:
            seen.append((connection.client.exists(keys.LAKE_LOCK), connection.client.zcard(keys.HOLDS)))
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "read_training_logs", interrupted)
    with connect(config.online, config.data_dir) as connection:
        with pytest.raises(KeyboardInterrupt):
            training.train(config, Progress())
        assert seen == [(1, 1)]
        assert not connection.client.exists(keys.LAKE_LOCK, keys.HOLDS)
