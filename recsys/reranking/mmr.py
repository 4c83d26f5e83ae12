"""Maximal marginal relevance: choose each next post by its score and its distance from the posts above it.

Takes scored candidates and their vectors; gives the slate in order. A slate of K from C candidates costs K
matrix-vector products of C x D, since the running maximum is one vector. Source: Carbonell, Goldstein, "The Use of
MMR", SIGIR 1998.
"""

from __future__ import annotations

import numpy as np

from recsys.config import RerankingConfig
from recsys.reranking.order import best_first
from recsys.types import Candidates, Context, Floats


class MaximalMarginalRelevance:
    """Choose up to `limit` candidates, in slate order."""

    def __init__(self, post_vectors: Floats, config: RerankingConfig) -> None:
        """
        Args:
            post_vectors: content vectors of unit length, (N, D); their inner product is the similarity of two posts.
        """
        self._vectors = post_vectors
        self.config = config

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        pool = best_first(candidates)[: max(self.config.mmr_pool, context.request.limit)]
        if not len(pool):
            return candidates.take(pool)
        score = candidates.score
        assert score is not None
        # Scores relative to the best, so that `diversity` means the same for every user.
        relevance = score[pool] / max(float(score[pool].max()), 1e-9)
        vectors = np.ascontiguousarray(self._vectors[candidates.post_row[pool]])
        chosen = select(relevance, vectors, self.config.diversity, context.request.limit)
        return candidates.take(pool[chosen])


def select(relevance: Floats, vectors: Floats, diversity: float, k: int) -> np.ndarray:
    """Choose places one by one by the highest `(1 - diversity) * relevance - diversity * similarity`, (<= k,).

    Similarity is the inner product with the most similar post chosen before, at least 0: opposite posts get no bonus.

    Args:
        relevance: (C,).
        vectors: unit length, (C, D).
        diversity: 0 keeps the order of relevance, 1 ignores it.
    """
    k = min(k, len(relevance))
    value = (1.0 - diversity) * relevance.astype(np.float64)
    similarity = np.zeros(len(relevance), np.float32)  # to the most similar post chosen so far, (C,)
    chosen = np.empty(k, np.int64)
    left = np.ones(len(relevance), bool)
    for place in range(k):
        best = int(np.argmax(np.where(left, value - diversity * similarity, -np.inf)))
        chosen[place] = best
        left[best] = False
        np.maximum(similarity, vectors @ vectors[best], out=similarity)
    return chosen
