"""Trending candidates: posts of the user's language with the most recent clicks.

The online store ranks posts by decayed clicks (`online.rows.trending`). Every other candidate comes from the topics of
the user's last clicks, so that one large topic does not fill the list. Without clicks the order is the store's. It does
not count clicks itself.
"""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.sources.source import Query, alternating, distinct
from recsys.types import Rows, Source


class Trending:
    """Trending posts, alternating with those in topics that the user clicked."""

    bit = Source.TRENDING

    def __init__(self, catalogue: Catalogue) -> None:
        self._topic = np.asarray(catalogue.likely_topic)

    def __call__(self, query: Query, k: int) -> Rows:
        context, allowed = query.context, query.allowed
        known = context.trending[context.trending >= 0]
        posts = distinct(known[allowed.has(known)])
        clicked = self._topic[context.history[context.history >= 0]]
        of_topics = posts[np.isin(self._topic[posts], clicked[clicked >= 0])]
        return alternating(posts, of_topics)[:k]
