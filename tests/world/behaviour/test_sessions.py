"""Actions, scrolling and sessions follow their distributions."""

import numpy as np
import pytest

from recsys.world.behaviour.random_numbers import seeded
from recsys.world.behaviour.sessions import CLICKED, HIDDEN, LIKED, SCROLL_ON, SHARED, draw_actions, draw_depth


def test_actions_are_consistent_and_as_frequent_as_their_probabilities():
    state, n = seeded(3, 1), 40_000
    examined, relevant, like, share, hide, dwell = 0.8, 0.5, 0.3, 0.2, 0.1, 9.0
    seen = [draw_actions((examined, relevant, like, share, hide, dwell), state) for _ in range(n)]
    bits, seconds = (np.array(each) for each in zip(*seen, strict=True))
    clicked, liked, shared, hidden = ((bits & bit) > 0 for bit in (CLICKED, LIKED, SHARED, HIDDEN))
    assert ((seconds > 0) == clicked).all()
    assert not ((liked | shared) & ~clicked).any(), "a like or share needs a click"
    assert not (clicked & hidden).any(), "a clicked post is not hidden"
    for done, p in (
        (clicked, examined * relevant),
        (liked, examined * relevant * like),
        (shared, examined * relevant * share),
        (liked & shared, examined * relevant * like * share),
        (hidden, examined * (1 - relevant) * hide),
    ):
        assert abs(done.sum() - n * p) < 4 * np.sqrt(n * p * (1 - p))
    assert abs(seconds[clicked].mean() - dwell) < 4 * dwell / np.sqrt(clicked.sum())


def test_a_post_that_is_not_examined_gets_no_action():
    state = seeded(3, 2)
    assert {draw_actions((0.0, 1.0, 1.0, 1.0, 1.0, 9.0), state) for _ in range(200)} == {(0, 0.0)}


@pytest.fixture(scope="module")
def world(small):
    return small.world()


def test_scroll_depth_is_geometric_for_people_and_full_for_bots(world):
    state, n = seeded(3, 3), 20_000
    person, bot = (int(np.flatnonzero(world.population.users.bot == bot)[0]) for bot in (False, True))
    depths = np.array([draw_depth(world.truth, person, 10, state) for _ in range(n)])
    assert depths.min() == 1
    assert depths.max() == 10
    for k in range(1, 10):
        p = SCROLL_ON**k
        assert abs((depths > k).sum() - n * p) < 4 * np.sqrt(n * p * (1 - p))
    assert {draw_depth(world.truth, bot, k, state) for k in (10,) * 50} == {10}
    assert draw_depth(world.truth, person, 0, state) == 0


def test_logged_depths_are_geometric(shown):
    depth = shown[~shown.bot].groupby("request_id").size()
    n = len(depth)
    for k in range(1, 10):
        assert abs((depth > k).sum() - n * SCROLL_ON**k) < 4 * np.sqrt(n * SCROLL_ON**k * (1 - SCROLL_ON**k))


def test_sessions_have_one_to_six_requests(small):
    requests = small.table("requests").sort_values("request_id")
    sessions = requests.groupby("session_id")
    assert (sessions.user_id.nunique() == 1).all()
    n_requests = sessions.size()
    for k in range(1, 6):
        p = 0.5**k
        assert abs((n_requests > k).sum() - len(n_requests) * p) < 4 * np.sqrt(len(n_requests) * p * (1 - p))
    assert n_requests.max() == 6
    pause = sessions.now.diff().dropna() / 1e6
    assert pause.between(40, 180).all()
