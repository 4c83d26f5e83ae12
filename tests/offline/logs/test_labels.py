"""Exposures get the labels they earned, and every event counts once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import OfflineConfig
from recsys.errors import DataError
from recsys.offline.catalogue.catalogue import build_catalogue
from recsys.offline.logs.labels import ACTIONS, CLICK, _followed_within, mentioned_ids, read_logs
from recsys.offline.logs.negatives import draw_negatives
from recsys.types import SECOND

MINUTE = 60 * SECOND
T = 1_767_571_200 * SECOND
WINDOW = 30 * MINUTE


@pytest.fixture
def log(put):
    """Writes rows of a table, each a dict; times are microseconds after T, users 1, arrival at once."""
    files = iter(range(100))

    def write(table, *rows):
        default = {"user_id": 1, "event_time": 0, "created_at": 0, "now": 0, "author_id": 1, "visible": True}
        rows = [{**default, "ingest_time": row.get("event_time", 0), **row} for row in rows]
        wanted = {
            "impressions": (
                "event_id", "request_id", "user_id", "post_id", "position", "event_time", "ingest_time",
                "stream_position",
            ),
            "actions": (
                "event_id", "request_id", "user_id", "post_id", "type", "event_time", "ingest_time", "stream_position",
            ),
            "requests": ("request_id", "user_id", "now", "policy", "watermark", "user_watermark"),
            "returned": ("request_id", "user_id", "post_id", "position", "now", "propensity"),
        }[table]  # fmt: skip
        times = ("event_time", "ingest_time", "now")
        columns = {name: [row.get(name, 0) + T if name in times else row.get(name) for row in rows] for name in wanted}
        put(table, name=f"{next(files)}", **columns)

    return write


def read(lake, mentioned=None, **settings):
    catalogue = build_catalogue(lake, *(mentioned or mentioned_ids(lake)))
    return catalogue, read_logs(lake, catalogue, OfflineConfig(**settings))


def clicks(lake, **settings):
    """(request, post id) to whether the exposure counts as clicked."""
    catalogue, logs = read(lake, **settings)
    shown = logs.exposures
    return {
        (int(request), int(catalogue.post_id[post])): bool(click)
        for request, post, click in zip(shown.request_id, shown.post_row, shown.click, strict=True)
    }


def impression(event_id, request_id, post_id, at=0, position=0, **more):
    return {"event_id": event_id, "request_id": request_id, "post_id": post_id, "event_time": at} | {
        "position": position,
        **more,
    }


def action(event_id, request_id, post_id, at, kind="click", **more):
    return {"event_id": event_id, "request_id": request_id, "post_id": post_id, "type": kind, "event_time": at, **more}


@pytest.mark.parametrize(
    ("at", "counts"),
    [
        (MINUTE, True),
        (0, True),
        (WINDOW, True),
        (WINDOW + 1, False),
        (-1, False),
    ],
    ids=["inside", "at once", "at the window's end", "after the window", "before the exposure"],
)
def test_a_click_counts_inside_the_window_after_its_exposure(lake, log, at, counts):
    log("impressions", impression(1, 10, 100))
    log("actions", action(2, 10, 100, at))
    assert clicks(lake) == {(10, 100): counts}


def test_the_window_is_the_one_that_is_set(lake, log):
    log("impressions", impression(1, 10, 100))
    log("actions", action(2, 10, 100, 90 * SECOND))
    assert clicks(lake, label_window_s=90) == {(10, 100): True}
    assert clicks(lake, label_window_s=89) == {(10, 100): False}


def test_a_click_before_the_exposure_does_not_hide_one_after_it(lake, log):
    log("impressions", impression(1, 10, 100))
    log("actions", action(2, 10, 100, -MINUTE), action(3, 10, 100, MINUTE))
    assert clicks(lake) == {(10, 100): True}


def test_only_a_click_of_the_same_request_on_the_same_post_counts(lake, log):
    log("impressions", impression(1, 10, 100), impression(2, 10, 101, position=1), impression(3, 11, 100))
    log("actions", action(4, 11, 100, MINUTE), action(5, 12, 101, MINUTE))
    assert clicks(lake) == {(10, 100): False, (10, 101): False, (11, 100): True}


def test_a_click_does_not_count_for_another_user_with_the_same_request_number(lake, log):
    log("impressions", impression(1, 10, 100), impression(2, 10, 100, user_id=2), impression(3, 10, 101, user_id=2))
    log("actions", action(4, 10, 100, MINUTE, user_id=2), action(5, 10, 101, MINUTE))
    log("returned", {"request_id": 10, "user_id": 2, "post_id": 100, "position": 0, "propensity": 0.5})
    _, logs = read(lake)
    rows = zip(logs.exposures.user_row, logs.exposures.click, logs.exposures.propensity == 0.5, strict=True)
    assert sorted((int(user), bool(click), bool(known)) for user, click, known in rows) == [
        (0, False, False), (1, False, False), (1, True, True),
    ]  # fmt: skip


def test_other_actions_are_no_click(lake, log):
    log("impressions", impression(1, 10, 100))
    log("actions", *(action(2 + n, 10, 100, MINUTE, kind) for n, kind in enumerate(("like", "share", "hide", "dwell"))))
    assert clicks(lake) == {(10, 100): False}


def test_posts_that_the_catalogue_does_not_know_are_joined_by_their_own_ids(lake, log):
    """With a release's catalogue, posts of later logs have no row; still they share no labels."""
    log("impressions", impression(1, 10, 100), impression(2, 11, 900), impression(3, 11, 901, position=1))
    log("actions", action(4, 11, 901, MINUTE), action(5, 10, 100, MINUTE))
    _, logs = read(lake, mentioned=(np.array([100]), np.array([1])))
    assert logs.exposures.post_row.tolist() == [0, -1, -1]
    assert logs.exposures.click.tolist() == [True, False, True]


