"""Running state per id: earliest time, seen before, latest row. It grows with the number of ids, not of rows.

Takes chunks of numpy columns. It does not know users, posts or tables.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.lookup import lookup
from recsys.types import Ids, Mask, Times


class Earliest:
    """Every id added so far, with its earliest time."""

    def __init__(self) -> None:
        self._ids = np.empty(0, np.int64)
        self._times = np.empty(0, np.int64)
        self._pending: list[tuple[Ids, Times]] = []

    def add(self, ids: Ids, times: Times) -> None:
        """Add ids with times, (N,) both."""
        if len(ids):
            self._pending.append(_earliest(ids, times))
        if sum(len(ids) for ids, _ in self._pending) > len(self._ids) + 100_000:
            self._merge()

    def ids(self) -> Ids:
        """All ids, ascending, without repeats."""
        self._merge()
        return self._ids

    def times(self) -> Times:
        """The earliest time of each, in the order of `ids`."""
        self._merge()
        return self._times

    def of(self, ids: Ids, missing: int) -> Times:
        """The earliest time of each of these ids, `missing` for unknown ones, (N,)."""
        self._merge()
        row = lookup(self._ids, ids)
        if not len(self._times):
            return np.full(len(row), missing, np.int64)
        return np.where(row >= 0, self._times[row], missing)

    def _merge(self) -> None:
        if self._pending:
            parts = [(self._ids, self._times), *self._pending]
            self._ids, self._times = _earliest(*(np.concatenate(column) for column in zip(*parts, strict=True)))
            self._pending = []


def _earliest(ids: Ids, times: Times) -> tuple[Ids, Times]:
    """Each id once, ascending, with its earliest time."""
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]])) if len(ids) else np.empty(0, np.int64)
    return ids[starts], np.minimum.reduceat(times[order], starts) if len(ids) else times


class Seen:
    """The set of numbers added so far."""

    def __init__(self) -> None:
        self._runs: list[Ids] = []

    def add(self, values: Ids) -> Mask:
        """Add values; whether each had been added before, by an earlier call or earlier in `values`, (N,)."""
        unique, first = np.unique(values, return_index=True)
        repeat = np.ones(len(values), bool)
        repeat[first] = False
        for run in self._runs:
            repeat[first] |= lookup(run, unique) >= 0
        new = unique[~repeat[first]]
        # Keep sorted runs of falling sizes, so that a value is merged a few times in all, not once per call.
        while self._runs and len(self._runs[-1]) <= 2 * len(new):
            new = np.sort(np.concatenate([self._runs.pop(), new]))
        self._runs.append(new)
        return repeat

    def contains(self, values: Ids) -> Mask:
        """Whether each value was added, (N,)."""
        found = np.zeros(len(values), bool)
        for run in self._runs:
            found |= lookup(run, values) >= 0
        return found


class Latest:
    """One row per id: the one with the latest time or, among equals, the one added last."""

    def __init__(self) -> None:
        self._kept: list[tuple[Ids, Times, pa.Table]] = []
        self._n_merged = 0

    def add(self, ids: Ids, times: Times, rows: pa.Table) -> None:
        """Add rows with ids and times, (N,) each; the columns of `rows` are the same in all calls."""
        if len(ids):
            self._kept.append((ids, times, rows))
        if sum(len(ids) for ids, _, _ in self._kept) > 2 * self._n_merged + 100_000:
            self._merge()

    def rows(self) -> tuple[Ids, pa.Table | None]:
        """All ids, ascending, and their rows; None when nothing was added."""
        if not self._kept:
            return np.empty(0, np.int64), None
        self._merge()
        ids, _, rows = self._kept[0]
        return ids, rows

    def _merge(self) -> None:
        ids = np.concatenate([ids for ids, _, _ in self._kept])
        times = np.concatenate([times for _, times, _ in self._kept])
        order = np.lexsort((times, ids))  # stable: among equal times the last added stays last
        last = order[np.concatenate([ids[order][1:] != ids[order][:-1], [True]])]
        rows = pa.concat_tables([rows for _, _, rows in self._kept]).take(pa.array(last))
        self._kept = [(ids[last], times[last], rows.combine_chunks())]
        self._n_merged = len(last)
