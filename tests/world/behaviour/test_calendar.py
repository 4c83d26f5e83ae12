"""The world wakes and sleeps as set, by the hour and by the day of the week."""

import numpy as np
import pytest

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR
from recsys.world.behaviour.calendar import draw_times, hourly_use
from recsys.world.population.population import start_of

OF_WEEKDAY = np.array([1, 1, 1, 1, 1.05, 1.2, 1.15])
"""Monday first."""


def moments(start, **settings):
    config = WorldConfig(start=start, **settings)
    return draw_times(400_000, config, start_of(config), np.random.default_rng(0))


def assert_drawn_by(expected, counts):
    expected = expected / expected.sum() * counts.sum()
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()


@pytest.mark.parametrize("strength", [1.0, 0.5, 0.0])
def test_the_week_has_its_rhythm_on_whatever_day_the_logs_start(strength):
    from_saturday = np.bincount(moments("2026-01-03", n_days=7, weekly_use=strength) // DAY)
    assert_drawn_by(1 + strength * (OF_WEEKDAY[[5, 6, 0, 1, 2, 3, 4]] - 1), from_saturday)


def test_the_evening_is_busy_and_the_night_is_not_only_with_daily_use():
    of_hour = np.bincount(moments("2026-01-05") // HOUR % 24)
    assert of_hour.argmax() == 20
    assert of_hour.max() > 2.5 * of_hour.min()
    assert_drawn_by(np.ones(24), np.bincount(moments("2026-01-05", daily_use=0) // HOUR % 24))


def test_shares_of_hours_sum_to_one_over_the_period():
    config = WorldConfig(n_days=9)
    share = hourly_use(config, start_of(config))
    assert len(share) == 24 * 9
    assert share.sum() == pytest.approx(1)
    assert (share > 0).all()


def test_moments_ascend_within_the_period():
    times = moments("2026-01-05", n_days=5)
    assert (np.diff(times) >= 0).all()
    assert 0 <= times[0] <= times[-1] < 5 * DAY
