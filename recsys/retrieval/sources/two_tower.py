"""The posts whose vectors lie nearest to the user's, by the index."""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.towers.inference import Towers
from recsys.retrieval.towers.user_input import UserBatch
from recsys.types import Context, Rows, Source


class TwoTower:
    """As `source.CandidateSource`; as many posts as are asked for, wherever so many are allowed."""

    bit = Source.TWO_TOWER

    def __init__(self, catalogue: Catalogue, towers: Towers, index: PostIndex) -> None:
        self._catalogue, self._towers, self._index = catalogue, towers, index
        # What is compiled at its first use is compiled before the first request.
        for allowed in (None, Bitmap.of(np.arange(index.n_posts) == 0)):
            index.search(np.ones((1, index.embedding_size), np.float32), 1, allowed)

    def __call__(self, context: Context, k: int, allowed: Bitmap) -> Rows:
        vectors = self._towers.user_vectors(self._catalogue, UserBatch.from_context(context))
        _, rows = self._index.search(vectors, k, allowed)
        best: Rows = rows[0, rows[0] >= 0]
        return best
