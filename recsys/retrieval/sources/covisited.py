"""Candidates by covisitation: posts clicked by users who clicked the same posts as this user.

Each of the user's last clicks votes for its neighbours, weighted by similarity; later clicks count more. Neighbours are
computed in training, so clicks on newer posts have no votes.

Source: Linden, Smith, York, "Amazon.com Recommendations: Item-to-Item Collaborative Filtering", IEEE Internet Computing
2003.
"""

from __future__ import annotations

import numpy as np

from recsys.config import SourcesConfig
from recsys.retrieval.sources.neighbours import Neighbours
from recsys.retrieval.sources.source import Query
from recsys.types import Rows, Source


class Covisited:
    """Posts with the most votes of the user's last clicks; ties keep the lower row first."""

    bit = Source.COVISITED

    def __init__(self, neighbours: Neighbours, config: SourcesConfig) -> None:
        self._neighbours = neighbours
        self._fading = config.covisited_fading

    def __call__(self, query: Query, k: int) -> Rows:
        context, allowed = query.context, query.allowed
        clicks = context.history[context.history >= 0]
        start, end = self._neighbours.start[clicks], self._neighbours.start[clicks + 1]
        length = end - start
        # One entry per (click, neighbour), (E,): its place among the neighbours and the weight of its click.
        place = np.arange(length.sum()) + np.repeat(start - (np.cumsum(length) - length), length)
        weight = np.repeat(self._fading ** np.arange(len(clicks)), length)
        # Sum the votes of each distinct post, (P,).
        posts, of_post = np.unique(self._neighbours.post[place], return_inverse=True)
        votes = np.bincount(of_post, self._neighbours.similarity[place] * weight, len(posts))
        fits = np.flatnonzero(allowed.has(posts) & ~np.isin(posts, clicks))
        best: Rows = posts[fits[np.argsort(-votes[fits], kind="stable")[:k]]].astype(np.int32)
        return best
