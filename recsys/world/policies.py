"""The logging policies and their propensities.

Each request records a set of candidates; a policy drawn from the stated mixture orders them by Plackett-Luce sampling
of its scores. The propensity logged is the mixture's: P(post at k | earlier positions, recorded candidates), where the
earlier positions also tell which policy is likely at work, so the product over a slate is the mixture's probability of
the slate. The noise in the personalised policy's guess counts as known: it is drawn before, and apart from, what the
user does.
"""

from __future__ import annotations

import numpy as np

from recsys.types import HOUR
from recsys.world.choice import is_following
from recsys.world.kernels import JIT
from recsys.world.sampling import gumbel, normal

POLICIES = ("random", "popularity", "personalised")
RANDOM = 0

_GUESS_NOISE = 0.6
"""Logit noise of the personalised policy's guess of taste."""


@JIT
def score_candidates(truth, clicks, user, now, candidates, n, state, scores):  # type: ignore[no-untyped-def]
    """Scores (logits of Plackett-Luce weights) of the first n candidates under each policy, into (3, M)."""
    for i in range(n):
        post = candidates[i]
        age = max(now - truth.post_created_at[post], 0) / HOUR
        fresh = 0.35 * np.log1p(age / 12.0)
        scores[0, i] = 0.0
        scores[1, i] = 0.8 * np.log1p(clicks[post]) - fresh
        # It knows the taste of the first day, with noise: good, not perfect, and older by the day.
        guess = truth.taste_start[user, truth.post_topic[post]] + _GUESS_NOISE * normal(state)
        if is_following(truth, user, truth.post_author[post]):
            guess += truth.follow_bonus
        scores[2, i] = guess - fresh


@JIT
def order_by(scores, n, k, state, order, keys):  # type: ignore[no-untyped-def]
    """The first k of n candidates in a Plackett-Luce order of their scores, into `order` (Yellott 1977)."""
    for i in range(n):
        keys[i] = scores[i] + gumbel(state)
    for place in range(k):
        best = -1
        for i in range(n):
            if keys[i] > -np.inf and (best < 0 or keys[i] > keys[best]):
                best = i
        order[place] = best
        keys[best] = -np.inf


@JIT
def mixture_propensities(scores, mixture, n, k, order, out):  # type: ignore[no-untyped-def]
    """P(order[j] at j | order[:j], candidates) under the mixture of policies, into out[:k]."""
    n_policies = scores.shape[0]
    weight = np.empty((n_policies, n))
    left = np.empty(n_policies)
    taken = np.zeros(n, np.bool_)
    so_far = mixture.copy()
    for p in range(n_policies):
        top = scores[p, :n].max()
        left[p] = 0.0
        for i in range(n):
            weight[p, i] = np.exp(scores[p, i] - top)
            left[p] += weight[p, i]
    for j in range(k):
        before, after = 0.0, 0.0
        for p in range(n_policies):
            before += so_far[p]
            chosen = weight[p, order[j]]
            # Summed anew where subtraction would leave rounding error only; the largest weight is 1.
            if left[p] < 1e-6:
                left[p] = 0.0
                for i in range(n):
                    if not taken[i]:
                        left[p] += weight[p, i]
            so_far[p] *= min(chosen / max(left[p], chosen), 1.0)
            left[p] -= chosen
            after += so_far[p]
        out[j] = after / before
        taken[order[j]] = True
        total = after
        for p in range(n_policies):
            so_far[p] /= total