def test_an_event_delivered_twice_counts_once_as_it_first_arrived(lake, log):
    log("impressions", impression(1, 10, 100, ingest_time=5), impression(1, 10, 100, ingest_time=3))
    log("actions", action(2, 10, 100, 50, ingest_time=80), action(2, 10, 100, 50, ingest_time=60))
    _, logs = read(lake)
    assert len(logs.exposures) == 1
    assert (logs.events.ingest_time - T).tolist() == [3, 60]
    assert logs.events.action.tolist() == [0, CLICK]


def test_of_an_event_that_was_streamed_and_imported_the_streamed_row_counts(lake, log):
    """An import often knows only the client's time: by that it would have been there too early."""
    log("impressions", impression(1, 10, 100, ingest_time=3), impression(1, 10, 100, ingest_time=5, stream_position=7))
    _, logs = read(lake)
    assert (logs.events.ingest_time - T).tolist() == [5]


def test_a_request_saw_the_events_up_to_its_watermark_and_history_up_to_its_own(lake, log):
    rows = [impression(n, 10, 100, at=n, stream_position=(5 << 20) + n) for n in (1, 2, 3)]
    log("impressions", *rows)
    log("requests", {"request_id": 10, "now": 0, "watermark": "5-2", "user_watermark": "5-1"})
    _, logs = read(lake)
    assert set(logs.exposures.seen.tolist()) == {2}
    assert set(logs.exposures.history_seen.tolist()) == {1}


def test_a_watermark_of_another_kind_of_stream_is_unknown(lake, log):
    log("impressions", *(impression(n, 10, 100, at=n) for n in (1, 2, 3)))
    log("requests", {"request_id": 10, "now": 3, "watermark": "kafka-7:12", "user_watermark": None})
    _, logs = read(lake)
    assert set(logs.exposures.seen.tolist()) == {2}


def test_events_come_in_order_of_arrival_then_id_and_decay_from_the_earlier_time(lake, log):
    log("impressions", impression(9, 10, 100, at=5, ingest_time=90), impression(8, 11, 100, at=200, ingest_time=90))
    log("actions", action(3, 10, 100, 30, "hide", ingest_time=20))
    catalogue, logs = read(lake)
    assert (logs.events.ingest_time - T).tolist() == [20, 90, 90]
    assert (logs.events.time - T).tolist() == [20, 90, 5]
    assert [ACTIONS[code] for code in logs.events.action] == ["hide", "impression", "impression"]
    assert catalogue.post_id[logs.events.post_row].tolist() == [100] * 3
    assert len(logs.events) == 3


@pytest.fixture
def both(log):
    """One request: posts 100, 101, 102 returned, the first two seen, the first and the unseen third clicked."""
    log("returned", *({"request_id": 10, "post_id": 100 + n, "position": n, "propensity": 0.5} for n in range(3)))
    log("impressions", impression(1, 10, 100, 10), impression(2, 10, 101, 20, position=1))
    log("actions", action(3, 10, 100, MINUTE), action(4, 10, 102, MINUTE))


@pytest.mark.usefixtures("both")
def test_explicit_exposure_is_what_was_on_screen(lake):
    assert clicks(lake, impressions="explicit") == {(10, 100): True, (10, 101): False}
    _, logs = read(lake, impressions="explicit")
    assert [ACTIONS[code] for code in logs.events.action] == ["impression", "impression", "click", "click"]


