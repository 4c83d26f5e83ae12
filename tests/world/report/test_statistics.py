"""The truth lies in the bands of the logs, and a wrong truth lies outside."""

import copy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from recsys.config import WorldConfig
from recsys.errors import DataError
from recsys.offline.lake.lake import Lake
from recsys.types import DAY
from recsys.world.behaviour.policies import POLICIES
from recsys.world.population.posts import _draw_copies
from recsys.world.population.texts import FINE, SPAM
from recsys.world.report.composition import composition, expected_copies
from recsys.world.report.evidence import read_evidence
from recsys.world.report.report import report_of
from recsys.world.report.statistics import (
    action_rates,
    calibration,
    click_rates,
    drift,
    dwell,
    gamma_quantiles,
    quantile,
    wilson,
)
from recsys.world.report.tails import (
    hill,
    log_normal_rate,
    power_tail,
    redrawn_session_shares,
    tail_statistics,
    top_share,
)
from recsys.world.world import World
from recsys.world.writing.simulate import simulate

SIZES = {
    "n_users": 1500, "n_posts": 5000, "n_authors": 150, "n_impressions": 200_000, "n_days": 5,
    "policy": {"random": 0.7, "popularity": 0.15, "personalised": 0.15},
}  # fmt: skip
N_WORLDS, ACTIVITY_TAILS = 60, (0.0, 1.1, 2.0)
FIGURES = (
    "tails", "position", "examination", "hour", "age", "same_topic", "depth", "drift", "calibration", "actions",
    "dwell", "shares",
)  # fmt: skip


def simulated(folder, **settings):
    """A world, its lake, its truth folder and the evidence read from them."""
    lake, truth = Lake(str(folder / "lake")), folder / "world" / "truth"
    written = simulate(WorldConfig.model_validate(SIZES | settings), lake, truth, 2, lambda done, total: None)
    world = World.open(folder / "world")
    return SimpleNamespace(world=world, lake=lake, truth=truth, written=written, seen=read(world, lake, truth))


def read(world, lake, truth, n_impressions=10**9):
    return read_evidence(world, lake, truth, n_impressions, lambda done, total: None)


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    return simulated(tmp_path_factory.mktemp("statistics"))


