"""Changes of packed rows as bytes to write over what is there: what the write to Redis carries, and what comes of it.

A row is changed by a few patches, or written whole where there was none or where it became shorter. It does not know
what rows hold.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from recsys.types import Ids

_PATCH = struct.Struct("<II")


class Patches(NamedTuple):
    """Changes of R rows."""

    heads: np.ndarray
    """Number of the row's patches, 1 where one patch is all of it, 1 where its lifetime begins anew; uint32, (R, 3)."""
    program: bytes
    """Patches, row after row: first byte and number of bytes, two uint32, then the bytes to write there."""
    begin: Ids
    """Byte of `program` where each row's patches begin, and the end, (R + 1,)."""

    @classmethod
    def joined(cls, parts: Sequence[Patches]) -> Self:
        """The rows of all parts, one part after the other."""
        ends = np.cumsum([0, *(len(part.program) for part in parts)])
        begin = [part.begin[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
        return cls(
            np.concatenate([np.empty((0, 3), np.uint32), *(part.heads for part in parts)]),
            b"".join([part.program for part in parts]),
            np.concatenate([*begin, ends[-1:]]),
        )

    def part(self, start: int, stop: int) -> Patches:
        """The rows from `start` up to `stop`."""
        begin = self.begin[start : stop + 1]
        return Patches(self.heads[start:stop], self.program[begin[0] : begin[-1]], begin - begin[0])

    def row_after(self, place: int, before: bytes | None) -> bytes:
        """What Redis holds under a row's key once its patches are written.

        Args:
            place: of the row.
            before: the row that the patches were made from.
        """
        n, whole, _ = self.heads[place].tolist()
        row, at = bytearray(b"" if whole or before is None else before), int(self.begin[place])
        for _ in range(n):
            start, written = _PATCH.unpack_from(self.program, at)
            at += _PATCH.size
            row[start : start + written] = self.program[at : at + written]
            at += written
        return bytes(row)
