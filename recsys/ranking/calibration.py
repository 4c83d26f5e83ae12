"""Platt calibration: turn a model's log-odds into probabilities with a slope and an intercept.

Takes log-odds and labels of the calibrators' share of time, which the model has not seen; gives a monotone map, so
calibration never changes an order. Source: Platt, "Probabilistic Outputs for Support Vector Machines", 1999; fitted by
Newton's method.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.types import Doubles, Mask

_MIN_SLOPE = 1e-3
"""The slope stays positive, so that calibration never reverses an order."""


class Calibration(NamedTuple):
    """P = logistic(slope * log-odds + intercept + offset)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, logit: Doubles, offset: Doubles | float = 0.0) -> Doubles:
        """Calibrated P(click) in (0, 1), (N,).

        Args:
            logit: the model's log-odds, (N,).
            offset: log-odds that positions add, (N,); 0 for position 0.
        """
        return logistic(self.slope * logit + self.intercept + offset)


def logistic(logit: Doubles) -> Doubles:
    """1 / (1 + e^-x), in (0, 1), any shape; x is clamped to +-30."""
    return 1.0 / (1.0 + np.exp(-np.clip(logit, -30.0, 30.0)))


def fit_calibration(logit: Doubles, label: Mask, offset: Doubles | float = 0.0) -> Calibration:
    """Fit slope and intercept by least log loss, with a positive slope.

    If the scores order clicks backwards, the slope is `_MIN_SLOPE`: all rows get about the base rate.

    Args:
        logit: the model's log-odds, (N,).
        label: clicked or not, (N,).
        offset: log-odds that positions add, (N,). They are not the model's, so the slope does not scale them.
    """
    x = np.column_stack([logit, np.ones(len(logit))])  # (N, 2)
    # Platt's targets: one click and one non-click more than seen, so that a finite fit exists for any labels.
    n_clicks = int(label.sum())
    target = np.where(label, (n_clicks + 1) / (n_clicks + 2), 1 / (len(label) - n_clicks + 2))
    weight = np.array([1.0, fit_intercept(logit + offset, target)])
    loss = _loss(x @ weight + offset, target)
    for _ in range(50):
        p = logistic(x @ weight + offset)
        gradient = x.T @ (p - target)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        # Far from the optimum a full Newton step may diverge: halve it until the loss falls.
        while (new := _loss(x @ (weight - step) + offset, target)) > loss and np.abs(step).max() > 1e-12:
            step /= 2
        weight, loss = weight - step, min(new, loss)
        if np.abs(step).max() < 1e-9:
            break
    if weight[0] < _MIN_SLOPE:
        return Calibration(_MIN_SLOPE, fit_intercept(_MIN_SLOPE * logit + offset, target))
    return Calibration(float(weight[0]), float(weight[1]))


def fit_intercept(logit: Doubles, target: Doubles) -> float:
    """The intercept for which the mean probability equals the mean target.

    Args:
        logit: log-odds without the intercept, (N,).
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
