"""Author cap: at most a few posts per author in a slate and its earlier pages.

Takes scored candidates; keeps each author's best. The cursor carries how many posts of each author earlier pages
showed. If the cap would leave the slate short, it is raised.
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
        order = best_first(candidates)  # (C,)
        author = self._catalogue.author[candidates.post_row[order]]
        nth = running_count(author) + self._shown_before(context, author)  # better posts of the same author, (C,)
        nth[author < 0] = 0  # unknown authors are different authors, so the cap never applies to them
        # The lowest cap that fills the slate.
        cap = self.max_per_author
        enough = min(context.request.limit, len(candidates))
        while int((nth < cap).sum()) < enough:
            cap += 1
        keep = np.empty(len(candidates), bool)
        keep[order] = nth < cap
        return candidates.where(keep, "author_cap")

    def _shown_before(self, context: Context, author: Rows) -> Ids:
        """How many posts of each candidate's author earlier pages showed, (C,)."""
        shown = context.request.shown.authors
        if not shown:
            return np.zeros(len(author), np.int64)
        row = self._catalogue.author_rows(list(shown))
        by_row = np.zeros(self._catalogue.n_authors + 1, np.int64)  # the last place is row -1, which is ignored
        by_row[row] = list(shown.values())
        before: Ids = by_row[author]
        return before
