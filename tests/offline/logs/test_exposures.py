"""Exposures get the labels they earned, from the request, user and post they belong to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.offline.logs.events import ACTIONS
from recsys.offline.logs.exposures import _followed_within
from recsys.types import SECOND

from .conftest import MINUTE, WINDOW, T, action, impression, read


def clicks(lake, **settings):
    """Map each exposure, (request, post id), to its label."""
    catalogue, logs = read(lake, **settings)
    shown = logs.exposures
    return {
        (int(request), int(catalogue.post_id[post])): bool(click)
        for request, post, click in zip(shown.request_id, shown.post_row, shown.click, strict=True)
    }


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


def test_label_window_s_sets_the_window(lake, log):
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


def test_other_actions_do_not_label(lake, log):
    log("impressions", impression(1, 10, 100))
    log("actions", *(action(2 + n, 10, 100, MINUTE, kind) for n, kind in enumerate(("like", "share", "hide", "dwell"))))
    assert clicks(lake) == {(10, 100): False}


def test_posts_outside_the_catalogue_are_joined_by_their_ids(lake, log):
    """Later logs mention posts without a row in a release's catalogue; these must not share labels."""
    log("impressions", impression(1, 10, 100), impression(2, 11, 900), impression(3, 11, 901, position=1))
    log("actions", action(4, 11, 901, MINUTE), action(5, 10, 100, MINUTE))
    _, logs = read(lake, mentioned=(np.array([100]), np.array([1])))
    assert logs.exposures.post_row.tolist() == [0, -1, -1]
    assert logs.exposures.click.tolist() == [True, False, True]


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


@pytest.fixture
def both(log):
    """One request returns posts 100, 101 and 102: the first two on screen, the first and third clicked."""
    log("returned", *({"request_id": 10, "post_id": 100 + n, "position": n, "propensity": 0.5} for n in range(3)))
    log("impressions", impression(1, 10, 100, 10), impression(2, 10, 101, 20, position=1))
    log("actions", action(3, 10, 100, MINUTE), action(4, 10, 102, MINUTE))


@pytest.mark.usefixtures("both")
def test_explicit_exposures_are_the_impressions(lake):
    assert clicks(lake, impressions="explicit") == {(10, 100): True, (10, 101): False}
    _, logs = read(lake, impressions="explicit")
    assert [ACTIONS[code] for code in logs.events.action] == ["impression", "impression", "click", "click"]


@pytest.mark.usefixtures("both")
def test_implied_exposures_are_the_returned_posts_alone(lake):
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


def test_an_exposure_gets_the_time_policy_and_propensity_of_its_request(lake, log):
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
    assert shown.request_id.tolist() == [11, 10, 10, 12], "sorted by time of request, then position"
    assert (shown.now - T).tolist() == [-9, -7, -7, 70], "without a request row, the impression's arrival"
    assert (shown.shown_at - T).tolist() == [45, 40, 50, 70]
    assert shown.position.tolist() == [-1, 0, 1, 0]
    assert [logs.policies[row] if row >= 0 else None for row in shown.policy] == ["best", "random", "random", None]
    np.testing.assert_array_equal(shown.propensity, np.float32([np.nan, np.nan, 0.25, np.nan]))
    assert catalogue.post_id[shown.post_row].tolist() == [100, 100, 101, 100]
    assert catalogue.user_id[shown.user_row].tolist() == [1] * 4


def test_take_selects_the_same_rows_of_every_column(lake, log):
    log("impressions", impression(1, 10, 100), impression(2, 11, 101), impression(3, 12, 102))
    _, logs = read(lake)
    part = logs.exposures.take(np.array([False, True, True]))
    assert part.request_id.tolist() == [11, 12]
    assert len(part.click) == len(part) == 2


def test_a_lake_without_exposures_raises_an_error_with_the_remedy(lake, log):
    log("actions", action(1, 10, 100, 0, "like"))
    with pytest.raises(DataError, match=r"no impressions and no clicks in .*; run `recsys simulate`"):
        read(lake)


pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=20)


@given(pairs, pairs, st.integers(0, 5))
def test_the_label_join_agrees_with_brute_force(shown, actions, window):
    expected = [any(key == k and at <= t <= at + window for k, t in actions) for key, at in shown]
    columns = [np.array([pair[side] for pair in rows], np.int64) for rows in (shown, actions) for side in (0, 1)]
    assert _followed_within(*columns, window).tolist() == expected
