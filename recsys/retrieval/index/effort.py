"""How thorough a search is. The same two numbers for every kind of index; they travel with each search."""

from __future__ import annotations

import math
from dataclasses import dataclass

WIDENING = 0.6
"""The fewer posts a filter allows, the further away the best of them lie: lists visited grow with this power of one
over the allowed share. With 0.5 trained vectors' recall was 0.912 at a share of 0.01 of a million posts, with 0.6
0.983, with 0.7 0.996 in a sixth more time."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough a search is."""

    lists: int
    """Inverted lists visited, at least."""
    refine: float
    """Posts rescored for each result asked for."""

    def __post_init__(self) -> None:
        if self.lists < 0 or not 1 <= self.refine < math.inf:
            raise ValueError(f"an effort must have lists >= 0 and refine >= 1, got {self.lists} and {self.refine}")

    def lists_with(self, allowed_share: float) -> int:
        """Lists to visit where only this share of the posts may appear."""
        wider: float = max(allowed_share, 1e-9) ** -WIDENING
        return max(1, round(self.lists * wider))


NO_EFFORT = Effort(lists=0, refine=1.0)
"""Of an exact search, which has no choice."""
