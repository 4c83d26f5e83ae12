"""From scores to probabilities: two numbers, fitted on later, unsampled exposures.

Takes log-odds of a model and labels of the calibrators' share of time, gives a monotone map. Monotone, so calibration
never changes an order. Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999, with Newton's method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.types import Doubles, Mask

_LEAST_SLOPE = 1e-3


class Calibration(NamedTuple):
    """P = logistic(slope * log-odds + intercept + offset)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, logit: Doubles, offset: Doubles | float = 0.0) -> Doubles:
        """(N,) log-odds, and what positions add to them, to (N,) probabilities in (0, 1)."""
        return logistic(self.slope * logit + self.intercept + offset)


def logistic(logit: Doubles) -> Doubles:
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -30.0, 30.0)))


def fit_calibration(logit: Doubles, label: Mask, offset: Doubles | float = 0.0) -> Calibration:
    """Least log loss with the slope kept positive: scores that order backwards get the base rate, not a reversed order.

    Args:
        logit: the model's log-odds, (N,).
        label: (N,).
        offset: log-odds that positions add, (N,); the slope leaves them alone, as they are not the model's.
    """
    x = np.column_stack([logit, np.ones(len(logit))])
    # Platt's targets: one success and one failure more than seen, so that the fit exists for any labels.
    n_clicks = int(label.sum())
    target = np.where(label, (n_clicks + 1) / (n_clicks + 2), 1 / (len(label) - n_clicks + 2))
    weight = np.array([1.0, fit_intercept(logit + offset, target)])
    loss = _loss(x @ weight + offset, target)
    for _ in range(50):
        p = logistic(x @ weight + offset)
        gradient = x.T @ (p - target)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        # Full steps may overshoot far from the optimum, for good.
        while (new := _loss(x @ (weight - step) + offset, target)) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        weight, loss = weight - step, min(new, loss)
        if np.abs(step).max() < 1e-9:
            break
    if weight[0] < _LEAST_SLOPE:
        return Calibration(_LEAST_SLOPE, fit_intercept(_LEAST_SLOPE * logit + offset, target))
    return Calibration(float(weight[0]), float(weight[1]))


def fit_intercept(logit: Doubles, target: Doubles) -> float:
    """The constant that makes the mean probability meet the mean target.

    Args:
        logit: log-odds without it, (N,).
        target: probabilities or labels, (N,), not all 0 and not all 1.
    """
    rate = float(target.mean())
    intercept = float(np.log(rate / (1 - rate)) - logit.mean())
    for _ in range(50):
        p = logistic(logit + intercept)
        step = (rate - float(p.mean())) / max(float((p * (1 - p)).mean()), 1e-12)
        intercept += float(np.clip(step, -2.0, 2.0))
        if abs(step) < 1e-10:
            break
    return intercept


def _loss(logit: Doubles, target: Doubles) -> float:
    return float((np.logaddexp(0.0, logit) - target * logit).sum())
