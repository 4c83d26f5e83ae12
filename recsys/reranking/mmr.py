"""Maximal marginal relevance: each next post is good and unlike the ones above it.

Takes scored candidates and their vectors, gives the slate's order. Source: Carbonell, Goldstein, "The Use of MMR",
SIGIR 1998; the running maximum is kept as one vector, so a slate of K from C candidates costs K passes over C x D.
"""

from __future__ import annotations

import numpy as np

from recsys.config import RerankingConfig
from recsys.reranking.order import best_first
from recsys.types import Candidates, Context, Floats


class MaximalMarginalRelevance:
    """Choose up to `limit` candidates, best first."""

    def __init__(self, post_vectors: Floats, config: RerankingConfig) -> None:
        """
        Args:
            post_vectors: content vectors whose inner product says how alike two posts are, unit length, (N, D).
        """
        self._vectors = post_vectors
        self.config = config

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        pool = best_first(candidates)[: max(self.config.mmr_pool, context.request.limit)]
        if not len(pool):
            return candidates.take(pool)
        score = candidates.score
        assert score is not None
        # Scores relative to the best, so that the weight means the same for every user.
        relevance = score[pool] / max(float(score[pool].max()), 1e-9)
        vectors = np.ascontiguousarray(self._vectors[candidates.post_row[pool]])
        chosen = select(relevance, vectors, self.config.diversity, context.request.limit)
        return candidates.take(pool[chosen])


def select(relevance: Floats, vectors: Floats, diversity: float, k: int) -> np.ndarray:
    """Places chosen one after another by `(1 - diversity) * relevance - diversity * likeness`, (<= k,).

    Likeness is the inner product with the most alike post above, at least 0: being opposite earns nothing.

    Args:
        relevance: (C,).
        vectors: unit length, (C, D).
        diversity: 0 keeps the order of relevance, 1 ignores it.
    """
    k = min(k, len(relevance))
    value = (1.0 - diversity) * relevance.astype(np.float64)
    likeness = np.zeros(len(relevance), np.float32)
    chosen = np.empty(k, np.int64)
    left = np.ones(len(relevance), bool)
    for place in range(k):
        best = int(np.argmax(np.where(left, value - diversity * likeness, -np.inf)))
        chosen[place] = best
        left[best] = False
        np.maximum(likeness, vectors @ vectors[best], out=likeness)
    return chosen
