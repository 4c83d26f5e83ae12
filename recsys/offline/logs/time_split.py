"""The split by time: first the towers' share, then the rankers', the calibrators' and, last, the test.

Each stage is trained on exposures later than the data of the stage before it, so it sees that stage's output as in
service, not on rows that stage was trained on. An exposure whose label window crosses the end of its share is dropped:
its label would come from the next share.

Shares are proportions of the exposures, not of the calendar: a gap in the logs, or one late click, leaves no share
empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.errors import DataError
from recsys.offline.logs.exposures import Exposures
from recsys.types import SECOND, Mask

SHARES = ("towers", "rankers", "calibrators", "test")


@dataclass(frozen=True)
class Split:
    """Four shares of time: share i spans [cuts[i], cuts[i + 1])."""

    cuts: tuple[int, int, int, int, int]
    """Microseconds; the last is one past the last exposure."""
    label_window: int
    """Microseconds."""

    def rows(self, exposures: Exposures, share: str) -> Mask:
        """Select a share's exposures whose label window ends within it, (E,); the test's may end after the logs."""
        start, end = self.bounds(share)
        last = np.iinfo(np.int64).max if share == SHARES[-1] else end - self.label_window
        return (exposures.now >= start) & (exposures.shown_at < last) & (exposures.now < end)

    def bounds(self, share: str) -> tuple[int, int]:
        """First microsecond of a share, and one past its last."""
        place = SHARES.index(share)
        return self.cuts[place], self.cuts[place + 1]


def split_by_time(exposures: Exposures, shares: tuple[float, float, float, float], label_window_s: float) -> Split:
    """Cut time so that the exposures divide in proportion to `shares`; exposures of one moment stay together.

    Args:
        exposures: in order of `now`.
        shares: of towers, rankers, calibrators and test, > 0, in any unit: only their ratios count.
        label_window_s: seconds after an exposure in which a click labels it.
    Raises: DataError when a share gets no clicked exposure, naming it.
    """
    now = exposures.now
    edges = np.cumsum(shares[:-1]) / sum(shares)
    rankers, calibrators, test = (int(now[min(round(edge * len(now)), len(now) - 1)]) for edge in edges)
    split = Split((int(now[0]), rankers, calibrators, test, int(now[-1]) + 1), int(label_window_s * SECOND))
    for share in SHARES:
        if not exposures.click[split.rows(exposures, share)].any():
            raise DataError(
                f"the {share} share of the logs has no click; offline.split needs more logs, over more moments, or a "
                f"longer share, got {shares}"
            )
    return split
