"""Point-in-time counts equal counting by hand, query by query."""

import numpy as np
import pytest

from recsys.features import decay
from recsys.features.point_in_time import EventsSeen, entity_keys, point_in_time, snapshot
from recsys.features.spec import AUTHOR, ENTITIES, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC
from recsys.offline.logs.events import ACTIONS, CLICK, Events
from recsys.types import DAY, SECOND

from .conftest import START

AUTHOR_OF = [0, 0, 0, 0, 1, 1, 1, 2, 2, -1, 1]
TOPIC_OF = [0, 0, 0, 0, 1, 1, 1, -1, -1, -1, 1]
"""Likely topics; post 3 gets its author's."""


def thing(entity, user, post):
    """What a (user, post) pair counts for, or None; written independently of `entity_keys`."""
    author, topic = (AUTHOR_OF[post], TOPIC_OF[post]) if post >= 0 else (-1, -1)
    if entity.name.startswith("user") and user < 0:
        return None
    if "author" in entity.name and author < 0:
        return None
    if entity is POST and post < 0:
        return None
    parts = {"post": post, "author": author, "topic": topic, "user": user}
    return tuple(parts[name] for name in entity.name.split("_"))


def seen_by(events, now):
    """How many events arrived strictly before each query."""
    n = np.searchsorted(events.ingest_time, now)
    return EventsSeen(n, n)


def by_hand(entity, events, user, post, now):
    counts = np.zeros(entity.shape)
    asked = thing(entity, user, post)
    for i in range(len(events)):
        same = asked is not None and thing(entity, events.user_row[i], events.post_row[i]) == asked
        action = ACTIONS[events.action[i]]
        if same and action in entity.actions and events.ingest_time[i] < now:
            for h, half_life in enumerate(entity.half_lives):
                counts[entity.actions.index(action), h] += 2.0 ** (-(now - events.time[i]) / half_life)
    return counts


@pytest.fixture
def queries(catalogue):
    rng = np.random.default_rng(8)
    n = 80
    return (
        rng.integers(-1, catalogue.n_users, n).astype(np.int32),
        rng.integers(-1, catalogue.n_posts, n).astype(np.int32),
        START + np.sort(rng.integers(0, 4 * DAY, n)),
    )


def test_every_query_sees_exactly_the_events_that_arrived_before_it(catalogue, random_events, queries):
    events = random_events(1, 500)
    events.ingest_time[100] = queries[2][40]  # at the same microsecond: not yet visible
    order = np.argsort(events.ingest_time, kind="stable")
    events = Events(
        *(getattr(events, name)[order] for name in ("ingest_time", "time", "action", "user_row", "post_row"))
    )
    built = point_in_time(catalogue, events, *queries, seen_by(events, queries[2]), n_threads=2)
    assert set(built) == {entity.name for entity in ENTITIES}
    n_positive = 0
    for entity in ENTITIES:
        expected = np.array([by_hand(entity, events, *query) for query in zip(*queries, strict=True)])
        np.testing.assert_allclose(built[entity.name], expected, rtol=1e-11, atol=1e-300, err_msg=entity.name)
        n_positive += int((expected > 1e-3).sum())
    assert n_positive > 300, "the log is dense enough to mean something"


def test_an_event_is_seen_if_it_arrives_one_microsecond_before_the_query_but_not_with_it(catalogue):
    one = np.zeros(1, np.int32)
    events = Events(np.array([START]), np.array([START - SECOND]), one + CLICK, one, one)
    for now, expected in ((START, 0.0), (START + 1, 1.0)):
        now = np.array([now])
        built = point_in_time(catalogue, events, one, one, now, seen_by(events, now), 1)
        assert built["post"][0][POST.at("click", POST.half_lives[0])] == pytest.approx(expected, abs=1e-3)


def test_the_snapshot_equals_a_query_after_the_last_event(catalogue, random_events):
    events = random_events(2, 500)
    end = int(events.ingest_time[-1]) + 1
    final = snapshot(catalogue, events, 2)
    user, post = (np.repeat(np.arange(7), 11).astype(np.int32), np.tile(np.arange(11), 7).astype(np.int32))
    everything = np.full(len(user), len(events))
    built = point_in_time(catalogue, events, user, post, np.full(len(user), end), EventsSeen(everything, everything), 1)
    for entity in ENTITIES:
        keys, states = final.keys[entity.name], final.states[entity.name]
        assert (np.diff(keys) > 0).all()
        asked = entity_keys(entity, catalogue, user, post)
        place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        rows = np.where(keys[place] == asked, place, -1).astype(np.int32)
        np.testing.assert_allclose(
            decay.read(states, entity, rows, end), built[entity.name], rtol=1e-12, atol=0, err_msg=entity.name
        )


