from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from recsys.evaluation.report.retrieval import ROWS, _Trends, retrieval_report
from recsys.offline.logs.events import CLICK
from recsys.online.rows import trending
from recsys.progress import Progress
from recsys.types import DAY


def with_settings(material, section, **settings):
    changed = getattr(material.config, section).model_copy(update=settings)
    return replace(material, config=material.config.model_copy(update={section: changed}))


def with_budget(material, budget):
    sources = material.config.retrieval.sources.model_copy(update={"budget": budget})
    return with_settings(material, "retrieval", sources=sources)


def test_recalls_are_shares_with_intervals_around_them(material):
    report = retrieval_report(material, Progress())
    assert set(report) == {
        "recall@500", "recall@500_ci", "by_popularity", "younger_than_a_day", "requests", "clicks", "policy"
    }  # fmt: skip
    assert tuple(report["recall@500"]) == ROWS
    for name, value in report["recall@500"].items():
        low, high = report["recall@500_ci"][name]
        assert 0 <= low <= value <= high <= 1
    assert 0 < report["requests"] <= material.config.evaluation.n_requests
    assert report["requests"] <= report["clicks"] <= len(material.random_test_clicks())
    assert report["recall@500"]["all_sources"] > 0.2
    assert report["recall@500"]["popularity"] > 0.05
    assert report["recall@500"]["oracle"] > 0.2


def test_popularity_groups_have_equal_size_and_average_to_the_recall(material):
    report = retrieval_report(with_settings(material, "evaluation", n_requests=10**6), Progress())
    groups = list(report["by_popularity"].values())
    sizes = [group["clicks"] for group in groups]
    assert (len(groups), sum(sizes), max(sizes) - min(sizes) <= 1) == (10, report["clicks"], True)
    for name in ROWS:
        mean = sum(group["clicks"] * group[name] for group in groups) / report["clicks"]
        assert mean == pytest.approx(report["recall@500"][name])
    for fewer, more in pairwise(groups):
        assert fewer["least_clicks_before"] <= fewer["most_clicks_before"] <= more["least_clicks_before"]
    assert groups[0]["popularity"] < groups[-1]["popularity"]
    events, clicks = material.logs.events, material.random_test_clicks()
    known = events.action == CLICK
    before = [
        np.sum(known & (events.post_row == post) & (events.ingest_time < now))
        for post, now in zip(clicks.post_row.tolist(), clicks.now.tolist(), strict=True)
    ]
    assert (groups[0]["least_clicks_before"], groups[-1]["most_clicks_before"]) == (min(before), max(before))


def test_young_posts_are_those_of_the_day_before_the_request(material):
    material = with_settings(material, "evaluation", n_requests=10**6)
    young = retrieval_report(material, Progress())["younger_than_a_day"]
    clicks = material.random_test_clicks()
    age = clicks.now - material.catalogue.created_at[clicks.post_row]
    assert 0 < young["clicks"] == (age < DAY).sum() < len(clicks)
    assert 0 < young["two_tower"] <= 1


def test_imported_logs_have_no_oracle(material):
    report = retrieval_report(replace(material, world=None), Progress())
    assert report["recall@500"]["oracle"] is None
    assert report["recall@500"]["two_tower"] > 0


def test_without_a_random_policy_recall_uses_all_clicks(material):
    shown = replace(material.logs, policies=tuple(name.upper() for name in material.logs.policies))
    report = retrieval_report(replace(with_settings(material, "evaluation", n_requests=10**6), logs=shown), Progress())
    assert report["policy"] is None
    assert report["clicks"] == material.test().click.sum()
    assert retrieval_report(material, Progress())["policy"] == "random"


def test_an_unlimited_budget_finds_every_click_on_an_allowed_post(material):
    material = with_settings(material, "evaluation", n_requests=10**6)
    report = retrieval_report(with_budget(material, material.catalogue.n_posts), Progress())
    recall = report[f"recall@{material.catalogue.n_posts}"]
    # Some clicked posts were labelled violations later: no source may return them.
    allowed = material.catalogue.visible[material.random_test_clicks().post_row].mean()
    assert 0.98 < allowed < 1
    assert recall["two_tower"] == recall["all_sources"] == recall["oracle"] == pytest.approx(allowed)
    assert recall["popularity"] < 1.0  # posts without a click are never popular


def test_a_larger_budget_never_finds_less(material):
    small = retrieval_report(with_budget(material, 500), Progress())["recall@500"]
    large = retrieval_report(with_budget(material, 1000), Progress())["recall@1000"]
    assert all(large[name] >= small[name] for name in ("popularity", "two_tower"))


def test_recall_uses_all_clicks_of_the_sampled_requests(material):
    report = retrieval_report(with_settings(material, "evaluation", n_requests=10**6), Progress())
    clicks = material.random_test_clicks()
    assert report["clicks"] == len(clicks)
    assert report["requests"] == len(np.unique(clicks.request_id))


def test_no_more_requests_than_asked_for(material):
    few = retrieval_report(with_settings(material, "evaluation", n_requests=10), Progress())
    assert few["requests"] == 10
    assert few == retrieval_report(with_settings(material, "evaluation", n_requests=10), Progress())
    assert few != retrieval_report(with_settings(material, "evaluation", n_requests=10, seed=1), Progress())


def test_recall_without_clicks_is_none(material):
    exposures = material.logs.exposures
    nobody = replace(exposures, click=exposures.click & (exposures.policy != material.logs.policies.index("random")))
    report = retrieval_report(replace(material, logs=replace(material.logs, exposures=nobody)), Progress())
    assert report["recall@500"] == report["recall@500_ci"] == dict.fromkeys(ROWS)
    assert report["requests"] == report["clicks"] == report["younger_than_a_day"]["clicks"] == 0
    assert report["by_popularity"]["10"]["most_clicks_before"] is None


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_rebuilt_trending_posts_equal_those_of_the_online_store(material, share):
    events = material.logs.events
    now = int(np.quantile(events.ingest_time, share))
    trends = _Trends(material)
    for moment in (now // 2, now):
        trends.advance(moment)
    known = (events.action == CLICK) & (events.ingest_time < now)
    ranked = trending.rank(material.catalogue, events.post_row[known], events.time[known], now, 1000)
    for language, (posts, _) in ranked.items():
        assert trends.of_language(language)[:30].tolist() == posts[:30].tolist()


def test_popular_posts_are_the_most_clicked_visible_posts(material):
    events, now = material.logs.events, material.logs_end
    trends = _Trends(material)
    trends.advance(now)
    clicked = events.action == CLICK
    score = np.zeros(material.catalogue.n_posts)
    for post, time in zip(events.post_row[clicked].tolist(), events.time[clicked].tolist(), strict=True):
        score[post] += 0.5 ** ((now - time) / DAY)
    score[~material.catalogue.visible] = 0
    assert trends.popular(20).tolist() == np.argsort(-score, kind="stable")[:20].tolist()


def test_the_releases_index_is_not_used(material):
    figures = retrieval_report(replace(material, index=None), Progress())
    assert figures["recall@500"] == retrieval_report(material, Progress())["recall@500"]
