"""When the world is awake: hours of the day, days of the week.

Takes the settings and a first day, gives weights of hours and moments drawn by them. It does not know what happens
then.
"""

from __future__ import annotations

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR, Doubles, Times

_HOURS = np.arange(24)
_HOURLY = 0.55 * np.cos((_HOURS - 20) / 24 * 2 * np.pi) + 0.25 * np.cos((_HOURS - 8) / 12 * 2 * np.pi)
"""Use by UTC hour around its mean: an evening peak, a smaller one in the morning."""
_DAILY = np.array([0.0, 0.0, 0.0, 0.0, 0.05, 0.2, 0.15])
"""Use by weekday, Monday first, around a working day's."""


def hourly_use(config: WorldConfig, start: int) -> Doubles:
    """Share of all use in each hour of the period, sum 1, (24 n_days,).

    Args:
        start: a midnight, microseconds.
    """
    weekday = (start // DAY + 3 + np.arange(config.n_days)) % 7  # 1970-01-01 was a Thursday, weekday 3
    use = (1.0 + config.weekly_use * _DAILY[weekday])[:, None] * (1.0 + config.daily_use * _HOURLY)
    share: Doubles = (use / use.sum()).ravel()
    return share


def draw_moments(n: int, config: WorldConfig, start: int, rng: np.random.Generator) -> Times:
    """Moments of the period by its rhythm, microseconds since `start`, ascending, (n,)."""
    of_hour = rng.multinomial(n, hourly_use(config, start))
    moments = np.repeat(np.arange(len(of_hour)) * HOUR, of_hour) + rng.integers(0, HOUR, n)
    moments.sort()
    return moments
