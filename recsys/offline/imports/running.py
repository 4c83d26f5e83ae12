"""What is known of ids so far, in arrays that grow with the number of ids, not of rows.

Takes chunks of numpy columns. It does not know users, posts or tables.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.lookup import lookup
from recsys.types import Ids, Mask, Times


class Earliest:
    """Every id that came by, with its earliest moment."""

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._times = np.empty(0, np.int64)
        self._waiting: list[tuple[Ids, Times]] = []

    def add(self, ids: Ids, times: Times) -> None:
        """Both (N,)."""
        if len(ids):
            self._waiting.append(_least(ids, times))
        if sum(len(ids) for ids, _ in self._waiting) > len(self._ids) + 100_000:
            self._settle()

    def ids(self) -> Ids:
        """Ascending, without repeats."""
        self._settle()
        return self._ids

    def times(self) -> Times:
        """In the order of `ids`."""
        self._settle()
        return self._times

    def of(self, ids: Ids, missing: int) -> Times:
        """The earliest moment of each of these, `missing` for an id that never came by."""
        self._settle()
        row = lookup(self._ids, ids)
        if not len(self._times):
            return np.full(len(row), missing, np.int64)
        return np.where(row >= 0, self._times[row], missing)

    def _settle(self) -> None:
        if self._waiting:
            parts = [(self._ids, self._times), *self._waiting]
            self._ids, self._times = _least(*(np.concatenate(column) for column in zip(*parts, strict=True)))
            self._waiting = []


def _least(ids: Ids, times: Times) -> tuple[Ids, Times]:
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.empty(0, np.int64)
    return ids[starts], np.minimum.reduceat(times[order], starts) if len(ids) else times


class Seen:
    """Which numbers came by before."""

    def __init__(self) -> None:
        self._runs: list[Ids] = []

    def repeated(self, values: Ids) -> Mask:
        """Where a value came by before, earlier in `values` or in an earlier call, (N,)."""
        unique, first = np.unique(values, return_index=True)
        repeat = np.ones(len(values), bool)
        repeat[first] = False
        for run in self._runs:
            repeat[first] |= lookup(run, unique) >= 0
        new = unique[~repeat[first]]
        # Runs of falling sizes: a value is merged a few times in all, not once per call.
        while self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._runs.pop(), new]))
        self._runs.append(new)
        return repeat

    def contains(self, values: Ids) -> Mask:
        """Where `repeated` was told of a value, (N,)."""
        found = np.zeros(len(values), bool)
        for run in self._runs:
            found |= lookup(run, values) >= 0
        return found


class Latest:
    """One row per id: the one of the latest moment, of several the one that came last."""

    def __init__(self) -> None:
        self._kept: list[tuple[Ids, Times, pa.Table]] = []
        self._settled = 0

    def add(self, ids: Ids, times: Times, rows: pa.Table) -> None:
        """Columns of length N; all calls bring the same columns."""
        if len(ids):
            self._kept.append((ids, times, rows))
        if sum(len(ids) for ids, _, _ in self._kept) > 2 * self._settled + 100_000:
            self._settle()

    def rows(self) -> tuple[Ids, pa.Table | None]:
        """Ids ascending and their rows; None when nothing came."""
        if not self._kept:
            return np.empty(0, np.int64), None
        self._settle()
        ids, _, rows = self._kept[0]
        return ids, rows

    def _settle(self) -> None:
        ids = np.concatenate([ids for ids, _, _ in self._kept])
        times = np.concatenate([times for _, times, _ in self._kept])
        order = np.lexsort((times, ids))  # stable: of equal moments the last to come stays last
        last = order[np.concatenate([ids[order][1:] != ids[order][:-1], [True]])]
        rows = pa.concat_tables([rows for _, _, rows in self._kept]).take(pa.array(last))
        self._kept = [(ids[last], times[last], rows.combine_chunks())]
        self._settled = len(last)
