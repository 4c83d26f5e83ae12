"""No author takes over a feed. Takes scored candidates, keeps each author's best ones up to a cap.

The cap spans the pages of a feed: what earlier pages showed comes with the cursor. It is relaxed rather than leaving
the slate short.
"""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.reranking.order import best_first, running_count
from recsys.types import Candidates, Context, Ids, Rows


class AuthorCap:
    """Keep each author's best posts, up to a cap per slate and its earlier pages."""

    def __init__(self, catalogue: Catalogue, max_per_author: int) -> None:
        self._catalogue = catalogue
        self.max_per_author = max_per_author

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        order = best_first(candidates)
        author = self._catalogue.author[candidates.post_row[order]]
        nth = running_count(author) + self._shown_before(context, author)
        nth[author < 0] = 0  # many unknown authors, not one
        # The lowest cap that leaves enough for the slate.
        cap = self.max_per_author
        enough = min(context.request.limit, len(candidates))
        while int((nth < cap).sum()) < enough:
            cap += 1
        keep = np.empty(len(candidates), bool)
        keep[order] = nth < cap
        return candidates.where(keep, "author_cap")

    def _shown_before(self, context: Context, author: Rows) -> Ids:
        shown = context.request.shown.authors
        if not shown:
            return np.zeros(len(author), np.int64)
        row = self._catalogue.author_rows(list(shown))
        by_row = np.zeros(
            self._catalogue.n_authors + 1, np.int64
        )  # the last place is for row -1, whose count is ignored
        by_row[row] = list(shown.values())
        before: Ids = by_row[author]
        return before
