"""Changes of packed rows as patches: bytes to write over parts of a row in Redis.

A row that was found is changed by a few patches. A row that is new or became shorter is written whole. This module does
not know what rows hold.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from recsys.types import Ids

_PATCH = struct.Struct("<II")
"""Head of a patch: first byte and number of bytes."""


class Patches(NamedTuple):
    """Changes of R rows."""

    heads: np.ndarray
    """Per row: number of its patches; 1 if its only patch is the whole row; 1 if its time to live is renewed. uint32,
    (R, 3)."""
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
        """The row in Redis once its patches are written.

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
