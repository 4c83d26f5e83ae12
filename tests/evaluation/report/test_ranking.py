from dataclasses import replace

import numpy as np
import pytest

from recsys.evaluation.report.ranking import ranking_report
from recsys.ranking import examples as examples_module
from recsys.ranking.examples import build_examples

FIGURES = {"auc", "auc_ci", "gauc", "log_loss", "ne", "ece", "calibration_error"}


@pytest.fixture(scope="module")
def report(material):
    return ranking_report(material)


def test_every_ranker_has_every_figure(report):
    assert list(report) == ["popularity", "logistic", "lightgbm", "oracle"]
    for row in report.values():
        assert set(row) == FIGURES
        assert row["auc_ci"][0] <= row["auc"] <= row["auc_ci"][1]


def test_the_oracle_beats_the_models_and_the_models_beat_popularity(report):
    for name in ("popularity", "logistic", "lightgbm"):
        assert report["oracle"]["auc"] > report[name]["auc"]
        assert report["oracle"]["log_loss"] < report[name]["log_loss"]
    assert report["lightgbm"]["auc"] > report["popularity"]["auc"]
    assert report["logistic"]["auc"] > report["popularity"]["auc"]
    assert report["oracle"]["ne"] < 1


def test_without_a_world_the_oracle_has_no_figures_and_the_models_keep_theirs(material, report):
    without = ranking_report(replace(material, world=None))
    assert without["oracle"] == dict.fromkeys(FIGURES)
    assert without["lightgbm"]["auc"] == pytest.approx(report["lightgbm"]["auc"], abs=0.05)


def test_features_of_an_exposure_do_not_depend_on_other_exposures(material, monkeypatch):
    test = material.test()
    parts = (material.catalogue, material.logs.events)
    models = (material.towers, material.post_vectors, material.config.online.history_size, 1)
    together = build_examples(*parts, test, *models)
    monkeypatch.setattr(examples_module, "_REQUESTS_AT_ONCE", 7)
    first = build_examples(*parts, test.take(slice(0, 300)), *models)
    np.testing.assert_allclose(first.features, together.features[:300], rtol=2e-5, atol=2e-6)
    assert first.click.tolist() == together.click[:300].tolist()
