"""Figures of ranking lists: recall, nDCG and hit rate at k, per user, and their mean with its interval.

Takes lists of item rows and the items that were relevant, gives arrays with one value per user. It does not know how
lists were made or whose they are; that seen items are out of them is the caller's duty.
"""

from __future__ import annotations

import numpy as np

from recsys.types import Doubles, Ids, Mask, Rows


def found(lists: Rows, user: Rows, item: Rows) -> Mask:
    """Which places of the lists hold one of their user's items, (B, K).

    Args:
        lists: item rows, best first, each at most once, -1 where a list has ended, (B, K).
        user: for each pair the list it belongs to, 0..B-1, (R,).
        item: for each pair the item row, (R,).
    Raises: ValueError when a list names an item twice: it would be counted twice.
    """
    ordered = np.sort(lists, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a list must name each item at most once")
    width = int(max(lists.max(initial=-1), item.max(initial=-1))) + 1
    pairs = np.unique(user.astype(np.int64) * width + item)
    keys = np.arange(len(lists), dtype=np.int64)[:, None] * width + lists
    place = np.searchsorted(pairs, keys)
    known: Mask = np.append(pairs, -1)[place] == keys
    return known & (lists >= 0)


def recall_at(hit: Mask, n_relevant: Ids, k: int) -> Doubles:
    """Share of a user's relevant items among the first k, (B,).

    The denominator is all relevant items, also when there are more than k of them.

    Args:
        hit: of `found`, (B, K) with K >= k.
        n_relevant: relevant items of each user, > 0, (B,).
    Source: Wang et al., "Neural Graph Collaborative Filtering", SIGIR 2019, section 4.1; He et al., "LightGCN",
        SIGIR 2020.
    """
    return np.asarray(hit[:, :k].sum(axis=1) / n_relevant, np.float64)


def ndcg_at(hit: Mask, n_relevant: Ids, k: int) -> Doubles:
    """Discounted gain of the first k with gain 1 and discount log2(place + 1), over the best one possible, (B,).

    The best list holds min(n_relevant, k) relevant items in front.

    Args:
        hit: of `found`, (B, K) with K >= k.
        n_relevant: relevant items of each user, > 0, (B,).
    Source: Järvelin, Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002; the ideal as in
        He et al., "LightGCN", SIGIR 2020.
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    best = np.cumsum(discount)[np.minimum(n_relevant, k) - 1]
    return np.asarray(hit[:, :k] @ discount[: hit.shape[1]] / best, np.float64)


def hit_at(hit: Mask, k: int) -> Doubles:
    """1 where the first k hold a relevant item, else 0, (B,); its mean is the hit rate, HR@k.

    Source: Deshpande, Karypis, "Item-Based Top-N Recommendation Algorithms", TOIS 2004.
    """
    return np.asarray(hit[:, :k].any(axis=1), np.float64)


def mean_interval(values: Doubles) -> list[float] | None:
    """95% interval of the mean over users, by the normal approximation; None with fewer than two users.

    The figures lie in 0..1, and so does the interval.
    """
    if len(values) < 2:
        return None
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return [max(0.0, float(values.mean()) - half), min(1.0, float(values.mean()) + half)]
