"""Logistic regression: a baseline ranker, and the estimate of position bias that all rankers share.

Columns go through `features.transforms`. Each logged position has a weight, learned together with the features: this
separates the effect of the position from the quality of the posts in it. Serving leaves the position out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from sklearn.linear_model import LogisticRegression

from recsys.config import RankingConfig
from recsys.features.transforms import Transforms, fit_transforms
from recsys.ranking.examples import Examples
from recsys.types import Doubles, Floats, Rows

_MAX_ROWS = 400_000
"""Training rows, at most, the newest; a linear model gains nothing from more."""
_ARRAYS = ("weight", "intercept", "position")
_MAX_POSITIONS = 100
"""Later positions share the last weight, so that a client cannot inflate the number of columns."""


@dataclass(frozen=True)
class LinearModel:
    """Log-odds = transforms(features) @ weight + intercept + position."""

    transforms: Transforms
    weight: Doubles
    intercept: float
    position: Doubles
    """Log-odds a position adds relative to position 0, (P,)."""

    def logit(self, features: Floats) -> Doubles:
        """Log-odds at position 0, (N,)."""
        return self.transforms.design(features) @ self.weight + self.intercept

    def position_logit(self, position: Rows) -> Doubles:
        """Log-odds that logged positions add, (N,). Later positions get the last weight, unknown ones 0."""
        if not len(self.position):
            return np.zeros(len(position))
        return np.where(position >= 0, self.position[np.clip(position, 0, len(self.position) - 1)], 0.0)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.transforms.save(folder / "transforms")
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", np.asarray(getattr(self, name)))

    @classmethod
    def load(cls, folder: Path) -> Self:
        arrays = {name: np.load(folder / f"{name}.npy") for name in _ARRAYS}
        return cls(Transforms.load(folder / "transforms"), **{**arrays, "intercept": float(arrays["intercept"])})


def fit_linear(examples: Examples, config: RankingConfig) -> LinearModel:
    """Fit transforms and weights on the newest rows: log loss with a small L2 penalty."""
    features, click = examples.features[-_MAX_ROWS:], examples.click[-_MAX_ROWS:]
    position = np.minimum(examples.position[-_MAX_ROWS:], _MAX_POSITIONS - 1)
    transforms = fit_transforms(features, config.scaling, config.min_category_rows)
    design = transforms.design(features)
    n_positions = int(position.max()) + 1
    at = (position[:, None] == np.arange(1, max(n_positions, 1))).astype(
        np.float32
    )  # (N, P - 1), position 0 is the base
    solver = LogisticRegression(C=1.0, max_iter=300, tol=1e-4)
    solver.fit(np.hstack([design, at]), click)
    weight = solver.coef_[0].astype(np.float64)
    n = design.shape[1]
    position_logit = np.concatenate([[0.0], weight[n:]])[:n_positions]
    return LinearModel(transforms, weight[:n], float(solver.intercept_[0]), position_logit)