def test_the_snapshot_has_exactly_one_row_per_counted_key(catalogue, random_events):
    events = random_events(3, 60)
    final = snapshot(catalogue, events, 1)
    for entity in ENTITIES:
        pairs = zip(events.user_row, events.post_row, events.action, strict=True)
        counted = {thing(entity, u, p) for u, p, action in pairs if ACTIONS[action] in entity.actions} - {None}
        assert len(final.keys[entity.name]) == len(counted), entity.name
        assert (final.states[entity.name].v.sum(axis=(1, 2)) > 0).all()


def test_the_snapshot_lists_clicks_by_user_newest_first(catalogue, random_events):
    events = random_events(4, 300)
    final = snapshot(catalogue, events, 1)
    known = (events.user_row >= 0) & (events.post_row >= 0)
    clicked = [i for i in range(len(events)) if events.action[i] == CLICK and known[i]]
    expected = sorted((events.user_row[i], -events.time[i], events.post_row[i]) for i in clicked)
    assert list(zip(final.click_user, -final.click_time, final.click_post, strict=True)) == expected


def test_the_result_does_not_depend_on_threads(catalogue, random_events, queries):
    events = random_events(5, 300)
    one, three = (point_in_time(catalogue, events, *queries, seen_by(events, queries[2]), n_threads=n) for n in (1, 3))
    assert all((one[name] == three[name]).all() for name in one)


def test_without_events_all_counts_are_zero(catalogue, random_events, queries):
    none = random_events(6, 0)
    counts = point_in_time(catalogue, none, *queries, seen_by(none, queries[2]), n_threads=1)
    assert all((of_entity == 0).all() for of_entity in counts.values())
    assert all(len(keys) == 0 for keys in snapshot(catalogue, none, 1).keys.values())


def test_a_post_without_author_or_topic_counts_for_the_missing_topic_and_no_author(catalogue):
    user, post = np.array([2, 2, -1], np.int32), np.array([9, -1, 9], np.int32)
    keys = {entity.name: entity_keys(entity, catalogue, user, post).tolist() for entity in ENTITIES}
    assert keys[POST.name] == [9, -1, 9]
    assert keys[AUTHOR.name] == keys[USER_AUTHOR.name] == [-1, -1, -1]
    assert keys[TOPIC.name] == [0, 0, 0]
    assert keys[USER.name] == [2, 2, -1]
    assert keys[USER_TOPIC.name] == [2 * 3, 2 * 3, -1]


def test_keys_of_different_pairs_differ(catalogue):
    user, post = np.repeat(np.arange(7), 11), np.tile(np.arange(11), 7)
    for entity in ENTITIES:
        keys = entity_keys(entity, catalogue, user.astype(np.int32), post.astype(np.int32))
        of_thing = {}
        for u, p, key in zip(user, post, keys.tolist(), strict=True):
            name = thing(entity, u, p)
            assert (key == -1) == (name is None)
            assert of_thing.setdefault(name, key) == key
        assert len(set(of_thing.values())) == len(of_thing), entity.name


def test_counters_in_the_users_row_are_as_of_the_read_of_the_user(catalogue, random_events, queries):
    """A request reads its user before its posts, and events may arrive in between."""
    events, (user, post, now) = random_events(3, 400), queries
    order = np.argsort(events.ingest_time, kind="stable")
    events = Events(
        *(getattr(events, name)[order] for name in ("ingest_time", "time", "action", "user_row", "post_row"))
    )
    late = np.searchsorted(events.ingest_time, now)
    early = late // 2
    both = point_in_time(catalogue, events, user, post, now, EventsSeen(by_post=late, by_user=early), 1)
    for seen, names in ((early, ("user", "user_topic", "user_author")), (late, ("post", "author", "topic"))):
        one = point_in_time(catalogue, events, user, post, now, EventsSeen(seen, seen), 1)
        for name in names:
            np.testing.assert_array_equal(both[name], one[name])
