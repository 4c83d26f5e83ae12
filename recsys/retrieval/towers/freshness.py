"""How a post ages, in a form that an index of vectors that never change can search.

A post's logit carries `sum_j amplitude_j * exp(-(now - created_at) / pace_j)` for a few fixed paces; the amplitudes are
learned for each topic. Because `exp(-(now - created) / pace) = exp(-(now - reference) / pace) * exp((created -
reference) / pace)`, each pace is one dimension of the inner product: the post's part is static, the user's part carries
the moment. It does not know the amplitudes.

Limit: float32 holds the split only while `now` and `created_at` lie within 80 of the shortest pace (20 days) of the
reference. Beyond that the term fades out of index searches; `decay` itself is exact at any distance, and scores are
always computed with it.
"""

from __future__ import annotations

import math

import numpy as np

from recsys.types import DAY, HOUR, Doubles, Floats, Times

PACES = np.array([6 * HOUR, DAY, 5 * DAY], np.float64)
"""Microseconds in which each term falls to 1/e, (J,). An hour's news, a day's, a week's."""

N_PACES = len(PACES)

MOMENTS = (0.0, float(PACES[1]), float(PACES[2]), math.inf)
"""Microseconds after an index is built at which it must be as good, so that it is at any time: what a user likes of
fresh posts fades in the inner product, and lists shaped by one moment's users serve that moment."""

FLOAT32_SPAN = 140 * PACES.min()
"""Microseconds (35 days) within which float32 holds both halves relative to the middle."""

_LARGEST = np.exp(80.0)
"""Far enough from float32's largest number that a product with an amplitude stays finite."""


def decay(age: Times) -> Floats:
    """Freshness of posts of this age in microseconds, (...,) to (..., J), in [0, 1]; ages below zero count as zero."""
    exponent: Doubles = np.maximum(age, 0)[..., None] / -PACES
    return np.exp(exponent).astype(np.float32)


def post_part(created_at: Times, reference: int) -> Doubles:
    """The static half of `decay`, (N,) to (N, J)."""
    return _exp((created_at - np.int64(reference))[:, None] / PACES)


def user_part(now: Times, reference: int) -> Doubles:
    """The moving half of `decay`, (B,) to (B, J)."""
    return _exp((now - np.int64(reference))[:, None] / -PACES)


def later(users: Floats, passed: float) -> Floats:
    """Vectors of users, (B, D), as they will be after so many microseconds if the users do nothing; after `math.inf`
    freshness is gone."""
    faded = users.copy()
    faded[:, -N_PACES:] *= np.exp(-passed / PACES).astype(np.float32)
    return faded


def to_float32(half: Doubles) -> Floats:
    """Either half for a float32 vector, cut where a product with the other could leave float32's range."""
    return np.minimum(half, _LARGEST).astype(np.float32)


def _exp(exponent: Doubles) -> Doubles:
    half: Doubles = np.exp(np.minimum(exponent, 700.0))
    return half
