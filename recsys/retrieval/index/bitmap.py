"""The filter of a search: one bit per post, set where the post may appear.

A bitmap never changes; a request that leaves out further posts copies it, 125 kB for a million posts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.types import Mask, Rows


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Which of N posts may appear."""

    bits: NDArray[np.uint8]
    """Post r is bit r % 8 of byte r // 8, (ceil(N / 8),); no bit behind the last post is set."""
    n_posts: int
    share: float
    """Share of the posts that may appear."""
    n_left_out: int = 0
    """Posts left out by `without`: those of one request, which are often its user's best."""

    def __post_init__(self) -> None:
        """Check the array's size, since compiled searches read bits without bounds checks."""
        if self.bits.shape != (-(-self.n_posts // 8),) or self.bits.dtype != np.uint8:
            raise ValueError(
                f"a bitmap of {self.n_posts} posts must hold a bit each, got {self.bits.shape} of {self.bits.dtype}"
            )
        if self.n_posts % 8 and self.bits[-1] >> self.n_posts % 8:
            raise ValueError(
                f"a bitmap of {self.n_posts} posts must have no bit set behind the last, got {self.bits[-1]:b}"
            )

    @classmethod
    def of(cls, mask: Mask) -> Self:
        """Build from one bool per post, (N,)."""
        return cls(np.packbits(mask, bitorder="little"), len(mask), float(mask.mean()) if len(mask) else 0.0)

    def without(self, rows: Rows) -> Self:
        """A copy without these posts; -1 is ignored."""
        rows = np.unique(rows[rows >= 0])
        if not len(rows):
            return self
        bits = self.bits.copy()
        np.bitwise_and.at(bits, rows >> 3, ~(np.uint8(1) << (rows & 7).astype(np.uint8)))
        n_less = np.count_nonzero(self.has(rows))
        share = max(self.share - n_less / self.n_posts, 0.0)
        return type(self)(bits, self.n_posts, share, self.n_left_out + int(n_less))

    def __and__(self, other: Self) -> Self:
        """Posts that both allow."""
        bits = self.bits & other.bits
        share = float(np.bitwise_count(bits).sum(dtype=np.int64)) / max(self.n_posts, 1)
        return type(self)(bits, self.n_posts, share, max(self.n_left_out, other.n_left_out))

    def has(self, rows: Rows) -> Mask:
        """Whether these posts may appear, (...,)."""
        allowed: Mask = (self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1
        return allowed
