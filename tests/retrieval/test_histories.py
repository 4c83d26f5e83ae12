"""A history holds what a user had clicked strictly before, newest first."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from worlds import rows

from recsys.retrieval.histories import histories_at

USER = rows([1, 0, 1, 1, -1, 0])
POST = rows([10, 20, 11, 12, 99, 21])
TIME = np.array([100, 110, 120, 130, 140, 150])


def history(user, now, size=3):
    return histories_at(USER, POST, TIME, rows([user]), np.array([now]), size)[0].tolist()


def test_the_newest_click_comes_first_and_places_left_over_are_minus_one():
    assert history(1, 125) == [11, 10, -1]


def test_a_click_at_the_moment_itself_is_not_seen():
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
    assert histories_at(nothing, nothing, np.array([], np.int64), rows([0, 1]), np.array([5, 5]), 2).tolist() == [
        [-1, -1],
        [-1, -1],
    ]


def test_clicks_at_one_time_come_lowest_row_first():
    found = histories_at(rows([0, 0, 0]), rows([5, 3, 4]), np.array([9, 9, 8]), rows([0]), np.array([10]), 3)
    assert found.tolist() == [[3, 5, 4]]


def test_no_click_sees_itself_or_a_later_one():
    found = histories_at(USER, POST, TIME, USER, TIME, 6)
    assert found[3].tolist() == [11, 10, -1, -1, -1, -1]
    assert [POST[i] in found[i] for i in range(len(POST))] == [False] * len(POST)


clicks = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 9), st.integers(0, 6)), max_size=30)
queries = st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 8)), min_size=1, max_size=10)


@given(clicks, queries, st.integers(1, 4))
def test_it_equals_a_loop_over_the_log(clicks, queries, size):
    user, post, time = np.array(clicks, np.int64).reshape(-1, 3).T
    asked, now = np.array(queries, np.int64).T
    found = histories_at(rows(user), rows(post), time, rows(asked), now, size)
    for row, (who, when) in enumerate(queries):
        seen = sorted(((-t, p) for u, p, t in clicks if u == who and t < when and who >= 0))
        expected = [p for _, p in seen][:size]
        assert found[row].tolist() == expected + [-1] * (size - len(expected))
