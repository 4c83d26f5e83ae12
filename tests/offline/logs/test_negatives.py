"""Logs of clicks alone get drawn negatives."""

import numpy as np
import pytest

from recsys.config import OfflineConfig
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.logs.events import ACTIONS, mentioned_ids
from recsys.offline.logs.exposures import read_logs
from recsys.offline.logs.negatives import draw_negatives

from .conftest import MINUTE, T, action, impression, read


@pytest.fixture
def clicked(log, put):
    """Users 1 and 2 click, without impressions; post 105 is created later, 106 is taken down."""
    described = [100, 101, 102, 103, 104, 105, 106]
    created = [T] * 5 + [T + 50 * MINUTE, T]
    put("posts", post_id=described, created_at=created, visible=[True] * 6 + [False])
    log("actions", *(action(n, 10 + n, 100 + n, n * MINUTE) for n in range(3)), action(3, 13, 103, 9, "like"))
    log("actions", action(4, 14, 105, 60 * MINUTE, user_id=2), action(5, 15, 100, 70 * MINUTE, user_id=2))


def drawn(lake, **settings):
    """Map each request to the post ids drawn for its click, ascending."""
    catalogue, logs = read(lake, **settings)
    shown = logs.exposures.take(~logs.exposures.click)
    found = {int(request): [] for request in logs.exposures.request_id}
    for request, post in zip(shown.request_id.tolist(), catalogue.post_id[shown.post_row].tolist(), strict=True):
        found[request].append(post)
    return {request: sorted(posts) for request, posts in found.items()}


@pytest.mark.usefixtures("clicked")
def test_logs_of_clicks_alone_have_posts_drawn_beside_each_click(lake):
    """Drawn: posts that are visible, exist and were not clicked by the user by then; each once."""
    assert drawn(lake, sampled_negatives=10) == {
        10: [101, 102, 103, 104], 11: [102, 103, 104], 12: [103, 104],
        14: [100, 101, 102, 103, 104], 15: [101, 102, 103, 104],
    }  # fmt: skip
    assert {len(posts) for posts in drawn(lake, sampled_negatives=1).values()} == {1}


@pytest.mark.usefixtures("clicked")
def test_drawn_exposures_share_the_clicks_request_and_are_marked_sampled(lake):
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
    """Drawn posts have no impression, so a counter that includes the click's own would give the label away."""
    log("impressions", impression(20, 11, 101, at=MINUTE - 5))
    _, logs = read(lake)
    assert logs.negatives == "sampled"
    seen_by = {
        int(request): int(seen) for request, seen in zip(logs.exposures.request_id, logs.exposures.seen, strict=True)
    }
    own = int(np.flatnonzero(logs.events.action == 0)[0])
    assert seen_by[11] <= own < seen_by[12]


@pytest.mark.usefixtures("clicked")
def test_nothing_is_drawn_once_there_are_as_many_impressions_as_clicks(lake, log):
    def negatives():
        return read(lake)[1].negatives

    clicks = len(lake.read("actions")["event_id"].unique())
    log("impressions", *(impression(20 + i, 30 + i, 104, 5) for i in range(clicks - 2)))
    assert negatives() == "sampled", "fewer impressions than clicks"
    log("impressions", *(impression(20 + i, 30 + i, 104, 5) for i in range(clicks - 2, clicks)))
    assert negatives() == "shown"
    catalogue = build_catalogue(lake, *mentioned_ids(lake))
    assert read_logs(lake, catalogue, OfflineConfig(), "sampled").negatives == "sampled"


def test_draws_are_uniform_over_the_available_posts():
    n = 20_000
    clicks, posts = draw_negatives(
        np.arange(n), np.arange(n), np.zeros(n, np.int32), np.full(n, 5), np.zeros(11, np.int64), np.ones(11, bool), 1
    )
    assert clicks.tolist() == list(range(n))
    counts = np.bincount(posts, minlength=11)
    assert counts[0] == 0
    assert np.abs(counts[1:] - n / 10).max() < 5 * (n / 10) ** 0.5


def test_a_logged_request_gives_its_click_the_time(lake, log):
    log("requests", {"request_id": 10, "now": -5}, {"request_id": 3, "now": -9})
    log("actions", action(1, 10, 100, 7), action(2, 11, 101, 9, user_id=2))
    _, logs = read(lake)
    shown = logs.exposures.take(logs.exposures.click)
    assert (shown.now - T).tolist() == [-5, 9]
    assert (shown.shown_at - T).tolist() == [7, 9]
