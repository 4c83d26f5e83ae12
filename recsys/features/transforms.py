"""Transforms for linear models: fill and flag missing numbers, scale numbers, one-hot encode categories.

Fitted on training rows only and saved with the model. Takes the (N, F) matrix of `assemble`; gives (N, columns)
float32:

    numbers of spec.FEATURES, in order | a flag per column ever missing in training | per category: kept, rare, missing

Trees take the matrix itself, with rare categories folded into one (`fold`). It does not know labels or positions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Literal, Self

import numpy as np

from recsys.features.spec import CATEGORICAL, MAX_CATEGORIES, MAX_QUANTILES, NAMES
from recsys.lookup import lookup
from recsys.types import Doubles, Floats, Ids, Mask, Rows

Scaling = Literal["standard", "quantile"]

_NUMERIC = np.array([i for i, name in enumerate(NAMES) if name not in CATEGORICAL])
_CATEGORICAL = np.array([NAMES.index(name) for name in CATEGORICAL])
_SETTINGS = "settings.json"

# A value beyond the outermost training quantiles gets the score of half a quantile, which keeps it finite.
_SHARE = np.linspace(0.5 / MAX_QUANTILES, 1 - 0.5 / MAX_QUANTILES, 991)
_SCORE = np.array([NormalDist().inv_cdf(share) for share in _SHARE])


@dataclass(frozen=True)
class Transforms:
    """Learned statistics of M numeric columns and of the categorical columns."""

    scaling: Scaling
    median: Doubles
    """Median of the numbers present, 0 if there were none; replaces missing numbers, (M,)."""
    flagged: Mask
    """Columns that were ever missing in training, (M,). Other columns get the median without a flag."""
    mean: Doubles
    """Mean of the filled columns, (M,)."""
    scale: Doubles
    """Standard deviation; infinite for constant columns, which then become 0, (M,)."""
    quantiles: Doubles
    """Evenly spaced training quantiles of the filled columns, ascending, (Q, M)."""
    category_start: Ids
    """Categorical column c keeps `categories[category_start[c]:category_start[c + 1]]`, (columns + 1,)."""
    categories: Rows
    """Ascending within a column."""

    def design(self, features: Floats) -> Floats:
        """Matrix for a linear model, (N, F) to (N, columns), finite."""
        numbers = features[:, _NUMERIC].astype(np.float64)
        missing = np.isnan(numbers)
        numbers = np.where(missing, self.median, numbers)
        scaled = (numbers - self.mean) / self.scale if self.scaling == "standard" else self._normal_scores(numbers)
        parts = [scaled, missing[:, self.flagged]]
        for place, (start, end) in enumerate(zip(self.category_start[:-1], self.category_start[1:], strict=True)):
            code = _codes(features[:, _CATEGORICAL[place]], self.categories[start:end])
            parts.append(code[:, None] == np.arange(end - start + 2))
        return np.hstack([part.astype(np.float32) for part in parts])

    def fold(self, features: Floats) -> Floats:
        """A copy of (N, F) for trees: kept categories renumbered, rare ones as one category, missing ones NaN."""
        folded = features.copy()
        for place, (start, end) in enumerate(zip(self.category_start[:-1], self.category_start[1:], strict=True)):
            code = _codes(features[:, _CATEGORICAL[place]], self.categories[start:end])
            folded[:, _CATEGORICAL[place]] = np.where(code <= end - start, code, np.nan)
        return folded

    def _normal_scores(self, numbers: Doubles) -> Doubles:
        """Rank among the training quantiles, as a normal score, (N, M); equal quantiles share their mean rank."""
        rank = np.linspace(0.0, 1.0, len(self.quantiles))
        scores = np.zeros_like(numbers)
        for column in np.flatnonzero(np.isfinite(self.scale)):
            x, q = numbers[:, column], self.quantiles[:, column]
            share = (np.interp(x, q, rank) - np.interp(-x, -q[::-1], -rank[::-1])) / 2
            scores[:, column] = np.interp(share, _SHARE, _SCORE)
        return scores

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / _SETTINGS).write_text(json.dumps({"scaling": self.scaling}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        settings = json.loads((folder / _SETTINGS).read_text())
        return cls(**settings, **{name: np.load(folder / f"{name}.npy") for name in _ARRAYS})


_ARRAYS = tuple(column.name for column in fields(Transforms) if column.name != "scaling")


def fit_transforms(features: Floats, scaling: Scaling, min_category_rows: int) -> Transforms:
    """Learn transforms from training rows.

    Args:
        features: (N, F), at least one row.
        scaling: `standard` subtracts the mean and divides by the deviation; `quantile` gives normal scores.
        min_category_rows: categories with fewer rows share one column, as do those beyond the `MAX_CATEGORIES` most
            frequent.
    """
    m = len(_NUMERIC)
    median, mean, scale, flagged = np.zeros(m), np.zeros(m), np.full(m, np.inf), np.zeros(m, bool)
    rank = np.linspace(0.0, 1.0, min(MAX_QUANTILES, len(features)))
    quantiles = np.empty((len(rank), m))
    for place, column in enumerate(_NUMERIC):
        numbers = features[:, column].astype(np.float64)
        missing = np.isnan(numbers)
        flagged[place] = missing.any()
        median[place] = 0.0 if missing.all() else np.median(numbers[~missing])
        numbers[missing] = median[place]
        mean[place], quantiles[:, place] = numbers.mean(), np.quantile(numbers, rank)
        if numbers.min() < numbers.max():
            scale[place] = numbers.std()
    kept = [_frequent(features[:, column], min_category_rows) for column in _CATEGORICAL]
    start = np.cumsum([0, *map(len, kept)])
    return Transforms(scaling, median, flagged, mean, scale, quantiles, start, np.concatenate(kept))


def _frequent(column: Floats, min_rows: int) -> Rows:
    """The most frequent categories with enough rows, at most `MAX_CATEGORIES`, ascending; ties: lower number first."""
    values, counts = np.unique(column[column >= 0].astype(np.int32), return_counts=True)
    enough = counts >= min_rows
    values, counts = values[enough], counts[enough]
    return np.sort(values[np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]])


def _codes(column: Floats, kept: Rows) -> Rows:
    """Place of each category among the kept ones; len(kept) for rare or unseen, len(kept) + 1 for missing, (N,)."""
    present = column >= 0  # False for NaN and -1
    value = np.where(present, column, -1).astype(np.int32)
    place = lookup(kept.astype(np.int64), value)
    return np.where(present, np.where(place >= 0, place, len(kept)), len(kept) + 1).astype(np.int32)
