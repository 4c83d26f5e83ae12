"""Which rows of a chunk break which rule.

Takes masks, gives reasons. It does not know what happens to the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.types import DAY, Ids, Mask, Times


class Faults:
    """For each row the first rule it breaks."""

    def __init__(self, n_rows: int) -> None:
        self._code = np.zeros(n_rows, np.int32)
        self._reasons = [""]

    def add(self, reason: str, broken: Mask) -> None:
        """Rows that broke an earlier rule keep that one."""
        self._reasons.append(reason)
        self._code[broken & (self._code == 0)] = len(self._reasons) - 1

    def none(self) -> Mask:
        """Rows that break no rule so far."""
        none: Mask = self._code == 0
        return none

    def each(self) -> Iterator[tuple[str, Ids]]:
        """Every reason that occurs, with its rows."""
        for code in np.unique(self._code[self._code > 0]):
            yield self._reasons[code], np.flatnonzero(self._code == code)


def times_are_sound(faults: Faults, time: Times, known: Mask, now: int) -> None:
    """A moment that nobody understands, before 1970 or later than tomorrow is a fault: the lake takes none of them."""
    faults.add("unparsable_time", ~known)
    faults.add("time_before_1970", time < 0)
    faults.add("time_in_the_future", time > now + DAY)
