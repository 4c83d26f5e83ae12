"""The posts whose vectors lie nearest to the user's, by the index."""

from __future__ import annotations

import numpy as np

from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.sources.source import Query
from recsys.types import Rows, Source


class TwoTower:
    """As `source.CandidateSource`; as many posts as are asked for, wherever so many are allowed."""

    bit = Source.TWO_TOWER

    def __init__(self, index: PostIndex) -> None:
        self._index = index
        # What is compiled at its first use is compiled before the first request.
        for allowed in (None, Bitmap.of(np.arange(index.n_posts) == 0)):
            index.search(np.ones((1, index.embedding_size), np.float32), 1, allowed)

    def __call__(self, query: Query, k: int) -> Rows:
        _, rows = self._index.search(query.user_vector, k, query.allowed)
        best: Rows = rows[0, rows[0] >= 0]
        return best
