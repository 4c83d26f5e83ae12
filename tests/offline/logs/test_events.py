"""Every event counts once, in the order of arrival."""

from recsys.offline.logs.events import ACTIONS, CLICK, mentioned_ids

from .conftest import T, action, impression, read


def test_an_event_delivered_twice_counts_once_as_it_first_arrived(lake, log):
    log("impressions", impression(1, 10, 100, ingest_time=5), impression(1, 10, 100, ingest_time=3))
    log("actions", action(2, 10, 100, 50, ingest_time=80), action(2, 10, 100, 50, ingest_time=60))
    _, logs = read(lake)
    assert len(logs.exposures) == 1
    assert (logs.events.ingest_time - T).tolist() == [3, 60]
    assert logs.events.action.tolist() == [0, CLICK]


def test_the_streamed_row_counts_when_the_event_was_also_imported(lake, log):
    """An import often has only the client's time, which would make the event readable too early."""
    log("impressions", impression(1, 10, 100, ingest_time=3), impression(1, 10, 100, ingest_time=5, stream_position=7))
    _, logs = read(lake)
    assert (logs.events.ingest_time - T).tolist() == [5]


def test_events_come_in_order_of_arrival_then_id_and_decay_from_the_earlier_time(lake, log):
    log("impressions", impression(9, 10, 100, at=5, ingest_time=90), impression(8, 11, 100, at=200, ingest_time=90))
    log("actions", action(3, 10, 100, 30, "hide", ingest_time=20))
    catalogue, logs = read(lake)
    assert (logs.events.ingest_time - T).tolist() == [20, 90, 90]
    assert (logs.events.time - T).tolist() == [20, 90, 5]
    assert [ACTIONS[code] for code in logs.events.action] == ["hide", "impression", "impression"]
    assert catalogue.post_id[logs.events.post_row].tolist() == [100] * 3
    assert len(logs.events) == 3


def test_mentioned_ids_come_from_logs_follows_and_blocks(lake, log, put):
    log("returned", {"request_id": 1, "post_id": 5, "user_id": 2, "position": 0})
    log("impressions", impression(1, 1, 6, user_id=3), impression(2, 1, 5, user_id=3))
    log("actions", action(3, 1, 4, 0, user_id=2))
    put("follows", user_id=[8], author_id=[1], created_at=[0])
    put("blocks", user_id=[7], author_id=[1], created_at=[0])
    posts, users = mentioned_ids(lake)
    assert (posts.tolist(), users.tolist()) == ([4, 5, 6], [2, 3, 7, 8])
