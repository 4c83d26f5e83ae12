"""Use follows the hours of the day and the days of the week as the settings say."""

import numpy as np
import pytest

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR
from recsys.world.behaviour.calendar import draw_times, hourly_use
from recsys.world.population.population import start_of

WEEKDAY_USE = np.array([1, 1, 1, 1, 1.05, 1.2, 1.15])
"""Use by weekday, Monday first."""


def drawn_times(start, **settings):
    config = WorldConfig(start=start, **settings)
    return draw_times(400_000, config, start_of(config), np.random.default_rng(0))


def assert_proportional(expected, counts):
    expected = expected / expected.sum() * counts.sum()
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_weekday_use_does_not_depend_on_the_first_day_of_the_logs(strength):
    from_saturday = np.bincount(drawn_times("2026-01-03", n_days=7, weekly_use=strength) // DAY)
    assert_proportional(1 + strength * (WEEKDAY_USE[[5, 6, 0, 1, 2, 3, 4]] - 1), from_saturday)


def test_use_peaks_in_the_evening_only_with_daily_use():
    of_hour = np.bincount(drawn_times("2026-01-05") // HOUR % 24)
    assert of_hour.argmax() == 20
    assert of_hour.max() > 2.5 * of_hour.min()
    assert_proportional(np.ones(24), np.bincount(drawn_times("2026-01-05", daily_use=0) // HOUR % 24))


def test_hourly_shares_sum_to_one_over_the_period():
    config = WorldConfig(n_days=9)
    share = hourly_use(config, start_of(config))
    assert len(share) == 24 * 9
    assert share.sum() == pytest.approx(1)
    assert (share > 0).all()


def test_drawn_times_ascend_within_the_period():
    times = drawn_times("2026-01-05", n_days=5)
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] <= times[-1] < 5 * DAY
