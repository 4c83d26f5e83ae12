"""The files of one import: rows by date of their moment, buffered, and the files of earlier runs that go.

Takes tables with a moment per row. It does not know what the rows mean, nor where they come from.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa

from recsys.offline.lake import Lake
from recsys.offline.schemas import TABLES
from recsys.types import DAY, Times

BUFFER_BYTES = 1 << 28
"""Rows in memory before all of them are written: large enough for few files, small enough for a laptop."""

QUARANTINE = "quarantine/import"


class Partitions:
    """Where an import writes. The same rows in the same order give the same files."""

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake, self._name = lake, name
        self._waiting: dict[tuple[str, str], list[pa.Table]] = defaultdict(list)
        self._bytes = 0
        self._parts: dict[tuple[str, str], int] = defaultdict(int)
        self._written: set[str] = set()
        """Ends of paths: table, date, file."""

    def add(self, table: str, rows: pa.Table, times: Times) -> None:
        """Rows of a table, each in the partition of its moment (microseconds, (N,))."""
        if not len(rows):
            return
        day = times // DAY
        order = np.argsort(day, kind="stable")
        rows, day = rows.take(pa.array(order)), day[order]
        starts = np.flatnonzero(np.concatenate([[True], day[1:] != day[:-1]]))
        for start, end in zip(starts, [*starts[1:], len(day)], strict=True):
            date = str(np.datetime64(int(day[start]), "D"))
            self._waiting[table, date].append(rows.slice(start, end - start))
        self._bytes += rows.nbytes
        if self._bytes > BUFFER_BYTES:
            self.write()

    def write(self) -> None:
        """Write all that waits."""
        for (table, date), parts in sorted(self._waiting.items()):
            name = self._next_name(table, date)
            self._lake.write(table, pa.concat_tables(parts), date, name)
            self._written.add(f"{table}/date={date}/{name}.parquet")
        self._waiting.clear()
        self._bytes = 0

    def quarantine(self, rows: pa.Table) -> None:
        """Write a part of the rejected lines."""
        name = self._next_name(QUARANTINE, "")
        self._lake.quarantine("import", name, rows)
        self._written.add(f"{QUARANTINE}/{name}.parquet")

    def remove_stale(self) -> None:
        """Remove the files that an earlier import of the same source wrote and this one did not."""
        for table in (*TABLES, QUARANTINE):
            mine = [path for path in self._lake.written(table) if self._is_mine(path)]
            self._lake.remove(path for path in mine if "/".join(path.split("/")[-3:]) not in self._written)

    def _is_mine(self, path: str) -> bool:
        base = path.rsplit("/", 1)[-1].removesuffix(".parquet")
        return base == self._name or base.startswith(f"{self._name}-")

    def _next_name(self, table: str, date: str) -> str:
        part = self._parts[table, date]
        self._parts[table, date] += 1
        return f"{self._name}-{part:05d}" if part else self._name
