"""From the matrix to what a linear model can add up: gaps filled and flagged, numbers scaled, categories one-hot.

Fitted on training rows only and saved with the model. Takes `(N, F)` of `assemble`, gives `(N, columns)` float32: the
numbers of `spec.FEATURES` in their order, one flag for each that was ever missing in training, then for each category
its kept values, the rare ones together, the missing. Trees take the matrix itself with its rare categories folded. It
does not know labels or positions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import NormalDist
from typing import Literal, Self

import numpy as np

from recsys.features.spec import CATEGORICAL, MAX_CATEGORIES, MAX_QUANTILES, NAMES
from recsys.types import Doubles, Floats, Ids, Mask, Rows

Scaling = Literal["standard", "quantile"]

_NUMERIC = np.array([i for i, name in enumerate(NAMES) if name not in CATEGORICAL])
_CATEGORICAL = np.array([NAMES.index(name) for name in CATEGORICAL])
_SETTINGS = "settings.json"

# Beyond the outermost training quantiles nothing is known but that: half a quantile keeps the score finite.
_SHARE = np.linspace(0.5 / MAX_QUANTILES, 1 - 0.5 / MAX_QUANTILES, 991)
_SCORE = np.array([NormalDist().inv_cdf(share) for share in _SHARE])


@dataclass(frozen=True)
class Transforms:
    """What was learned about M numeric columns and the categorical ones."""

    scaling: Scaling
    median: Doubles
    """Of the numbers that were there, 0 when none was; stands for what is missing, (M,)."""
    flagged: Mask
    """Columns that were ever missing in training, (M,). Others missing at serving get the median without a flag."""
    mean: Doubles
    """Of the filled columns, (M,)."""
    scale: Doubles
    """Standard deviation, infinite for constant columns, so that they give 0, (M,)."""
    quantiles: Doubles
    """Evenly spaced training quantiles of the filled columns, ascending, (Q, M)."""
    category_start: Ids
    """Categorical column c keeps `categories[category_start[c]:category_start[c + 1]]`, (columns + 1,)."""
    categories: Rows
    """Ascending within a column."""

    def design(self, features: Floats) -> Floats:
        """(N, F) to (N, columns), finite."""
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
        """A copy for models that take categories as they are: the kept ones numbered, rare ones as one, NaN missing."""
        folded = features.copy()
        for place, (start, end) in enumerate(zip(self.category_start[:-1], self.category_start[1:], strict=True)):
            code = _codes(features[:, _CATEGORICAL[place]], self.categories[start:end])
            folded[:, _CATEGORICAL[place]] = np.where(code <= end - start, code, np.nan)
        return folded

    def _normal_scores(self, numbers: Doubles) -> Doubles:
        """Rank among the training quantiles as a normal deviate; equal quantiles share their mean rank."""
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
    """Learn from the rows of the training share, and from nothing else.

    Args:
        features: (N, F), at least one row.
        scaling: `standard` subtracts the mean and divides by the deviation; `quantile` gives normal scores.
        min_category_rows: categories with fewer rows share one column, as do those beyond the most frequent ones.
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
    """Categories that have enough rows, the most frequent ones at most, ascending; ties go to the lower number."""
    values, counts = np.unique(column[column >= 0].astype(np.int32), return_counts=True)
    enough = counts >= min_rows
    values, counts = values[enough], counts[enough]
    return np.sort(values[np.argsort(-counts, kind="stable")[:MAX_CATEGORIES]])


def _codes(column: Floats, kept: Rows) -> Rows:
    """Place of each category among the kept, then one for rare and never seen ones, then one for missing, (N,)."""
    there = column >= 0  # not so for NaN and for -1
    value = np.where(there, column, -1).astype(np.int32)
    place = np.searchsorted(kept, value)
    known = np.isin(value, kept)
    return np.where(there, np.where(known, place, len(kept)), len(kept) + 1).astype(np.int32)
