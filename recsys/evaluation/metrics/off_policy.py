"""What a policy would have earned, from the logs of another: inverse propensities.

Takes rewards and weights, gives estimates with intervals. A weight is the target policy's probability of what was done
divided by that of the policy that did it. For a slate both are products over its positions, given the recorded
candidates: an estimate speaks only of targets that choose among those. It does not know the world, models or logs.

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
"""Standard deviations to either side that hold 95% of a normal law."""


@dataclass(frozen=True)
class Estimate:
    """The mean reward per decision that the target policy would have had."""

    value: float
    low: float
    """Bounds of the normal 95% interval."""
    high: float
    effective_sample_size: float
    """Decisions that would say as much if the target had made them: (sum of weights)^2 / sum of squared weights."""
    mean_weight: float
    """Near 1 where the logs support the target; far below, it does what the logged policy hardly ever did."""
    n: int
    """Decisions."""
    n_units: int
    """Of these, independent ones."""


def importance_weights(target: ArrayLike, logged: ArrayLike) -> Doubles:
    """Weight of each decision, (E,).

    Args:
        target: P(decision) under the policy that is asked about, in [0, 1], (E,).
        logged: P(decision) under the policy that made it, in (0, 1], (E,).
    Raises: ValueError when a probability lies outside its range or the shapes differ.
    """
    wanted, had = np.asarray(target, np.float64), np.asarray(logged, np.float64)
    if wanted.shape != had.shape:
        raise ValueError(f"target and logged probabilities must have one shape, got {wanted.shape} and {had.shape}")
    _refuse("logged propensities must lie in (0, 1]", had, (had > 0) & (had <= 1))
    _refuse("target probabilities must lie in [0, 1]", wanted, (wanted >= 0) & (wanted <= 1))
    weights: Doubles = wanted / had
    return weights


def inverse_propensity(reward: ArrayLike, weight: ArrayLike, unit: ArrayLike | None = None) -> Estimate:
    """The mean of weight x reward: unbiased, whatever the rewards.

    Given what a decision found (candidates, and what its session had shown), its weighted reward is off the target's
    value by an error of mean zero, whatever happened before: errors are uncorrelated from decision to decision, and
    the value is that of answering these decisions in their logged states. Pass no unit for that. Pass the session, or
    the user for a statement about other users too, where states are themselves a sample: rows of a unit then count
    together, and units alone are taken to be independent.

    Args:
        reward: of each decision, (E,).
        weight: of `importance_weights`, (E,).
        unit: id of each decision's unit, any integers, (E,); None makes each its own.
    Raises: ValueError when shapes differ, a weight is negative or not finite, or there are fewer than two units.
    """
    rewards, weights, units = _checked(reward, weight, unit)
    weighted = weights * rewards
    value = float(weighted.mean())
    return _estimate(value, weighted - value, weights, units, float(len(weights)))


def self_normalised(reward: ArrayLike, weight: ArrayLike, unit: ArrayLike | None = None) -> Estimate:
    """The mean of rewards weighted by weight: a little biased, steadier where weights vary a lot.

    Args and Raises: as `inverse_propensity`; ValueError also when all weights are zero. The interval is that of a
    ratio of means, by its linear part.
    """
    rewards, weights, units = _checked(reward, weight, unit)
    total = float(weights.sum())
    if not total:
        raise ValueError("at least one weight must be > 0, got only zeros: the logs never did what the target would do")
    value = float((weights * rewards).sum() / total)
    return _estimate(value, weights * (rewards - value), weights, units, total)


def _refuse(rule: str, values: Doubles, fine: np.ndarray) -> None:
    if not fine.all():
        raise ValueError(f"{rule}, got {values[~fine].flat[0]:g}; rows without a valid one cannot be used")


def _checked(reward: ArrayLike, weight: ArrayLike, unit: ArrayLike | None) -> tuple[Doubles, Doubles, np.ndarray]:
    """Rewards, weights and the place of each decision's unit."""
    rewards, weights = np.asarray(reward, np.float64), np.asarray(weight, np.float64)
    names = np.arange(len(rewards)) if unit is None else np.asarray(unit)
    if not rewards.shape == weights.shape == names.shape:
        raise ValueError(
            f"rewards, weights and units must have one shape, got {rewards.shape}, {weights.shape} and {names.shape}"
        )
    _refuse("weights must be finite and at least 0", weights, np.isfinite(weights) & (weights >= 0))
    units = np.unique(names, return_inverse=True)[1]
    if len(units) == 0 or units.max() < 1:
        raise ValueError(f"an interval needs at least two units, got {units.max() + 1 if len(units) else 0}")
    return rewards, weights, units


def _estimate(value: float, error: Doubles, weights: Doubles, units: np.ndarray, total: float) -> Estimate:
    """The interval of a mean whose rows are off by `error`, rows of a unit together."""
    of_unit = np.bincount(units, error)
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
