"""The logging policies and their propensities.

Each request records its candidates. A policy drawn from the stated mixture orders them by Plackett-Luce sampling from
its weights. The logged propensity is the mixture's: P(post at k | earlier positions, recorded candidates). The earlier
positions also say which policy is likely at work, so the product over a slate is the mixture's probability of that
slate. The propensity is conditional on the noise in the personalised policy's guess, which is drawn before what the
user does and independently of it.
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
def weigh_candidates(truth, viewer, candidates, state, weights):  # type: ignore[no-untyped-def]
    """Write the Plackett-Luce weights of n candidates under each policy into weights[:, :n], (3, M).

    Args:
        viewer: `candidates.Viewer`.
        candidates: post rows, (n,).
    """
    taste = truth.users[viewer.user].taste_start
    for i in range(candidates.shape[0]):
        facts = truth.posts[candidates[i]]
        age = max(viewer.now - facts.created_at, 0) / HOUR
        fresh = (1.0 + age / 12.0) ** -0.35
        weights[0, i] = 1.0
        weights[1, i] = facts.popular * fresh
        # The personalised policy sees the first day's taste with noise: good, imperfect, and worse every day.
        guess = taste[facts.topic] + _GUESS_NOISE * normal(state)
        if viewer.relation[facts.author] == FOLLOWED:
            guess += truth.follow_bonus
        weights[2, i] = np.exp(guess) * fresh


@JIT
def draw_order(weights, n, k, state, order, keys):  # type: ignore[no-untyped-def]
    """Draw the first k of n candidates in Plackett-Luce order into `order`, by an exponential race.

    Each candidate draws a time from Exponential(weight); the k earliest win.

    Args:
        weights: > 0, (>= n,).
        order: gets places among the candidates, (>= k,).
        keys: scratch, (>= n,).

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
    """Write P(order[j] at j | order[:j], candidates) under the mixture of policies into out[:k].

    With w policy p's weights and L its weights left over at j, P(order[:j + 1]) = sum over p of
    mixture[p] x product of w[order[i]] / L[i]. The propensity at j is the ratio of this at j + 1 to that at j.

    Args:
        weights: Plackett-Luce weights, > 0, (P, >= n).
        mixture: shares of the policies, summing to 1, (P,).
        scratch: (3, P).
    """
    n_policies = weights.shape[0]
    # All (P,): P(policy) x P(slate so far | policy), rescaled at every position; weights left; weights at the last sum.
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
            # After many subtractions from a large total only rounding error would be left: sum the rest again.
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
