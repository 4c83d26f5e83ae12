from dataclasses import replace

import numpy as np
import pytest

from recsys.evaluation.report.slates import ROWS, _allowed, _by_popularity, _draw, _returned, slate_report
from recsys.features.point_in_time import snapshot
from recsys.online.store import SnapshotStore
from recsys.pipeline import Recommender
from recsys.reranking.filters import Blocked, NotVisible, ReturnedBefore
from recsys.types import Candidates, FeedRequest


def quiet(done, total):
    pass


@pytest.fixture(scope="module")
def report(material):
    return slate_report(material, quiet)


@pytest.fixture(scope="module")
def recommender(material):
    state = snapshot(material.catalogue, material.logs.events, 1)
    store = SnapshotStore(material.catalogue, state, material.config.online, _returned(material))
    return Recommender(material.config, store, material.parts)


def test_the_share_of_the_oracle_follows_from_the_parts(report):
    clicks = {name: report[name]["true_clicks"] for name in ROWS}
    share = (clicks["full"] - clicks["random"]) / (clicks["oracle"] - clicks["random"])
    assert report["share_of_oracle"] == pytest.approx(share)
    low, high = report["share_of_oracle_ci"]
    assert low <= report["share_of_oracle"] <= high < 1


def test_random_slates_are_the_worst_and_the_oracles_the_best(report):
    clicks = {name: report[name]["true_clicks"] for name in ROWS}
    assert clicks["random"] < clicks["popularity"] < clicks["oracle"]
    assert clicks["random"] < clicks["full"] < clicks["oracle"]
    for name in ROWS:
        low, high = report[name]["true_clicks_ci"]
        assert low <= clicks[name] <= high


def test_the_slate_report_uses_at_most_n_requests_users(material, report):
    assert 0 < report["requests"] <= material.config.evaluation.n_requests


def test_without_a_world_all_slate_figures_are_null(material):
    report = slate_report(replace(material, world=None), quiet)
    assert {name: report[name] for name in ROWS} == {
        name: {"true_clicks": None, "true_clicks_ci": None} for name in ROWS
    }
    assert report["share_of_oracle"] is report["share_of_oracle_ci"] is None
    assert report["requests"] == 0


def test_all_slates_pass_the_same_hard_filters(material, recommender):
    catalogue, now = material.catalogue, material.logs_end
    returned = _returned(material)
    exists = catalogue.visible & (catalogue.created_at <= now)
    n_blocking = 0
    for user_row in np.unique(material.test().user_row)[:40].tolist():
        user_id = int(catalogue.user_id[user_row])
        context, _ = recommender.understand(FeedRequest(1, user_id, now))
        everything = np.arange(catalogue.n_posts, dtype=np.int32)
        kept = Candidates(everything, np.ones(len(everything), np.uint16), np.zeros(len(everything), np.float32))
        for keep in (NotVisible(catalogue), Blocked(catalogue), ReturnedBefore(catalogue)):
            kept = keep(context, kept)
        allowed = _allowed(material, exists, user_row, returned.get(user_id, np.empty(0, np.int32)))
        assert np.flatnonzero(allowed).tolist() == kept.post_row.tolist()
        assert allowed[recommender.recommend(FeedRequest(1, user_id, now)).candidates.post_row].all()
        n_blocking += len(context.blocks) > 0
    assert n_blocking > 0


def test_returned_posts_are_newest_first_and_bounded(material):
    table = material.lake.read("returned", ["user_id", "post_id", "now"]).to_pandas()
    now = table["now"].astype("int64") if table["now"].dtype.unit == "us" else table["now"].astype("int64") // 1000
    table = table[now < material.logs_end]
    counts = table["user_id"].value_counts()
    user_id = int(counts[counts < material.config.online.returned_size].index[0])
    own = table[table["user_id"] == user_id].sort_values("now", ascending=False)
    newest = own[own["now"] == own["now"].max()]["post_id"]
    rows = _returned(material)[user_id]
    assert set(material.catalogue.post_id[rows[: len(newest)]]) == set(newest)
    assert len(rows) == len(own)
    online = material.config.online.model_copy(update={"returned_size": 3})
    bounded = replace(material, config=material.config.model_copy(update={"online": online}))
    assert _returned(bounded)[user_id].tolist() == rows[:3].tolist()


@pytest.mark.parametrize("n_allowed", [0, 3, 30, 900])
def test_a_random_slate_draws_distinct_allowed_posts_uniformly(n_allowed):
    rng = np.random.default_rng(0)
    allowed = np.zeros(1000, bool)
    allowed[rng.permutation(1000)[:n_allowed]] = True
    drawn = [_draw(allowed, 10, rng) for _ in range(200)]
    for rows in drawn:
        assert len(set(rows.tolist())) == len(rows) == min(10, n_allowed)
        assert allowed[rows].all()
    if n_allowed:
        counts = np.bincount(np.concatenate(drawn), minlength=1000)[allowed]
        assert abs(counts[: n_allowed // 2].mean() - counts.mean()) < 4 * np.sqrt(
            counts.mean() / max(n_allowed // 2, 1)
        )


def test_clicks_on_unknown_posts_do_not_count_for_popularity(material):
    events = material.logs.events
    strange = replace(events, post_row=np.where(np.arange(len(events)) % 3 == 0, -1, events.post_row))
    rows = _by_popularity(replace(material, logs=replace(material.logs, events=strange)))
    assert np.sort(rows).tolist() == list(range(material.catalogue.n_posts))


def test_popularity_orders_every_post(material):
    rows = _by_popularity(material)
    assert np.sort(rows).tolist() == list(range(material.catalogue.n_posts))
