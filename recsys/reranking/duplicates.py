"""Duplicate removal: takes scored candidates and keeps the best of each group of posts with the same text."""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.reranking.order import best_first
from recsys.types import Candidates, Context


class Duplicates:
    """Keep the best-scored post of each duplicate group."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._group = catalogue.group

    def __call__(self, context: Context, candidates: Candidates) -> Candidates:
        order = best_first(candidates)
        _, first = np.unique(self._group[candidates.post_row[order]], return_index=True)
        keep = np.zeros(len(candidates), bool)
        keep[order[first]] = True
        return candidates.where(keep, "duplicate")
