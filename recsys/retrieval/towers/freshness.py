"""Freshness as dimensions of an inner product, so that an index of fixed vectors can search it.

A post's logit carries `sum_j amplitude_j * exp(-(now - created_at) / pace_j)` for a few fixed paces; the amplitudes are
learned for each topic. Because `exp(-(now - created) / pace) = exp(-(now - reference) / pace) * exp((created -
reference) / pace)`, each pace is one dimension of the inner product: the post's half is static, the user's half depends
on the time. It does not know the amplitudes.

Limit: float32 holds both halves only while `now` and `created_at` lie within 80 times the shortest pace (20 days) of
the reference. Beyond that the term fades out of index searches. `decay` is exact at any distance; scores use it.
"""

from __future__ import annotations

import math

import numpy as np

from recsys.types import DAY, HOUR, Doubles, Floats, Times

PACES = np.array([6 * HOUR, DAY, 5 * DAY], np.float64)
"""Microseconds in which each term falls to 1/e, (J,): for news of hours, of days and of a week."""

N_PACES = len(PACES)

INDEX_AGES = (0.0, float(PACES[1]), float(PACES[2]), math.inf)
"""Ages of an index (microseconds) at which it is tuned and checked. The weight of freshness in the inner product fades
with time, and an index tuned for queries of one age would lose recall at others."""

FLOAT32_SPAN = 140 * PACES.min()
"""Longest log (microseconds, 35 days) of which float32 holds both halves, relative to its middle."""

_LARGEST = np.exp(80.0)
"""Largest value of a half: its product with an amplitude stays within float32."""


def decay(age: Times) -> Floats:
    """Freshness of posts of this age (microseconds), (...,) to (..., J), in [0, 1]; a negative age counts as zero."""
    exponent: Doubles = np.maximum(age, 0)[..., None] / -PACES
    return np.exp(exponent).astype(np.float32)


def post_part(created_at: Times, reference: int) -> Doubles:
    """The post's static half of `decay`, (N,) to (N, J)."""
    return _exp((created_at - np.int64(reference))[:, None] / PACES)


def user_part(now: Times, reference: int) -> Doubles:
    """The user's half of `decay`, which depends on the time, (B,) to (B, J)."""
    return _exp((now - np.int64(reference))[:, None] / -PACES)


def later(users: Floats, passed: float) -> Floats:
    """The same users' vectors, (B, D), `passed` microseconds later, without new clicks; after `math.inf` freshness has
    no weight."""
    faded = users.copy()
    faded[:, -N_PACES:] *= np.exp(-passed / PACES).astype(np.float32)
    return faded


def to_float32(half: Doubles) -> Floats:
    """Either half as float32, clamped so that the product of both stays in float32's range."""
    return np.minimum(half, _LARGEST).astype(np.float32)


def _exp(exponent: Doubles) -> Doubles:
    half: Doubles = np.exp(np.minimum(exponent, 700.0))
    return half
