import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.calibration import Calibration, fit_calibration, fit_intercept, logistic


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, -1.0), (2.0, 0.7), (0.1, -4.0)])
def test_known_slope_and_intercept_are_recovered(slope, intercept):
    rng = np.random.default_rng(0)
    logit = rng.normal(-1.0, 2.0, 200_000)
    label = rng.random(len(logit)) < logistic(slope * logit + intercept)
    fitted = fit_calibration(logit, label)
    assert fitted.slope == pytest.approx(slope, abs=0.05)
    assert fitted.intercept == pytest.approx(intercept, abs=0.1)


def test_what_positions_add_is_not_scaled_with_the_model():
    rng = np.random.default_rng(5)
    logit, offset = rng.normal(-1.0, 1.0, 200_000), rng.choice([0.0, -2.0], 200_000)
    label = rng.random(len(logit)) < logistic(3.0 * logit + 0.5 + offset)
    fitted = fit_calibration(logit, label, offset)
    assert fitted.slope == pytest.approx(3.0, abs=0.1)
    for at in (0.0, -2.0):
        rows = offset == at
        assert fitted.probability(logit, offset)[rows].mean() == pytest.approx(label[rows].mean(), rel=0.03)


@pytest.mark.parametrize("far", [-60.0, -8.0, 8.0, 60.0])
def test_the_fit_converges_from_scores_far_off(far):
    rng = np.random.default_rng(1)
    truth = rng.normal(-2.5, 1.0, 50_000)
    label = rng.random(len(truth)) < logistic(truth)
    probability = fit_calibration(20 * truth + far, label).probability(20 * truth + far)
    np.testing.assert_allclose(probability, logistic(truth), atol=0.02)


def test_the_fit_meets_the_click_rate():
    rng = np.random.default_rng(2)
    logit = rng.normal(-3, 1, 20_000)
    label = rng.random(20_000) < 0.07
    assert fit_calibration(logit, label).probability(logit).mean() == pytest.approx(label.mean(), rel=0.01)


def test_reversed_scores_give_the_base_rate_and_keep_their_order():
    rng = np.random.default_rng(3)
    logit = rng.normal(-3, 1, 20_000)
    label = rng.random(20_000) < logistic(-logit - 6)
    fitted = fit_calibration(logit, label)
    assert fitted.slope > 0
    assert fitted.probability(logit).mean() == pytest.approx(label.mean(), rel=0.01)


def test_equal_scores_give_the_click_rate():
    label = np.arange(1000) < 50
    assert fit_calibration(np.full(1000, -2.0), label).probability(np.array([-2.0]))[0] == pytest.approx(0.05, abs=2e-3)


@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=2, max_size=40))
def test_every_fit_is_finite_and_keeps_the_order(rows):
    logit = np.array([score for score, _ in rows])
    fitted = fit_calibration(logit, np.array([label for _, label in rows]))
    assert np.isfinite(fitted).all()
    probability = fitted.probability(np.sort(logit))
    assert ((probability > 0) & (probability < 1)).all()
    assert (np.diff(probability) >= 0).all()


def test_the_default_calibration_changes_nothing():
    assert Calibration().probability(np.array([0.0, 1.0])).tolist() == pytest.approx([0.5, 0.7310585786])


def test_the_fitted_intercept_gives_the_mean_target():
    logit = np.random.default_rng(4).normal(5, 3, 1000)
    intercept = fit_intercept(logit, np.full(1000, 0.03))
    assert logistic(logit + intercept).mean() == pytest.approx(0.03)