@pytest.mark.usefixtures("both")
def test_implied_exposure_is_what_was_returned_and_never_both(lake):
    assert clicks(lake, impressions="implied") == {(10, 100): True, (10, 101): False, (10, 102): True}
    _, logs = read(lake, impressions="implied")
    assert [ACTIONS[code] for code in logs.events.action] == ["impression"] * 3 + ["click"] * 2
    assert (logs.events.time[:3] == T).all()
    assert (logs.exposures.shown_at == logs.exposures.now).all()


def test_a_returned_row_written_twice_is_one_implied_exposure(lake, log):
    row = {"request_id": 10, "post_id": 100, "position": 0}
    log("returned", row)
    log("returned", row, row | {"request_id": 11})
    _, logs = read(lake, impressions="implied")
    assert logs.exposures.request_id.tolist() == [10, 11]


def test_an_exposure_knows_its_requests_time_policy_and_propensity(lake, log):
    log("requests", {"request_id": 10, "now": -7, "policy": "random"}, {"request_id": 11, "now": -9, "policy": "best"})
    log("returned", {"request_id": 10, "post_id": 101, "position": 1, "propensity": 0.25})
    log(
        "impressions",
        impression(1, 10, 101, 50, position=1),
        impression(2, 10, 100, 40, position=0),
        impression(3, 11, 100, 45, position=None),
        impression(4, 12, 100, 70),
    )
    catalogue, logs = read(lake)
    shown = logs.exposures
    assert shown.request_id.tolist() == [11, 10, 10, 12], "by time of request, then position"
    assert (shown.now - T).tolist() == [-9, -7, -7, 70], "without a request row the impression's own time stands in"
    assert (shown.shown_at - T).tolist() == [45, 40, 50, 70]
    assert shown.position.tolist() == [-1, 0, 1, 0]
    assert [logs.policies[row] if row >= 0 else None for row in shown.policy] == ["best", "random", "random", None]
    np.testing.assert_array_equal(shown.propensity, np.float32([np.nan, np.nan, 0.25, np.nan]))
    assert catalogue.post_id[shown.post_row].tolist() == [100, 100, 101, 100]
    assert catalogue.user_id[shown.user_row].tolist() == [1] * 4


def test_a_subset_of_exposures_keeps_its_columns_together(lake, log):
    log("impressions", impression(1, 10, 100), impression(2, 11, 101), impression(3, 12, 102))
    _, logs = read(lake)
    part = logs.exposures.take(np.array([False, True, True]))
    assert part.request_id.tolist() == [11, 12]
    assert len(part.click) == len(part) == 2


def test_a_lake_without_exposure_says_what_to_do(lake, log):
    log("actions", action(1, 10, 100, 0, "like"))
    with pytest.raises(DataError, match=r"no impressions and no clicks in .*; run `recsys simulate`"):
        read(lake)


@pytest.fixture
def clicked(log, put):
    """Users 1 and 2 click, nothing says what they saw; post 105 comes later, 106 is taken down."""
    described = [100, 101, 102, 103, 104, 105, 106]
    created = [T] * 5 + [T + 50 * MINUTE, T]
    put("posts", post_id=described, created_at=created, visible=[True] * 6 + [False])
    log("actions", *(action(n, 10 + n, 100 + n, n * MINUTE) for n in range(3)), action(3, 13, 103, 9, "like"))
    log("actions", action(4, 14, 105, 60 * MINUTE, user_id=2), action(5, 15, 100, 70 * MINUTE, user_id=2))


def drawn(lake, **settings):
    """Request to the post ids drawn beside its click, in order."""
    catalogue, logs = read(lake, **settings)
    shown = logs.exposures.take(~logs.exposures.click)
    found = {int(request): [] for request in logs.exposures.request_id}
    for request, post in zip(shown.request_id.tolist(), catalogue.post_id[shown.post_row].tolist(), strict=True):
        found[request].append(post)
    return {request: sorted(posts) for request, posts in found.items()}


@pytest.mark.usefixtures("clicked")
def test_logs_of_clicks_alone_have_posts_drawn_beside_each_click(lake):
    """Only posts that are visible, existed by then, and were not clicked by the same user by then, each once."""
    assert drawn(lake, sampled_negatives=10) == {
        10: [101, 102, 103, 104], 11: [102, 103, 104], 12: [103, 104],
        14: [100, 101, 102, 103, 104], 15: [101, 102, 103, 104],
    }  # fmt: skip
    assert {len(posts) for posts in drawn(lake, sampled_negatives=1).values()} == {1}


