"""Hard filters: posts a user must not see, whatever their score. To add a hard rule, add a class here.

Each filter takes a context and candidates and keeps the candidates that pass; removed ones are recorded with a reason.
Filters run after the merge, so that they apply to every source, and before ranking, so that no removed post is scored.
They fail closed: a post with unknown data is removed.
"""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.types import Candidates, Context


class NotVisible:
    """Remove posts that were taken down, or are newer than `now`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._visible, self._created_at = catalogue.visible, catalogue.created_at

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        rows = candidates.post_row
        return candidates.where(self._visible[rows] & (self._created_at[rows] <= context.now), "not_visible")


class Blocked:
    """Remove posts by blocked authors; for a user who blocks anybody, also posts by unknown authors."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._author = catalogue.author

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        if not len(context.blocks):
            return candidates
        author = self._author[candidates.post_row]
        return candidates.where((author >= 0) & ~np.isin(author, context.blocks), "blocked")


class ReturnedBefore:
    """Remove posts already returned to this user, and posts with the same text."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._group = catalogue.group

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        if not len(context.returned):
            return candidates
        return candidates.where(
            ~np.isin(self._group[candidates.post_row], self._group[context.returned]), "returned_before"
        )
