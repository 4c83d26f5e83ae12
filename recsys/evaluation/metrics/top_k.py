"""Metrics of ranked lists: recall, nDCG and hit rate at k per user, and the interval of their mean.

Takes lists of item rows and the relevant items; gives one value per user. It does not know how the lists were made. The
caller must leave seen items out.
"""

from __future__ import annotations

import numpy as np

from recsys.lookup import lookup
from recsys.types import Doubles, Ids, Mask, Rows


def found(lists: Rows, user: Rows, item: Rows) -> Mask:
    """Which places of the lists are relevant items of the list's user, (B, K).

    Args:
        lists: item rows, best first, each at most once, -1 after the end of a list, (B, K).
        user: list of each relevant pair, 0..B-1, (R,).
        item: item row of each relevant pair, (R,).
    Raises: ValueError when a list has an item twice, which would count twice.
    """
    ordered = np.sort(lists, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a list must name each item at most once")
    width = int(max(lists.max(initial=-1), item.max(initial=-1))) + 1
    pairs = np.unique(user.astype(np.int64) * width + item)
    keys = np.arange(len(lists), dtype=np.int64)[:, None] * width + lists
    relevant: Mask = (lookup(pairs, keys) >= 0) & (lists >= 0)
    return relevant


def recall_at(hit: Mask, n_relevant: Ids, k: int) -> Doubles:
    """Share of a user's relevant items that are among the first k, (B,).

    The denominator is the number of relevant items, even if it exceeds k.

    Args:
        hit: from `found`, (B, K) with K >= k.
        n_relevant: relevant items of each user, > 0, (B,).
    Source: Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019, section 4.1; He et al., "LightGCN",
        SIGIR 2020.
    """
    return np.asarray(hit[:, :k].sum(axis=1) / n_relevant, np.float64)


def ndcg_at(hit: Mask, n_relevant: Ids, k: int) -> Doubles:
    """Discounted gain of the first k, relative to the best possible list, (B,).

    The gain is 1 and the discount log2(place + 1). The best list starts with min(n_relevant, k) relevant items.

    Args:
        hit: from `found`, (B, K) with K >= k.
        n_relevant: relevant items of each user, > 0, (B,).
    Source: Järvelin, Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002; the ideal as in
        He et al., "LightGCN", SIGIR 2020.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    return np.asarray(hit[:, :k] @ discount[: hit.shape[1]] / best, np.float64)


def hit_at(hit: Mask, k: int) -> Doubles:
    """1 if a relevant item is among the first k, else 0, (B,). The mean is the hit rate, HR@k.

    Source: Deshpande, Karypis, "Item-Based Top-N Recommendation Algorithms", TOIS 2004.
    """
    return np.asarray(hit[:, :k].any(axis=1), np.float64)


def mean_interval(values: Doubles) -> list[float] | None:
    """Normal 95% interval of the mean over users, clipped to 0..1; None with fewer than two users."""
    if len(values) < 2:
        return None
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return [max(0.0, float(values.mean()) - half), min(1.0, float(values.mean()) + half)]
