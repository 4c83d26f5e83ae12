"""Off-policy estimates: the reward a target policy would have had, from the logs of another policy.

Takes rewards and importance weights; gives estimates with intervals. A weight is the target policy's probability of the
logged decision, divided by the logging policy's. For a slate, both are products over its positions, given the recorded
candidates; so only targets that choose among these candidates can be estimated. It does not know the world, models or
logs.

Sources: Horvitz, Thompson, "A Generalization of Sampling Without Replacement From a Finite Universe", JASA 1952;
Bottou et al., "Counterfactual Reasoning and Learning Systems", JMLR 2013, section 4; Swaminathan, Joachims, "The
Self-Normalized Estimator for Counterfactual Learning", NeurIPS 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from recsys.types import Doubles

_Z = 1.959963984540054
"""95% of a normal distribution lie within this many standard deviations of the mean."""


@dataclass(frozen=True)
class Estimate:
    """Estimated mean reward per decision under the target policy."""

    value: float
    low: float
    """Lower bound of the normal 95% interval."""
    high: float
    """Upper bound of the normal 95% interval."""
    effective_sample_size: float
    """Decisions by the target policy that would be as informative: (sum of weights)^2 / sum of squared weights."""
    mean_weight: float
    """Near 1 if the logs support the target; far below 1 if the logging policy rarely did what the target does."""
    n: int
    """Number of decisions."""
    n_units: int
    """Number of independent units the decisions belong to."""


def importance_weights(target: ArrayLike, logged: ArrayLike) -> Doubles:
    """Importance weight of each decision, (E,).

    Args:
        target: P(decision) under the target policy, in [0, 1], (E,).
        logged: P(decision) under the logging policy, in (0, 1], (E,).
    Raises: ValueError when a probability lies outside its range or the shapes differ.
    """
    wanted, had = np.asarray(target, np.float64), np.asarray(logged, np.float64)
    if wanted.shape != had.shape:
        raise ValueError(f"target and logged probabilities must have one shape, got {wanted.shape} and {had.shape}")
    _require("logged propensities must lie in (0, 1]", had, (had > 0) & (had <= 1))
    _require("target probabilities must lie in [0, 1]", wanted, (wanted >= 0) & (wanted <= 1))
    weights: Doubles = wanted / had
    return weights


def inverse_propensity(reward: ArrayLike, weight: ArrayLike, unit: ArrayLike | None = None) -> Estimate:
    """Inverse propensity estimate: the mean of weight x reward, unbiased for any rewards.

    Without `unit`, the estimate is the value of answering these decisions in their logged states (candidates, and what
    the session had shown). Given its state, a decision's weighted reward misses that value by an error of mean zero,
    so errors of different decisions are uncorrelated. To generalise to other users, pass the user (or session) as unit:
    the rows of a unit then count together, and only units are taken to be independent.

    Args:
        reward: reward of each decision, (E,).
        weight: from `importance_weights`, (E,).
        unit: id of each decision's unit, any integers, (E,); None makes each decision its own unit.
    Raises: ValueError when shapes differ, a weight is negative or not finite, or there are fewer than two units.
    """
    rewards, weights, units = _checked(reward, weight, unit)
    weighted = weights * rewards
    value = float(weighted.mean())
    return _estimate(value, weighted - value, weights, units, float(len(weights)))


def self_normalised(reward: ArrayLike, weight: ArrayLike, unit: ArrayLike | None = None) -> Estimate:
    """Self-normalised estimate: the weighted mean of rewards; slightly biased, less variable when weights vary.

    Args and Raises: as `inverse_propensity`; also ValueError when all weights are zero. The interval is that of a ratio
    of means, linearised.
    """
    rewards, weights, units = _checked(reward, weight, unit)
    total = float(weights.sum())
    if not total:
        raise ValueError("at least one weight must be > 0, got only zeros: the logs never did what the target would do")
    value = float((weights * rewards).sum() / total)
    return _estimate(value, weights * (rewards - value), weights, units, total)


def _require(rule: str, values: Doubles, valid: np.ndarray) -> None:
    """Raise ValueError with the first invalid value, if there is one."""
    if not valid.all():
        raise ValueError(f"{rule}, got {values[~valid].flat[0]:g}; rows without a valid one cannot be used")


def _checked(reward: ArrayLike, weight: ArrayLike, unit: ArrayLike | None) -> tuple[Doubles, Doubles, np.ndarray]:
    """Validated rewards, weights and unit numbers 0, 1, ..., (E,) each."""
    rewards, weights = np.asarray(reward, np.float64), np.asarray(weight, np.float64)
    names = np.arange(len(rewards)) if unit is None else np.asarray(unit)
    if not rewards.shape == weights.shape == names.shape:
        raise ValueError(
            f"rewards, weights and units must have one shape, got {rewards.shape}, {weights.shape} and {names.shape}"
        )
    _require("weights must be finite and at least 0", weights, np.isfinite(weights) & (weights >= 0))
    units = np.unique(names, return_inverse=True)[1]
    if len(units) == 0 or units.max() < 1:
        raise ValueError(f"an interval needs at least two units, got {units.max() + 1 if len(units) else 0}")
    return rewards, weights, units


def _estimate(value: float, error: Doubles, weights: Doubles, units: np.ndarray, total: float) -> Estimate:
    """Estimate with the interval that follows from each row's `error`, summed over the rows of a unit."""
    of_unit = np.bincount(units, error)  # (n_units,)
    n_units = len(of_unit)
    half = _Z * float(np.sqrt((of_unit**2).sum() * n_units / (n_units - 1))) / total
    squares = float((weights**2).sum())
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        effective_sample_size=float(weights.sum()) ** 2 / squares if squares else 0.0,
        mean_weight=float(weights.mean()),
        n=len(weights),
        n_units=n_units,
    )
