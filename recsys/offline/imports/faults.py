"""Faults: which rows of a chunk break which rule.

Takes masks, gives reasons. It does not know what happens to the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recsys.types import DAY, Ids, Mask, Times


class Faults:
    """The first rule that each row of a chunk breaks."""

    def __init__(self, n_rows: int) -> None:
        self._code = np.zeros(n_rows, np.int32)
        self._reasons = [""]

    def add(self, reason: str, broken: Mask) -> None:
        """Mark rows that break a rule, (N,); rows already marked keep their first reason."""
        self._reasons.append(reason)
        self._code[broken & (self._code == 0)] = len(self._reasons) - 1

    def valid(self) -> Mask:
        """Rows without a fault so far, (N,)."""
        valid: Mask = self._code == 0
        return valid

    def by_reason(self) -> Iterator[tuple[str, Ids]]:
        """Each reason that occurs, with the places of its rows."""
        for code in np.unique(self._code[self._code > 0]):
            yield self._reasons[code], np.flatnonzero(self._code == code)


def check_times(faults: Faults, time: Times, known: Mask, now: int) -> None:
    """Mark times that were not parsed, lie before 1970 or later than tomorrow: the lake refuses them.

    Args:
        known: whether each time was parsed, (N,).
        now: wall clock, microseconds.
    """
    faults.add("unparsable_time", ~known)
    faults.add("time_before_1970", time < 0)
    faults.add("time_in_the_future", time > now + DAY)
