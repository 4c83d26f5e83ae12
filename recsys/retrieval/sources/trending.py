"""What is trending in the user's language, with a lane of its own for the topics the user clicks on.

The online store ranked the posts by clicks that fade (`online.rows.trending`). Every other post is the best of those in
the topics of the user's last clicks, so that a large topic does not fill the list; without clicks the order is the
plain one. It does not count clicks itself.
"""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.sources.source import Query, alternating, distinct
from recsys.types import Rows, Source


class Trending:
    """As `source.CandidateSource`."""

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
