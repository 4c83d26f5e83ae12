"""Orderings that the re-ranking steps share."""

from __future__ import annotations

import numpy as np

from recsys.types import Candidates, Ids, Rows


def best_first(candidates: Candidates) -> Ids:
    """Places of the candidates by falling score, (C,); ties: lower post row first."""
    assert candidates.score is not None
    return np.lexsort((candidates.post_row, -candidates.score)).astype(np.int64)


def running_count(values: Rows) -> Ids:
    """How often each value occurs earlier in the array, (C,)."""
    order = np.argsort(values, kind="stable")  # equal values stand together, in their order
    ordered = values[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    within = np.arange(len(values)) - np.repeat(starts, np.diff(np.append(starts, len(values))))
    count = np.empty(len(values), np.int64)
    count[order] = within
    return count
