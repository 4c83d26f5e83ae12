"""Which posts may appear, a bit each: what a search carries with it.

A bitmap never changes; a request that leaves out posts of its own takes a copy, which for a million posts is 125 kB.
It does not know why a post is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recsys.types import Mask, Rows


@dataclass(frozen=True, slots=True)
class Bitmap:
    """N posts."""

    bits: NDArray[np.uint8]
    """Post r is bit r % 8 of byte r // 8, (ceil(N / 8),); no bit behind the last post is set."""
    n_posts: int
    share: float
    """Of the posts that may appear."""
    n_left_out: int = 0
    """Posts left out by `without`: those of one request, among which its user's best often are."""

    def __post_init__(self) -> None:
        """Searches look bits up without looking where the array ends."""
        if self.bits.shape != (-(-self.n_posts // 8),) or self.bits.dtype != np.uint8:
            raise ValueError(
                f"a bitmap of {self.n_posts} posts must hold a bit each, got {self.bits.shape} of {self.bits.dtype}"
            )
        if self.n_posts % 8 and self.bits[-1] >> self.n_posts % 8:
            raise ValueError(
                f"a bitmap of {self.n_posts} posts must have no bit behind the last, got {self.bits[-1]:b}"
            )

    @classmethod
    def of(cls, mask: Mask) -> Self:
        """From one bool per post, (N,)."""
        return cls(np.packbits(mask, bitorder="little"), len(mask), float(mask.mean()) if len(mask) else 0.0)

    def without(self, rows: Rows) -> Self:
        """The same, less these posts; -1 is ignored."""
        rows = np.unique(rows[rows >= 0])
        if not len(rows):
            return self
        bits = self.bits.copy()
        np.bitwise_and.at(bits, rows >> 3, ~(np.uint8(1) << (rows & 7).astype(np.uint8)))
        n_less = np.count_nonzero(self.has(rows))
        share = max(self.share - n_less / self.n_posts, 0.0)
        return type(self)(bits, self.n_posts, share, self.n_left_out + int(n_less))

    def __and__(self, other: Self) -> Self:
        """Posts that both let through."""
        bits = self.bits & other.bits
        share = float(np.bitwise_count(bits).sum(dtype=np.int64)) / max(self.n_posts, 1)
        return type(self)(bits, self.n_posts, share, max(self.n_left_out, other.n_left_out))

    def has(self, rows: Rows) -> Mask:
        """Whether these posts may appear, (...,)."""
        allowed: Mask = (self.bits[rows >> 3] >> (rows & 7).astype(np.uint8)) & 1 == 1
        return allowed
