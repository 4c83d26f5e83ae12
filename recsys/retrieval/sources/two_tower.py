"""Candidates of the two towers: posts whose vectors have the largest inner product with the user's."""

from __future__ import annotations

import numpy as np

from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.sources.source import Query
from recsys.types import Rows, Source


class TwoTower:
    """Searches the index; gives k posts unless fewer are allowed."""

    bit = Source.TWO_TOWER

    def __init__(self, index: PostIndex) -> None:
        self._index = index
        # Two searches now, so that compiled kernels are ready before the first request.
        for allowed in (None, Bitmap.of(np.arange(index.n_posts) == 0)):
            index.search(np.ones((1, index.embedding_size), np.float32), 1, allowed)

    def __call__(self, query: Query, k: int) -> Rows:
        _, rows = self._index.search(query.user_vector, k, query.allowed)
        best: Rows = rows[0, rows[0] >= 0]
        return best
