"""Logistic regression: the baseline every other ranker must beat, and the estimate of position bias they share.

Columns are standardised, categories one-hot. Each logged position has a weight of its own, learned together with the
features, so that what a position adds is not mistaken for what good posts in it add; scoring for serving leaves the
position out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from recsys.features.spec import CATEGORICAL, NAMES
from recsys.ranking.examples import Examples
from recsys.types import Doubles, Floats, Rows

_MAX_ROWS = 400_000
"""A linear model has learned all it can by then."""
_MAX_POSITIONS = 100
"""Later positions share the last weight; the number of columns must not depend on what a client claims."""
_NUMERIC = np.array([i for i, name in enumerate(NAMES) if name not in CATEGORICAL])


@dataclass(frozen=True)
class LinearModel:
    """Log-odds = features @ weight + position."""

    mean: Doubles
    """(numeric columns,)."""
    scale: Doubles
    n_categories: Rows
    """Categories of each categorical column, the missing one included, (len(CATEGORICAL),)."""
    weight: Doubles
    intercept: float
    position: Doubles
    """Log-odds a position adds relative to position 0, (P,)."""

    def logit(self, features: Floats) -> Doubles:
        """Log-odds at position 0, (N,)."""
        return _design(features, self.mean, self.scale, self.n_categories) @ self.weight + self.intercept

    def position_logit(self, position: Rows) -> Doubles:
        """What logged positions add, (N,); the last known one stands for later ones, 0 for unknown."""
        if not len(self.position):
            return np.zeros(len(position))
        return np.where(position >= 0, self.position[np.clip(position, 0, len(self.position) - 1)], 0.0)


def fit_linear(examples: Examples) -> LinearModel:
    """Least log loss with a little ridge, on the newest rows."""
    features, click = examples.features[-_MAX_ROWS:], examples.click[-_MAX_ROWS:]
    position = np.minimum(examples.position[-_MAX_ROWS:], _MAX_POSITIONS - 1)
    numeric = features[:, _NUMERIC].astype(np.float64)
    mean, scale = numeric.mean(axis=0), np.maximum(numeric.std(axis=0), 1e-6)
    n_categories = np.array([int(examples.features[:, NAMES.index(c)].max()) + 2 for c in CATEGORICAL], np.int32)
    design = _design(features, mean, scale, n_categories)
    n_positions = int(position.max()) + 1
    at = (position[:, None] == np.arange(1, max(n_positions, 1))).astype(np.float32)
    solver = LogisticRegression(C=1.0, max_iter=100, tol=1e-4)
    solver.fit(np.hstack([design, at]), click)
    weight = solver.coef_[0].astype(np.float64)
    n = design.shape[1]
    position_logit = np.concatenate([[0.0], weight[n:]])[:n_positions]
    return LinearModel(mean, scale, n_categories, weight[:n], float(solver.intercept_[0]), position_logit)


def _design(features: Floats, mean: Doubles, scale: Doubles, n_categories: Rows) -> Floats:
    """Standardised numbers and one-hot categories, (N, columns); a category never seen in training is all zeros."""
    parts = [((features[:, _NUMERIC] - mean) / scale).astype(np.float32)]
    for name, n in zip(CATEGORICAL, n_categories.tolist(), strict=True):
        column = features[:, NAMES.index(name)].astype(np.int64) + 1
        parts.append((column[:, None] == np.arange(n)).astype(np.float32))
    return np.hstack(parts)
