import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from recsys.evaluation.metrics.clicks import (
    auc,
    auc_by_rank,
    bootstrap_over_users,
    calibration_gap,
    dense_ranks,
    gauc,
    log_loss,
    normalised_entropy,
    ranking_figures,
)


def mask(values):
    return np.array(values, bool)


rows = st.lists(
    st.tuples(st.sampled_from([0.05, 0.1, 0.2, 0.4, 0.7]), st.booleans(), st.integers(0, 4)), min_size=1, max_size=60
).map(lambda drawn: [np.array(column) for column in zip(*drawn, strict=True)])


def test_auc_by_hand():
    score = np.array([0.1, 0.4, 0.35, 0.8])
    assert auc(score, mask([0, 0, 1, 1])) == 0.75
    assert auc(score, mask([1, 1, 0, 0])) == 0.25
    assert auc(np.array([1.0, 2.0]), mask([0, 1])) == 1.0


def test_ties_count_half():
    assert auc(np.array([0.5, 0.5]), mask([0, 1])) == 0.5
    assert auc(np.array([0.2, 0.5, 0.5, 0.9]), mask([0, 0, 1, 1])) == (1 + 0.5 + 1 + 1) / 4


@given(rows)
def test_auc_equals_scikit_learn(drawn):
    score, label, _ = drawn
    if label.all() or not label.any():
        assert auc(score, label) is None
    else:
        assert auc(score, label) == pytest.approx(roc_auc_score(label, score))


@given(rows, st.data())
def test_auc_of_drawn_rows_can_reuse_the_ranks_of_all_rows(drawn, data):
    score, label, _ = drawn
    chosen = np.array(data.draw(st.lists(st.integers(0, len(score) - 1), min_size=1, max_size=80)))
    by_rank = auc_by_rank(dense_ranks(score)[chosen], label[chosen])
    some = label[chosen]
    assert by_rank == (None if some.all() or not some.any() else pytest.approx(roc_auc_score(some, score[chosen])))


@given(rows)
def test_gauc_is_each_users_auc_weighted_by_impressions(drawn):
    score, label, user = drawn
    total = weight = 0.0
    for one in set(user.tolist()):
        own = user == one
        value = auc(score[own], label[own])
        if value is not None:
            total, weight = total + own.sum() * value, weight + own.sum()
    assert gauc(score, label, user) == (pytest.approx(total / weight) if weight else None)


def test_gauc_ignores_differences_between_users():
    score = np.array([0.9, 0.8, 0.2, 0.1])
    user = np.array([1, 1, 2, 2])
    assert gauc(score, mask([1, 0, 1, 0]), user) == 1.0
    assert auc(score, mask([1, 0, 1, 0])) == 0.75


@given(rows)
def test_log_loss_equals_scikit_learn(drawn):
    probability, label, _ = drawn
    assert log_loss(probability, label) == pytest.approx(sklearn_log_loss(label, probability, labels=[False, True]))


def test_log_loss_of_a_certain_but_wrong_forecast_is_finite():
    assert 20 < log_loss(np.array([0.0, 1.0]), mask([1, 0])) < 40


def test_always_predicting_the_base_rate_has_normalised_entropy_one():
    label = mask([1, 0, 0, 0, 0])
    assert normalised_entropy(np.full(5, 0.2), label) == pytest.approx(1.0)
    by_hand = -(np.log(0.5) + 4 * np.log(0.9)) / 5 / -(0.2 * np.log(0.2) + 0.8 * np.log(0.8))
    assert normalised_entropy(np.array([0.5, 0.1, 0.1, 0.1, 0.1]), label) == pytest.approx(by_hand)
    assert normalised_entropy(np.full(2, 0.2), mask([0, 0])) is None


def test_calibration_gap_by_hand():
    probability = np.array([0.6, 0.1, 0.8, 0.3])
    # Bins (0.1, 0.3) with one click of two, and (0.6, 0.8) with two of two.
    assert calibration_gap(probability, mask([1, 0, 1, 1]), n_bins=2) == pytest.approx((0.3 + 0.3) / 2)
    # Bins need not be equal: three rows in two bins are two and one.
    assert calibration_gap(np.array([0.2, 0.4, 0.9]), mask([0, 1, 1]), n_bins=2) == pytest.approx((2 * 0.2 + 0.1) / 3)


def test_the_calibration_gap_is_small_for_true_probabilities_and_large_for_doubled_ones():
    rng = np.random.default_rng(0)
    probability = rng.beta(1, 15, 200_000)
    label = rng.random(200_000) < probability
    assert calibration_gap(probability, label) / label.mean() < 0.05
    assert calibration_gap(2 * probability, label) / label.mean() == pytest.approx(1.0, abs=0.05)


def test_with_fewer_rows_than_bins_each_row_is_a_bin():
    assert calibration_gap(np.array([0.2, 0.7]), mask([0, 1])) == pytest.approx(0.25)


def test_a_ranker_has_all_figures():
    figures = ranking_figures(np.array([0.1, 0.4, 0.35, 0.8]), mask([0, 0, 1, 1]), np.array([1, 1, 1, 1]))
    assert figures["auc"] == figures["gauc"] == 0.75
    assert figures["calibration_error"] == pytest.approx(figures["ece"] / 0.5)
    assert set(figures) == {"auc", "gauc", "log_loss", "ne", "ece", "calibration_error"}


def test_undefined_figures_are_none():
    figures = ranking_figures(np.array([0.1, 0.4]), mask([0, 0]), np.array([1, 1]))
    assert {name for name, value in figures.items() if value is None} == {"auc", "gauc", "ne", "calibration_error"}


def mean_of(values):
    return lambda chosen: {"mean": float(values[chosen].mean())}


def test_bootstrap_intervals_have_their_nominal_coverage():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        taste = rng.normal(5.0, 1.0, 60)  # one value per user, three noisy rows each
        user = np.repeat(np.arange(60), 3)
        values = taste[user] + rng.normal(0, 0.1, 180)
        low, high = bootstrap_over_users(mean_of(values), user, 100, rng)["mean"]
        covered += low <= 5.0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_a_drawn_user_brings_all_its_rows():
    values, user = np.array([0.0, 10.0] * 20), np.arange(40)
    single = bootstrap_over_users(mean_of(values), user, 50, np.random.default_rng(2))
    repeated = bootstrap_over_users(mean_of(np.repeat(values, 7)), np.repeat(user, 7), 50, np.random.default_rng(2))
    assert repeated["mean"] == pytest.approx(single["mean"])
    seen = []
    shuffled = np.random.default_rng(3).permutation(np.repeat(np.arange(5), 3))
    bootstrap_over_users(lambda chosen: seen.append(shuffled[chosen]) or {}, shuffled, 20, np.random.default_rng(4))
    assert all((np.bincount(drawn) % 3 == 0).all() and len(drawn) == 15 for drawn in seen)
    assert any(np.bincount(drawn).max() > 3 for drawn in seen)


def test_undefined_draws_are_left_out_of_the_interval():
    user = np.arange(3)
    sometimes = bootstrap_over_users(
        lambda chosen: {"a": 1.0 if (chosen == 0).any() else None, "b": None}, user, 30, np.random.default_rng(5)
    )
    assert sometimes == {"a": [1.0, 1.0], "b": None}
    nobody = np.empty(0, np.int64)
    assert bootstrap_over_users(lambda chosen: {"a": None}, nobody, 30, np.random.default_rng(6)) == {"a": None}