@pytest.mark.usefixtures("clicked")
def test_drawn_exposures_share_the_clicks_request_and_say_that_nobody_saw_them(lake):
    _, logs = read(lake)
    shown = logs.exposures
    assert logs.negatives == "sampled"
    assert [logs.policies[row] for row in shown.policy] == ["sampled"] * len(shown)
    assert set(shown.position.tolist()) == {-1}
    assert np.isnan(shown.propensity).all()
    assert (np.diff(shown.now) >= 0).all()
    for request in np.unique(shown.request_id):
        rows = shown.take(shown.request_id == request)
        assert rows.click.sum() == 1
        assert len(np.unique(rows.now)) == len(np.unique(rows.user_row)) == len(np.unique(rows.shown_at)) == 1
    assert [ACTIONS[code] for code in logs.events.action] == ["click", "like", "click", "click", "click", "click"]


@pytest.mark.usefixtures("clicked")
def test_the_same_click_draws_the_same_posts_whatever_else_happened(lake, log):
    before = drawn(lake, sampled_negatives=2)
    assert drawn(lake, sampled_negatives=2) == before
    log("actions", action(9, 99, 104, 80 * MINUTE, user_id=7))
    assert {request: posts for request, posts in drawn(lake, sampled_negatives=2).items() if request != 99} == before


@pytest.mark.usefixtures("clicked")
def test_a_click_beside_drawn_posts_has_not_seen_its_own_impression(lake, log):
    """It comes seconds before the click, and for no drawn post: the counter would give the label away."""
    log("impressions", impression(20, 11, 101, at=MINUTE - 5))
    _, logs = read(lake)
    assert logs.negatives == "sampled"
    seen_by = {
        int(request): int(seen) for request, seen in zip(logs.exposures.request_id, logs.exposures.seen, strict=True)
    }
    own = int(np.flatnonzero(logs.events.action == 0)[0])
    assert seen_by[11] <= own < seen_by[12]


@pytest.mark.usefixtures("clicked")
def test_as_many_impressions_as_clicks_end_the_drawing(lake, log):
    def negatives():
        return read(lake)[1].negatives

    clicks = len(lake.read("actions")["event_id"].unique())
    log("impressions", *(impression(20 + i, 30 + i, 104, 5) for i in range(clicks - 2)))
    assert negatives() == "sampled", "some of them are no clicks, but a few impressions say little of many clicks"
    log("impressions", *(impression(20 + i, 30 + i, 104, 5) for i in range(clicks - 2, clicks)))
    assert negatives() == "shown"
    catalogue = build_catalogue(lake, *mentioned_ids(lake))
    assert read_logs(lake, catalogue, OfflineConfig(), "sampled").negatives == "sampled"


def test_draws_are_uniform_over_what_is_offered():
    n = 20_000
    clicks, posts = draw_negatives(
        np.arange(n), np.arange(n), np.zeros(n, np.int32), np.full(n, 5), np.zeros(11, np.int64), np.ones(11, bool), 1
    )
    assert clicks.tolist() == list(range(n))
    counts = np.bincount(posts, minlength=11)
    assert counts[0] == 0
    assert np.abs(counts[1:] - n / 10).max() < 5 * (n / 10) ** 0.5


def test_a_request_that_was_logged_dates_its_click(lake, log):
    log("requests", {"request_id": 10, "now": -5}, {"request_id": 3, "now": -9})
    log("actions", action(1, 10, 100, 7), action(2, 11, 101, 9, user_id=2))
    _, logs = read(lake)
    shown = logs.exposures.take(logs.exposures.click)
    assert (shown.now - T).tolist() == [-5, 9]
    assert (shown.shown_at - T).tolist() == [7, 9]


def test_mentioned_ids_come_from_logs_follows_and_blocks(lake, log, put):
    log("returned", {"request_id": 1, "post_id": 5, "user_id": 2, "position": 0})
    log("impressions", impression(1, 1, 6, user_id=3), impression(2, 1, 5, user_id=3))
    log("actions", action(3, 1, 4, 0, user_id=2))
    put("follows", user_id=[8], author_id=[1], created_at=[0])
    put("blocks", user_id=[7], author_id=[1], created_at=[0])
    posts, users = mentioned_ids(lake)
    assert (posts.tolist(), users.tolist()) == ([4, 5, 6], [2, 3, 7, 8])


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=20)


@given(pairs, pairs, st.integers(0, 5))
def test_the_join_agrees_with_looking_at_every_pair(shown, actions, window):
    expected = [any(key == k and at <= t <= at + window for k, t in actions) for key, at in shown]
    columns = [np.array([pair[side] for pair in rows], np.int64) for rows in (shown, actions) for side in (0, 1)]
    assert _followed_within(*columns, window).tolist() == expected
