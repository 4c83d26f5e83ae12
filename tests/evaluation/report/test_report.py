import io
import json
import shutil

import pytest
from rich.console import Console

from recsys.evaluation.report.report import evaluate, over_seeds, show
from recsys.offline.lake.lake import Lake
from recsys.progress import Progress

FIGURES = {"auc", "auc_ci", "gauc", "log_loss", "ne", "ece", "calibration_error"}
CLICKS = {"true_clicks", "true_clicks_ci"}


@pytest.fixture(scope="module")
def report(tiny_world):
    return evaluate(tiny_world, Progress())


def shown(report) -> str:
    text = io.StringIO()
    show(report, Console(file=text, width=160))
    return text.getvalue()


def test_the_report_has_these_keys(report):
    assert set(report) == {"release", "negatives", "retrieval", "ranking", "slate"}
    assert set(report["retrieval"]) == {
        "recall@500", "recall@500_ci", "by_popularity", "younger_than_a_day", "requests", "clicks", "policy",
    }  # fmt: skip
    assert (report["negatives"], report["retrieval"]["policy"]) == ("shown", "random")
    assert set(report["retrieval"]["recall@500"]) == {
        "popularity", "matrix_factorisation", "two_tower", "followed", "trending", "fresh", "covisited", "all_sources",
        "oracle",
    }  # fmt: skip
    assert set(report["ranking"]) == {"popularity", "logistic", "lightgbm", "oracle"}
    assert all(set(row) == FIGURES for row in report["ranking"].values())
    assert set(report["slate"]) == {
        "random", "popularity", "full", "oracle", "share_of_oracle", "share_of_oracle_ci", "requests",
    }  # fmt: skip
    assert all(set(report["slate"][name]) == CLICKS for name in ("random", "popularity", "full", "oracle"))


def test_the_report_is_json_without_nan(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_the_same_release_gives_the_same_report(report, tiny_world):
    assert evaluate(tiny_world, Progress()) == report


def test_the_table_shows_the_figures(report):
    text = shown(report)
    assert f"{report['ranking']['lightgbm']['auc']:.4f}" in text
    assert f"{report['slate']['share_of_oracle']:.4f}" in text
    assert f"{report['retrieval']['recall@500']['two_tower']:.4f}" in text
    assert f"{report['retrieval']['by_popularity']['10']['two_tower']:.4f}" in text
    assert "younger than a day" in text


def test_without_a_world_only_figures_that_need_the_truth_are_null(copied_world):
    Lake(copied_world.lake_url).finish({})
    shutil.rmtree(copied_world.world_path)
    report = evaluate(copied_world, Progress())
    json.dumps(report, allow_nan=False)
    assert set(report["ranking"]["oracle"].values()) == {None}
    assert report["slate"]["share_of_oracle"] is None
    assert report["slate"]["full"] == {"true_clicks": None, "true_clicks_ci": None}
    assert report["ranking"]["lightgbm"]["auc"] > 0.5
    assert report["retrieval"]["recall@500"]["all_sources"] > 0
    assert "share of oracle" in shown(report)


@pytest.mark.parametrize(("negatives", "said"), [("sampled", True), ("shown", False)])
def test_the_table_says_when_unclicked_rows_were_drawn(report, negatives, said):
    text = shown({**report, "negatives": negatives, "retrieval": {**report["retrieval"], "policy": None}})
    assert ("clicks against sampled posts: no click rates" in text) == said
    assert "random-policy" not in text


def test_several_worlds_have_means_and_narrower_intervals():
    def one(value):
        ranking = {"auc": value, "auc_ci": [0, 1], "gauc": None}
        return {"release": "r", "negatives": "shown", "ranking": ranking, "slate": {"share": value}}

    both = over_seeds({4: one(0.2), 5: one(0.6)})
    half = (0.5**2 + 0.5**2) ** 0.5 / 2
    assert both["ranking"] == {
        "auc": pytest.approx(0.4), "auc_ci": pytest.approx([0.4 - half, 0.4 + half]), "gauc": None
    }  # fmt: skip
    assert both["slate"]["share"] == pytest.approx(0.4)
    assert both["release"] is None
    assert both["negatives"] == "shown"
    assert both["seeds"] == {"4": one(0.2), "5": one(0.6)}


def test_the_table_of_several_worlds_is_shown_too(report):
    assert "share of oracle" in shown(over_seeds({0: report, 1: report}))