@pytest.fixture(scope="module")
def report(simulation):
    return report_of(simulation.world, simulation.lake, simulation.truth, simulation.seen)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Reports of sixty small worlds, a third each with equal, default and more unequal activity."""
    found = []
    for seed in range(1, N_WORLDS + 1):
        folder = tmp_path_factory.mktemp("worlds")
        small = simulated(
            folder, seed=seed, n_users=400, n_posts=1000, n_impressions=10_000, activity_tail=ACTIVITY_TAILS[seed % 3]
        )
        found.append(report_of(small.world, small.lake, small.truth, small.seen))
        shutil.rmtree(folder)
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_the_truth_lies_inside_the_simultaneous_bands_of_every_figure(reports, name):
    covered = [bool(report.figures[name].covered.all()) for report in reports]
    # Of sixty worlds, three should miss; that ten do has a chance of one in a thousand.
    assert covered.count(False) <= 9, covered


def test_bands_miss_the_truth_as_often_as_their_level_says(reports):
    covered = [bool(figure.covered.all()) for report in reports for figure in report.figures.values()]
    assert len(covered) == N_WORLDS * len(FIGURES)
    assert 0.93 <= np.mean(covered) <= 0.98


def test_a_sigma_near_zero_has_no_band(reports):
    for seed, report in enumerate(reports, 1):
        figure = report.figures["tails"]
        cell = figure.cells.index("sigma, sessions per user")
        assert figure.truth[cell] == ACTIVITY_TAILS[seed % 3]
        assert np.isnan(figure.low[cell]) == (figure.truth[cell] == 0)
        assert np.isfinite(figure.low[np.flatnonzero(np.isfinite(figure.truth))]).sum() == 2 + (figure.truth[cell] > 0)


def test_bands_of_session_shares_are_as_wide_as_their_scatter(simulation, report):
    users = simulation.world.population.users
    activity = users.activity[(users.created_at < simulation.world.population.start) & ~users.bot]
    draws = np.random.default_rng(1).multinomial(int(report.tails.sessions.sum()), activity / activity.sum(), 300)
    figure = report.figures["tails"]
    for share in (0.01, 0.1):
        cell = figure.cells.index(f"share of the top {share:.0%}, sessions")
        scatter = np.std([top_share(draw, share)[0] for draw in draws.astype(float)])
        assert figure.high[cell] - figure.estimate[cell] == pytest.approx(quantile(3) * scatter, rel=0.2)


@pytest.mark.parametrize("sigma", ACTIVITY_TAILS)
def test_redrawn_session_shares_scatter_around_the_truth(sigma):
    rng = np.random.default_rng(0)
    activity = np.exp(rng.normal(0, sigma, 400))
    again = redrawn_session_shares(3000, activity, rng)
    draws = rng.multinomial(3000, activity / activity.sum(), 1000).astype(float)
    for share, of in zip((0.01, 0.1), again.T, strict=True):
        off = np.array([top_share(draw, share)[0] for draw in draws]) - of.mean()
        assert 0.92 <= (abs(off) <= quantile(1) * of.std()).mean() <= 0.98


def test_dwell_bands_of_few_clicks_miss_equally_often_on_both_sides():
    rng = np.random.default_rng(0)
    mean = rng.uniform(5, 15, 12).astype(np.float32)
    seen = SimpleNamespace(dwell_s=mean, policy=np.zeros(1, int), request=np.zeros(12, int))
    figures = [dwell(SimpleNamespace(**vars(seen), dwelt=mean * rng.exponential(size=12))) for _ in range(3000)]
    above = np.mean([figure.truth[0] < figure.low[0] for figure in figures])
    below = np.mean([figure.truth[0] > figure.high[0] for figure in figures])
    one_of_two = (1 - 0.95**0.5) / 2  # the figure has the cells "all" and "random"
    assert (above, below) == pytest.approx((one_of_two, one_of_two), abs=0.006)


def test_gamma_quantiles_are_those_of_the_chi_square_tables():
    least, most = gamma_quantiles(np.array([5.0, 50.0]), quantile(1))
    assert least == pytest.approx([3.247 / 10, 74.222 / 100], rel=0.01)
    assert most == pytest.approx([20.483 / 10, 129.561 / 100], rel=0.01)


@pytest.mark.parametrize("first_is_fine", [True, False])
def test_expected_copies_equal_the_mean_of_drawn_copies(first_is_fine):
    rng = np.random.default_rng(0)
    label = np.where(rng.random(300) < 0.1, SPAM, FINE).astype(np.int32)
    label[0] = FINE if first_is_fine else SPAM
    config = WorldConfig(duplicate_share=0.3, edited_share=0.3)
    counts = np.array([np.bincount(_draw_copies(config, label, rng)[0], minlength=5)[1:] for _ in range(2000)])
    expected = expected_copies(label == FINE, 0.3, 0.3)
    error = counts.std(axis=0) / len(label) / len(counts) ** 0.5
    assert (abs(counts.mean(axis=0) / len(label) - expected) < 4 * error).all()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_bands_around_its_estimates_and_a_truth(report, name):
    figure = report.figures[name]
    assert list(report.figures) == list(FIGURES)
    assert (figure.low <= figure.estimate).all()
    assert (figure.estimate <= figure.high).all()
    known = np.isfinite(figure.truth)
    assert known.all() or name == "tails"
    assert known.sum() >= 3
    assert (figure.high > figure.low).all()


@pytest.mark.parametrize(
    ("name", "factor"),
    [("position", 1.15), ("hour", 1.3), ("age", 1.2), ("same_topic", 1.15), ("depth", 1.2), ("drift", 1.6),
     ("calibration", 1.1), ("actions", 1.1)],
)  # fmt: skip
def test_bands_exclude_click_probabilities_that_are_too_high(simulation, name, factor):
    other = replace(simulation.seen, click=simulation.seen.click * np.float32(factor))
    figures = {
        **click_rates(simulation.world, other), "drift": drift(simulation.world, other)[0],
        "calibration": calibration(other), "actions": action_rates(other),
    }  # fmt: skip
    assert not figures[name].covered.all()


@pytest.mark.parametrize("position_bias", [0.25, 0.55])
def test_bands_exclude_another_examination_curve(simulation, position_bias):
    other = copy.copy(simulation.world)
    other.config = simulation.world.config.model_copy(update={"position_bias": position_bias})
    assert not click_rates(other, simulation.seen)["examination"].covered.all()


def test_bands_exclude_a_longer_dwell(simulation):
    assert not dwell(replace(simulation.seen, dwell_s=simulation.seen.dwell_s * np.float32(1.1))).covered.all()


def test_bands_exclude_another_inequality_of_users(simulation):
    other = copy.copy(simulation.world)
    other.config = simulation.world.config.model_copy(update={"activity_tail": 1.3})
    figure = tail_statistics(other, simulation.seen).figure
    assert not figure.covered[figure.cells.index("sigma, sessions per user")]


def test_the_share_of_a_broken_field_is_outside_its_band(tmp_path):
    broken = {"kind": "broken_feature", "day": 2, "field": "posts.topic"}
    simulation = simulated(tmp_path, n_impressions=2000, n_users=200, changes=[broken])
    shares, _ = composition(simulation.world, simulation.lake, simulation.truth)
    outside = [cell for cell, inside in zip(shares.cells, shares.covered, strict=True) if not inside]
    assert "topic missing" in outside


def test_click_rates_need_random_policy_impressions(simulation):
    without_random = replace(simulation.seen, policy=np.full_like(simulation.seen.policy, POLICIES.index("popularity")))
    with pytest.raises(DataError, match=r"raise world\.policy\.random"):
        click_rates(simulation.world, without_random)


def test_every_impression_and_click_counts_once_despite_repeated_delivery(simulation):
    assert len(simulation.seen.click) == simulation.written.impressions
    assert simulation.seen.has_action(0).sum() == simulation.written.clicks
    rows = sum(len(simulation.lake.read(table, ["event_id"])) for table in ("impressions", "actions"))
    events = {
        event for table in ("impressions", "actions") for event in simulation.lake.read(table)["event_id"].to_pylist()
    }
    assert simulation.seen.n_repeated == rows - len(events) > 0


def test_a_limit_on_impressions_reads_the_oldest_whole_days(simulation):
    some = read(simulation.world, simulation.lake, simulation.truth, 100_000)
    day = (some.now - simulation.world.population.start) // DAY
    assert len(some.dates) == 2
    assert set(np.unique(day)) <= {0, 1, 2}  # a session may run over midnight
    assert len(some.click) <= 100_000
    assert len(some.click) + some.n_left_out == simulation.written.impressions
    assert (some.click == simulation.seen.click[: len(some.click)]).all()


def test_the_first_day_is_always_read(simulation):
    assert len(read(simulation.world, simulation.lake, simulation.truth, 1).dates) == 1


def test_a_truth_table_of_another_version_is_refused(simulation, tmp_path):
    (tmp_path / "impressions").mkdir()
    pd.DataFrame({"request_id": [1]}).to_parquet(tmp_path / "impressions" / "2026-01-05-0.parquet")
    with pytest.raises(DataError, match="run `recsys simulate` again"):
        read(simulation.world, simulation.lake, tmp_path)


def test_depth_counts_the_earlier_posts_of_the_session(simulation, report):
    rows = pd.DataFrame({"session": simulation.seen.session[simulation.seen.request], "random": simulation.seen.random})
    before = rows.groupby("session").cumcount()[rows.random]
    figure = report.figures["depth"]
    expected = np.histogram(before, [0, 1, 3, 6, 10, 20, 40, 10**6])[0]
    assert figure.n.tolist() == [n for n in expected.tolist() if n]
    assert figure.cells[:3] == ("0", "1 to 2", "3 to 5")


def test_taste_correlation_equals_the_correlation_of_tastes(simulation, report):
    users, done = simulation.world.population.users, 4.5 / 5
    of_users = [
        np.corrcoef(first, (1 - done) * first + done * last)[0, 1]
        for first, last in zip(users.taste_start.astype(float), users.taste_end.astype(float), strict=True)
    ]
    assert report.taste_correlation[-1] == pytest.approx(np.mean(of_users))
    assert (np.diff(report.taste_correlation) < 0).all()


def test_counts_of_copies_equal_the_truth(simulation, report):
    copies = simulation.world.population.posts.copy
    kinds = report.duplicates["kinds"]
    assert [row["posts"] for row in kinds.values()] == np.bincount(copies, minlength=5).tolist()
    assert kinds["repost"]["declared"] == kinds["repost"]["posts"]
    assert all(kinds[name]["declared"] == 0 for name in ("recased", "shortened", "edited"))
    assert kinds["shortened"]["word_overlap"] < kinds["edited"]["word_overlap"] < kinds["recased"]["word_overlap"] <= 1
    sizes = report.duplicates["sizes"]
    assert sum((int(size) - 1) * texts for size, texts in sizes.items()) == (copies > 0).sum()


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2535, 0.3682), (15, 148, 0.0598, 0.1644), (0, 20, 0.0, 0.2005), (1, 29, 0.0018, 0.1963)],
)
def test_wilson_bounds_equal_published_values(k, n, low, high):
    bounds = wilson(np.array([k]), np.array([n]), quantile(1))
    assert [float(bound[0]) for bound in bounds] == pytest.approx([low, high], abs=5e-5)


def test_simultaneous_bands_contain_all_cells_with_their_level():
    assert quantile(1) == pytest.approx(1.959964, abs=1e-5)
    drawn = np.random.default_rng(0).standard_normal((20_000, 12))
    assert (abs(drawn).max(axis=1) <= quantile(12)).mean() == pytest.approx(0.95, abs=0.006)


def test_the_exponent_of_a_drawn_power_law_is_recovered():
    # The continuous law from a half below the start, rounded: what the estimator approximates whole numbers by.
    rng = np.random.default_rng(0)
    counts = np.round(5.5 * (1 - rng.random(20_000)) ** (-1 / 1.5))
    fit = hill(counts, 6.0)
    assert fit.exponent == pytest.approx(2.5, abs=4 * fit.standard_error)
    assert fit.standard_error == pytest.approx(1.5 / 20_000**0.5, rel=0.05)


def test_the_fitted_tail_starts_where_the_power_law_does():
    rng = np.random.default_rng(0)
    body, tail = rng.integers(1, 20, 5000), np.round(19.5 * (1 - rng.random(5000)) ** (-1 / 1.2))
    fit = power_tail(np.concatenate([body, tail]).astype(float))
    assert 17 <= fit.start <= 30
    assert fit.exponent == pytest.approx(2.2, abs=4 * fit.standard_error)


def test_too_few_counts_have_no_power_law():
    assert power_tail(np.arange(40.0)) is None


def test_equal_rates_have_a_sigma_near_zero():
    counts = np.random.default_rng(0).poisson(8.0, 300).astype(float)
    assert log_normal_rate(counts).sigma < 0.15
    assert log_normal_rate(np.full(300, 10_000.0)).sigma == pytest.approx(0.01)


@pytest.mark.parametrize("sigma", [0.5, 1.1])
def test_the_sigma_of_log_normal_rates_is_recovered_from_counts(sigma):
    rng = np.random.default_rng(0)
    found = [log_normal_rate(rng.poisson(np.exp(rng.normal(0.7, sigma, 1500)))) for _ in range(30)]
    off = np.array([(fit.sigma - sigma) / fit.standard_error for fit in found])
    assert abs(off.mean()) < 0.7
    assert 0.7 < off.std() < 1.4


def test_rates_of_zero_counts_are_refused():
    with pytest.raises(ValueError, match="none is above 0"):
        log_normal_rate(np.zeros(10))


def test_top_shares_are_exact_and_their_standard_errors_match_sampling():
    assert top_share(np.array([6.0, 1, 1, 1, 1, 0, 0, 0, 0, 0]), 0.1)[0] == pytest.approx(0.6)
    rng = np.random.default_rng(0)
    held = [top_share(rng.lognormal(0, 0.7, 2000), 0.1) for _ in range(200)]
    shares, errors = np.array(held).T
    assert errors.mean() == pytest.approx(shares.std(), rel=0.15)
