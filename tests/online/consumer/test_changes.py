"""Which events of the stream count, and for which rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online.consumer.changes import counted_events
from recsys.online.rows.events import CountedEvents, group_by_row
from recsys.online.stream.records import EVENT, Entry, Event, Returned, decode, encode_event

from ..conftest import START


def columns(catalogue: Catalogue, events: Sequence[Event]) -> CountedEvents:
    decoded = decode([Entry(f"{i}-0", EVENT, encode_event(event)) for i, event in enumerate(events)])
    return counted_events(catalogue, decoded.events, [], "explicit")


def test_an_event_counts_from_the_earlier_of_its_two_times(catalogue: Catalogue) -> None:
    event = Event("click", 1, 1, 1, 100, event_time=START - 5, ingest_time=START)
    ahead = replace(event, event_time=START + 5)
    assert list(columns(catalogue, [event, ahead]).time) == [START - 5, START]


def test_exposures_come_from_impressions_or_from_returned_posts_never_both(
    catalogue: Catalogue, returned_record: Callable[..., Returned]
) -> None:
    shown = Event("impression", 1, 1, 1, 100, START, START)
    click = replace(shown, kind="click")
    events = decode([Entry("1-0", EVENT, encode_event(shown)), Entry("2-0", EVENT, encode_event(click))]).events
    record = returned_record(1, 7, [107, 114], START + 3)
    explicit = counted_events(catalogue, events, [record], "explicit")
    assert list(zip(explicit.action, explicit.user_id, explicit.post_id, strict=True)) == [(0, 1, 100), (1, 1, 100)]
    implied = counted_events(catalogue, events, [record], "implied")
    assert list(zip(implied.action, implied.user_id, implied.post_id, strict=True)) == [
        (1, 1, 100),
        (0, 7, 107),
        (0, 7, 114),
    ]
    assert list(implied.time) == [START, START + 3, START + 3]


def test_an_unknown_post_counts_for_no_author_and_the_missing_topic(catalogue: Catalogue) -> None:
    unknown = columns(catalogue, [Event("click", 1, 1, 1, 10**9, START, START)])
    assert (list(unknown.has_author), list(unknown.topic_key), list(unknown.post_row)) == ([False], [0], [-1])
    posts, authors, topics, users = group_by_row(unknown)
    assert [list(part.ids) for part in (posts, authors, topics, users)] == [[10**9], [], [0], [1]]
