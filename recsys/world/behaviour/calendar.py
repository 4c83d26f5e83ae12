"""When people use the feed: hours of the day, days of the week.

Takes the settings and a first day, gives the share of use in each hour and times drawn from these shares. It does not
know what happens at those times.
"""

from __future__ import annotations

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR, Doubles, Times

_HOURS = np.arange(24)
_HOUR_CURVE = 0.55 * np.cos((_HOURS - 20) / 24 * 2 * np.pi) + 0.25 * np.cos((_HOURS - 8) / 12 * 2 * np.pi)
"""Use by UTC hour, relative to its mean, minus 1: a peak at 20:00 and a smaller one in the morning."""
_WEEKDAY_CURVE = np.array([0.0, 0.0, 0.0, 0.0, 0.05, 0.2, 0.15])
"""Use by weekday, Monday first, relative to a working day, minus 1."""


def hourly_use(config: WorldConfig, start: int) -> Doubles:
    """Share of all use in each hour of the period, summing to 1, (24 n_days,).

    Args:
        start: midnight of the first day, microseconds.
    """
    weekday = (start // DAY + 3 + np.arange(config.n_days)) % 7  # 1970-01-01 was a Thursday, weekday 3
    use = (1.0 + config.weekly_use * _WEEKDAY_CURVE[weekday])[:, None] * (1.0 + config.daily_use * _HOUR_CURVE)
    share: Doubles = (use / use.sum()).ravel()
    return share


def draw_times(n: int, config: WorldConfig, start: int, rng: np.random.Generator) -> Times:
    """Draw n times by `hourly_use`, microseconds since `start`, ascending, (n,)."""
    of_hour = rng.multinomial(n, hourly_use(config, start))
    times = np.repeat(np.arange(len(of_hour)) * HOUR, of_hour) + rng.integers(0, HOUR, n)
    times.sort()
    return times
