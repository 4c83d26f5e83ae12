"""The logging policies and their propensities.

Each request records a set of candidates; a policy drawn from the stated mixture orders them by Plackett-Luce sampling
of its weights. The propensity logged is the mixture's: P(post at k | earlier positions, recorded candidates), where the
earlier positions also tell which policy is likely at work, so the product over a slate is the mixture's probability of
the slate. The noise in the personalised policy's guess counts as known: it is drawn before, and apart from, what the
user does.
"""

from __future__ import annotations

import numpy as np

from recsys.types import HOUR
from recsys.world.behaviour.candidates import FOLLOWED
from recsys.world.behaviour.random_numbers import exponential, normal
from recsys.world.jit import JIT

POLICIES = ("random", "popularity", "personalised")
RANDOM = 0

_GUESS_NOISE = 0.6
"""Logit noise of the personalised policy's guess of taste."""


@JIT
def weigh_candidates(truth, user, relation, now, candidates, n, state, weights):  # type: ignore[no-untyped-def]
    """Plackett-Luce weights of the first n candidates under each policy, into (3, M).

    Args:
        relation: FOLLOWED where the user follows an author, (A,).
    """
    taste = truth.users[user].taste_start
    for i in range(n):
        facts = truth.posts[candidates[i]]
        age = max(now - facts.created_at, 0) / HOUR
        fresh = (1.0 + age / 12.0) ** -0.35
        weights[0, i] = 1.0
        weights[1, i] = facts.popular * fresh
        # It knows the taste of the first day, with noise: good, not perfect, and older by the day.
        guess = taste[facts.topic] + _GUESS_NOISE * normal(state)
        if relation[facts.author] == FOLLOWED:
            guess += truth.follow_bonus
        weights[2, i] = np.exp(guess) * fresh


@JIT
def order_by(weights, n, k, state, order, keys):  # type: ignore[no-untyped-def]
    """The first k of n candidates in a Plackett-Luce order of their weights, into `order`: an exponential race.

    Source: Efraimidis, Spirakis, "Weighted random sampling with a reservoir", IPL 2006.
    """
    for i in range(n):
        keys[i] = exponential(state) / weights[i]
    for place in range(k):
        best = 0
        for i in range(1, n):
            if keys[i] < keys[best]:
                best = i
        order[place] = best
        keys[best] = np.inf


@JIT
def mixture_propensities(weights, mixture, n, k, order, scratch, out):  # type: ignore[no-untyped-def]
    """P(order[j] at j | order[:j], candidates) under the mixture of policies, into out[:k].

    Args:
        weights: Plackett-Luce weights, > 0, (P, >= n).
        mixture: shares of the policies, sum 1, (P,).
        scratch: (3, P).
    """
    n_policies = weights.shape[0]
    so_far, left, total = scratch[0], scratch[1], scratch[2]
    for p in range(n_policies):
        so_far[p] = mixture[p]
        left[p] = 0.0
        for i in range(n):
            left[p] += weights[p, i]
        total[p] = left[p]
    for j in range(k):
        before, after = 0.0, 0.0
        for p in range(n_policies):
            before += so_far[p]
            chosen = weights[p, order[j]]
            # Summed anew where subtraction from a large total would leave rounding error only.
            if left[p] < 1e-6 * total[p]:
                left[p] = 0.0
                for i in range(n):
                    taken = False
                    for earlier in range(j):
                        taken |= order[earlier] == i
                    if not taken:
                        left[p] += weights[p, i]
                total[p] = left[p]
            so_far[p] *= min(chosen / max(left[p], chosen), 1.0)
            left[p] -= chosen
            after += so_far[p]
        out[j] = after / before
        for p in range(n_policies):
            so_far[p] /= after
