"""Figures of merit as functions of arrays. None knows models, stores or the world.

A figure that does not apply is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recsys.types import Doubles, Ids, Mask, Rows


def auc(score: Doubles, label: Mask) -> float | None:
    """P(a clicked row scores above an unclicked one), ties count half; None with one class only.

    Source: Hanley, McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 1982 (rank form).
    """
    return auc_by_rank(dense_ranks(score), label)


def dense_ranks(score: Doubles) -> Ids:
    """Places of the scores among the different scores, 0 the lowest, equal ones alike, (N,)."""
    return np.asarray(np.unique(score, return_inverse=True)[1], np.int64)


def auc_by_rank(rank: Ids, label: Mask) -> float | None:
    """`auc` from ranks: no sorting, so that a bootstrap ranks once and draws often.

    Args:
        rank: of `dense_ranks`, of these rows or of more, (N,).
    """
    of_rank = np.bincount(rank)
    clicked = np.bincount(rank[label], minlength=len(of_rank))
    other = of_rank - clicked
    n_pairs = int(clicked.sum()) * int(other.sum())
    if not n_pairs:
        return None
    below = np.cumsum(other) - other
    return float((clicked * (below + 0.5 * other)).sum() / n_pairs)


def gauc(score: Doubles, label: Mask, group: Rows) -> float | None:
    """AUC within each user, weighted by impressions; users with one class only are left out.

    Source: Zhou et al., "Deep Interest Network", KDD 2018.
    """
    order = np.lexsort((score, group))
    group, score, label = group[order], score[order], label[order]
    starts = np.flatnonzero(np.diff(group, prepend=group[:1] - 1))
    size = np.diff(np.append(starts, len(group)))
    # Ranks within users: ranks over (user, score), ties sharing their mean, minus the rows of the users before.
    tie_first = np.flatnonzero(np.append(True, (np.diff(group) != 0) | (np.diff(score) != 0))[: len(group)])
    tie_size = np.diff(np.append(tie_first, len(group)))
    rank = np.repeat(tie_first + (tie_size + 1) / 2, tie_size) - np.repeat(starts, size)
    n_clicked = np.add.reduceat(label.astype(np.int64), starts) if len(starts) else np.empty(0, np.int64)
    usable = (n_clicked > 0) & (n_clicked < size)
    if not usable.any():
        return None
    rank_sum = np.add.reduceat(np.where(label, rank, 0.0), starts)[usable]
    n, c = size[usable], n_clicked[usable]
    per_user = (rank_sum - c * (c + 1) / 2) / (c * (n - c))
    return float((per_user * n).sum() / n.sum())


def log_loss(probability: Doubles, label: Mask) -> float:
    """Mean negative log likelihood, nats."""
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    return float(-np.where(label, np.log(p), np.log1p(-p)).mean())


def normalised_entropy(probability: Doubles, label: Mask) -> float | None:
    """Log loss relative to always predicting the base rate; 1.0 is useless, lower is better; None with one class only.

    Source: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 2.
    """
    rate = float(label.mean())
    if rate in (0.0, 1.0):
        return None
    return log_loss(probability, label) / float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def calibration_gap(probability: Doubles, label: Mask, n_bins: int = 20) -> float:
    """Expected calibration error: mean distance between predicted and clicked share over bins of equal mass."""
    order = np.argsort(probability, kind="stable")
    gaps = [
        abs(float(probability[rows].mean()) - float(label[rows].mean())) * len(rows)
        for rows in np.array_split(order, min(n_bins, len(order)))
    ]
    return sum(gaps) / len(order)


def ranking_figures(probability: Doubles, label: Mask, user: Rows) -> dict[str, float | None]:
    """All figures of one ranker. `calibration_error` is `ece` relative to the click rate."""
    gap = calibration_gap(probability, label)
    return {
        "auc": auc(probability, label),
        "gauc": gauc(probability, label, user),
        "log_loss": log_loss(probability, label),
        "ne": normalised_entropy(probability, label),
        "ece": gap,
        "calibration_error": gap / float(label.mean()) if label.any() else None,
    }


def bootstrap_over_users(
    figures: Callable[[Ids], Mapping[str, float | None]], user: Rows, n_draws: int, rng: np.random.Generator
) -> dict[str, list[float] | None]:
    """95% percentile intervals of figures, users drawn with replacement with all their rows.

    Args:
        figures: rows (with repeats) to named figures; asked for no row, it names them all.
        user: the user of each row, (N,).
    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; clusters are drawn because one
        user's rows depend.
    """
    if not len(user):
        return dict.fromkeys(figures(np.empty(0, np.int64)))
    order = np.argsort(user, kind="stable")
    starts = np.flatnonzero(np.diff(user[order], prepend=user[order][:1] - 1))
    size = np.diff(np.append(starts, len(user)))
    drawn: dict[str, list[float | None]] = {}
    for _ in range(n_draws):
        pick = rng.integers(0, len(starts), len(starts))
        n = size[pick]
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        for name, value in figures(order[np.repeat(starts[pick], n) + within]).items():
            drawn.setdefault(name, []).append(value)
    return {name: _interval(values) for name, values in drawn.items()}


def _interval(values: list[Any]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [float(q) for q in np.percentile(known, [2.5, 97.5])] if known else None
