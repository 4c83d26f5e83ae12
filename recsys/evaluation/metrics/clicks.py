"""Click metrics: AUC, GAUC, log loss, normalised entropy, calibration error, and bootstrap intervals over users.

Functions of arrays that do not know models, stores or the world. A metric that is not defined is None, never NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from recsys.types import Doubles, Ids, Mask, Rows


def auc(score: Doubles, label: Mask) -> float | None:
    """P(a clicked row scores above an unclicked one), ties count half; None if all rows are clicked, or none.

    Source: Hanley, McNeil, "The Meaning and Use of the Area under a ROC Curve", Radiology 1982 (rank form).
    """
    return auc_by_rank(dense_ranks(score), label)


def dense_ranks(score: Doubles) -> Ids:
    """Rank of each score among the distinct scores, 0 for the lowest; equal scores have equal ranks, (N,)."""
    return np.asarray(np.unique(score, return_inverse=True)[1], np.int64)


def auc_by_rank(rank: Ids, label: Mask) -> float | None:
    """`auc` from ranks. It does not sort, so a bootstrap can rank once and draw often.

    Args:
        rank: from `dense_ranks`, of these rows or of a larger set they were drawn from, (N,).
    """
    n_rows = np.bincount(rank)  # rows of each rank, (R,)
    clicked = np.bincount(rank[label], minlength=len(n_rows))
    other = n_rows - clicked
    n_pairs = int(clicked.sum()) * int(other.sum())
    if not n_pairs:
        return None
    below = np.cumsum(other) - other  # unclicked rows of lower rank
    return float((clicked * (below + 0.5 * other)).sum() / n_pairs)


def gauc(score: Doubles, label: Mask, group: Rows) -> float | None:
    """AUC within each user, weighted by impressions. Users with only clicks or no click are left out.

    Source: Zhou et al., "Deep Interest Network", KDD 2018.
    """
    order = np.lexsort((score, group))
    group, score, label = group[order], score[order], label[order]
    starts = np.flatnonzero(np.diff(group, prepend=group[:1] - 1))
    size = np.diff(np.append(starts, len(group)))
    # Rank within the user, (N,): the rank by (user, score), ties sharing their mean, minus the rows of earlier users.
    tie_first = np.flatnonzero(np.append(True, (np.diff(group) != 0) | (np.diff(score) != 0))[: len(group)])
    tie_size = np.diff(np.append(tie_first, len(group)))
    rank = np.repeat(tie_first + (tie_size + 1) / 2, tie_size) - np.repeat(starts, size)
    n_clicked = np.add.reduceat(label.astype(np.int64), starts) if len(starts) else np.empty(0, np.int64)
    usable = (n_clicked > 0) & (n_clicked < size)
    if not usable.any():
        return None
    # AUC per user from the rank sum of its clicked rows (Mann-Whitney U).
    rank_sum = np.add.reduceat(np.where(label, rank, 0.0), starts)[usable]
    n, c = size[usable], n_clicked[usable]
    per_user = (rank_sum - c * (c + 1) / 2) / (c * (n - c))
    return float((per_user * n).sum() / n.sum())


def log_loss(probability: Doubles, label: Mask) -> float:
    """Mean negative log likelihood, nats."""
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    return float(-np.where(label, np.log(p), np.log1p(-p)).mean())


def normalised_entropy(probability: Doubles, label: Mask) -> float | None:
    """Log loss relative to always predicting the base rate: lower is better, 1.0 is useless; None with one class only.

    Source: He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 2.
    """
    rate = float(label.mean())
    if rate in (0.0, 1.0):
        return None
    return log_loss(probability, label) / float(-(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)))


def calibration_gap(probability: Doubles, label: Mask, n_bins: int = 20) -> float:
    """Expected calibration error: mean |predicted - clicked share| over bins of equally many rows."""
    order = np.argsort(probability, kind="stable")
    gaps = [
        abs(float(probability[rows].mean()) - float(label[rows].mean())) * len(rows)
        for rows in np.array_split(order, min(n_bins, len(order)))
    ]
    return sum(gaps) / len(order)


def ranking_figures(probability: Doubles, label: Mask, user: Rows) -> dict[str, float | None]:
    """All metrics of one ranker; `calibration_error` is `ece` relative to the click rate."""
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
    """95% percentile intervals of metrics, by drawing users with replacement, each with all its rows.

    Users are drawn, not rows, because the rows of one user depend on each other.

    Args:
        figures: function from row numbers (with repeats) to named metrics; for no rows it must still give all names.
        user: the user of each row, (N,).
    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    if not len(user):
        return dict.fromkeys(figures(np.empty(0, np.int64)))
    order = np.argsort(user, kind="stable")
    starts = np.flatnonzero(np.diff(user[order], prepend=user[order][:1] - 1))  # first row of each user, (U,)
    size = np.diff(np.append(starts, len(user)))
    drawn: dict[str, list[float | None]] = {}
    for _ in range(n_draws):
        pick = rng.integers(0, len(starts), len(starts))  # U users, with repeats
        n = size[pick]
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        for name, value in figures(order[np.repeat(starts[pick], n) + within]).items():
            drawn.setdefault(name, []).append(value)
    return {name: _interval(values) for name, values in drawn.items()}


def _interval(values: list[Any]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [float(q) for q in np.percentile(known, [2.5, 97.5])] if known else None
