"""Find values in a sorted array."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from recsys.types import Ids, Rows


def lookup(ascending: Ids, values: ArrayLike) -> Rows:
    """Position of each value in an ascending array, -1 where it is absent.

    Args:
        ascending: int64, (N,).
        values: int64, any shape.
    Returns: int32, the shape of `values`.
    """
    values = np.asarray(values, np.int64)
    if not len(ascending):
        return np.full(values.shape, -1, np.int32)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.where(ascending[place] == values, place, -1).astype(np.int32)
