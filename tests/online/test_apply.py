"""Applying events to rows: what counts, and that the order of delivery does not matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.offline.catalogue import Catalogue
from recsys.offline.labels import ACTIONS
from recsys.online.apply import Counted, advance_users, counted, touches_user
from recsys.online.records import EVENT, Entry, Event, Returned, decode, encode_event
from recsys.online.rows import Users, unpack_users
from recsys.types import HOUR

from .conftest import START

IDS = [1, 2, 77]


def columns(catalogue: Catalogue, events: Sequence[Event]) -> Counted:
    decoded = decode([Entry(f"{i}-0", EVENT, encode_event(event)) for i, event in enumerate(events)])
    return counted(catalogue, decoded.events, [], "explicit")


def apply(catalogue: Catalogue, users: Users, events: Sequence[Event]) -> Users:
    batch = columns(catalogue, events)
    batch = batch.where(touches_user(batch.action))
    return advance_users(users, batch, np.searchsorted(IDS, batch.user_id), 4)


EVENTS = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from(ACTIONS),
        event_id=st.just(0),
        request_id=st.just(0),
        user_id=st.sampled_from(IDS),
        post_id=st.sampled_from([9, 100, 107, 114, 121, -5]),
        event_time=st.integers(START - 100 * HOUR, START),
        ingest_time=st.just(START),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(events=EVENTS, data=st.data())
def test_users_do_not_depend_on_order_or_batches_of_delivery(
    catalogue: Catalogue, events: list[Event], data: st.DataObject
) -> None:
    nobody = unpack_users([b""] * 3, [None] * 3)
    at_once = apply(catalogue, nobody, events)
    shuffled = data.draw(st.permutations(events))
    cut = data.draw(st.integers(0, len(events)))
    in_two = apply(catalogue, apply(catalogue, nobody, shuffled[:cut]), shuffled[cut:])
    for one, other in ((at_once, in_two), (at_once.topics, in_two.topics), (at_once.authors, in_two.authors)):
        np.testing.assert_array_equal(one.states.t, other.states.t)
        np.testing.assert_allclose(one.states.v, other.states.v, rtol=1e-12, atol=0)
    for name in ("topics", "authors"):
        np.testing.assert_array_equal(getattr(at_once, name).count, getattr(in_two, name).count)
        np.testing.assert_array_equal(getattr(at_once, name).key, getattr(in_two, name).key)
    np.testing.assert_array_equal(at_once.clicks.post_id, in_two.clicks.post_id)
    np.testing.assert_array_equal(at_once.clicks.time, in_two.clicks.time)


def test_an_event_counts_from_the_earlier_of_its_two_times(catalogue: Catalogue) -> None:
    event = Event("click", 1, 1, 1, 100, event_time=START - 5, ingest_time=START)
    ahead = replace(event, event_time=START + 5)
    assert list(columns(catalogue, [event, ahead]).time) == [START - 5, START]


def test_exposures_come_from_impressions_or_from_what_was_returned_never_both(
    catalogue: Catalogue, returned_record: Callable[..., Returned]
) -> None:
    shown = Event("impression", 1, 1, 1, 100, START, START)
    click = replace(shown, kind="click")
    events = decode([Entry("1-0", EVENT, encode_event(shown)), Entry("2-0", EVENT, encode_event(click))]).events
    record = returned_record(1, 7, [107, 114], START + 3)
    explicit = counted(catalogue, events, [record], "explicit")
    assert list(zip(explicit.action, explicit.user_id, explicit.post_id, strict=True)) == [(0, 1, 100), (1, 1, 100)]
    implied = counted(catalogue, events, [record], "implied")
    assert list(zip(implied.action, implied.user_id, implied.post_id, strict=True)) == [
        (1, 1, 100),
        (0, 7, 107),
        (0, 7, 114),
    ]
    assert list(implied.time) == [START, START + 3, START + 3]


def test_a_post_nobody_knows_counts_under_no_author_and_the_missing_topic(catalogue: Catalogue) -> None:
    unknown = columns(catalogue, [Event("click", 1, 1, 1, 10**9, START, START)])
    assert (list(unknown.has_author), list(unknown.topic_key), list(unknown.post_row)) == ([False], [0], [-1])
    users = advance_users(unpack_users([b""], [None]), unknown, np.zeros(1, np.int64), 4)
    assert list(users.clicks.post_id) == [10**9]
    assert (list(users.topics.key), list(users.authors.key)) == ([0], [])
