"""Hard rules: what a user must not see, whatever its score. They run after the merge and before ranking.

Each takes a context and candidates, gives the candidates it lets through; the others stay on record with the reason.
After the merge, so that no source escapes them; before ranking, so that nothing is scored in vain. When the catalogue
does not know, the answer is no.
"""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.types import Candidates, Context


class NotVisible:
    """Taken down, or not yet written at `now`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._visible, self._created_at = catalogue.visible, catalogue.created_at

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        rows = candidates.post_row
        return candidates.where(self._visible[rows] & (self._created_at[rows] <= context.now), "not_visible")


class Blocked:
    """By an author the user has blocked, or may have: an unknown author."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._author = catalogue.author

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        if not len(context.blocks):
            return candidates
        author = self._author[candidates.post_row]
        return candidates.where((author >= 0) & ~np.isin(author, context.blocks), "blocked")


class ReturnedBefore:
    """Sent to this user before, itself or the same text under another id."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._group = catalogue.group

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        if not len(context.returned):
            return candidates
        return candidates.where(
            ~np.isin(self._group[candidates.post_row], self._group[context.returned]), "returned_before"
        )
