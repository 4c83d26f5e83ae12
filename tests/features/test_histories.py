"""A history has the user's clicks that the request could see, newest first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from worlds import rows

from recsys.features.histories import KEPT, Clicks, histories_at

USER = rows([1, 0, 1, 1, -1, 0])
POST = rows([10, 20, 11, 12, 99, 21])
TIME = np.array([100, 110, 120, 130, 140, 150])


def histories_in_time(user, post, time, asked, now, size):
    """Histories if each click is seen from its own time on."""
    return histories_at(Clicks(user, post, time), time, asked, now, size)


def history(user, now, size=3):
    return histories_in_time(USER, POST, TIME, rows([user]), np.array([now]), size)[0].tolist()


def test_the_newest_click_comes_first_and_empty_places_are_minus_one():
    assert history(1, 125) == [11, 10, -1]


def test_a_click_at_the_moment_of_the_query_is_not_seen():
    assert history(1, 120) == [10, -1, -1]
    assert history(1, 121) == [11, 10, -1]


def test_only_the_last_clicks_are_kept():
    assert history(1, 999, size=2) == [12, 11]


def test_an_unknown_user_has_no_history_even_when_unknown_users_clicked():
    assert history(-1, 999) == [-1, -1, -1]


def test_a_user_without_clicks_has_no_history():
    assert history(7, 999) == [-1, -1, -1]


def test_an_empty_log_gives_empty_histories():
    nothing = rows([])
    found = histories_in_time(nothing, nothing, np.array([], np.int64), rows([0, 1]), np.array([5, 5]), 2)
    assert found.tolist() == [[-1, -1], [-1, -1]]


def test_clicks_at_equal_times_come_lowest_post_row_first():
    found = histories_in_time(rows([0, 0, 0]), rows([5, 3, 4]), np.array([9, 9, 8]), rows([0]), np.array([10]), 3)
    assert found.tolist() == [[3, 5, 4]]


def test_no_click_sees_itself_or_a_later_one():
    found = histories_in_time(USER, POST, TIME, USER, TIME, 6)
    assert found[3].tolist() == [11, 10, -1, -1, -1, -1]
    assert [POST[i] in found[i] for i in range(len(POST))] == [False] * len(POST)


def test_a_late_click_is_inserted_by_its_time():
    clicks = Clicks(rows([0, 0, 0]), rows([1, 2, 3]), np.array([10, 30, 20]))
    for seen, expected in ((2, [2, 1, -1]), (3, [2, 3, 1])):
        assert histories_at(clicks, np.arange(3), rows([0]), np.array([seen]), 3).tolist() == [expected]


def test_clicks_on_unknown_posts_are_kept_but_left_out_of_the_history():
    unknown = [-1] * (KEPT * 2 - 1)
    clicks = Clicks(rows([0] * (len(unknown) + 2)), rows([7, 8, *unknown]), np.arange(len(unknown) + 2))
    found = histories_at(clicks, clicks.time, rows([0]), np.array([99]), 2)
    assert found.tolist() == [[8, -1]], "the oldest click is no longer kept"


clicks = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 9), st.integers(0, 6), st.integers(0, 6)), max_size=30)
queries = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 8)), min_size=1, max_size=10)


@given(clicks, queries, st.integers(1, 4))
def test_histories_equal_a_loop_over_the_log(clicks, queries, size):
    user, post, time, order = np.array(clicks, np.int64).reshape(-1, 4).T
    asked, moment = np.array(queries, np.int64).T
    found = histories_at(Clicks(rows(user), rows(post), time), order, rows(asked), moment, size)
    for row, (who, when) in enumerate(queries):
        seen = sorted((-t, p) for u, p, t, o in clicks if u == who and o < when and who >= 0)
        expected = [p for _, p in seen[: KEPT * size] if p >= 0][:size]
        assert found[row].tolist() == expected + [-1] * (size - len(expected))
