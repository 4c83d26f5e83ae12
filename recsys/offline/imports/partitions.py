"""The files of one import: rows by date of their moment, buffered, and the files of earlier runs that go.

Takes tables with a moment per row. It does not know what the rows mean, nor where they come from.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa

from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.types import DAY, Times

BUFFER_BYTES = 1 << 28
"""Rows in memory before all of them are written: large enough for few files, small enough for a laptop."""

QUARANTINE = "quarantine/import"


class Partitions:
    """Where an import writes. The same rows in the same order give the same files."""

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake, self.name = lake, name
        self._waiting: dict[tuple[str, str], list[pa.Table]] = defaultdict(list)
        self._bytes = 0
        self._parts: dict[tuple[str, str], int] = defaultdict(int)
        self._written: set[str] = set()
        """Ends of paths: table, date, file."""
        self._existed = {_end(path) for path in self._mine()}
        self._removed = False

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
            self._written.add(f"{table}/date={date}/{name}.parquet")
            self._lake.write(table, pa.concat_tables(parts), date, name)
        self._waiting.clear()
        self._bytes = 0

    def quarantine(self, rows: pa.Table) -> None:
        """Write a part of the rejected lines."""
        name = self._next_name(QUARANTINE, "")
        self._lake.quarantine("import", name, rows)
        self._written.add(f"{QUARANTINE}/{name}.parquet")

    def remove_stale(self) -> None:
        """Remove the files that an earlier import of the same source wrote and this one did not."""
        stale = [path for path in self._mine() if _end(path) not in self._written]
        self._removed = bool(stale)
        self._lake.delete_files(stale)

    def remove_written(self) -> None:
        """Remove what this import wrote."""
        self._lake.delete_files(path for path in self._mine() if _end(path) in self._written)

    def remove_all(self) -> None:
        """Remove all files of this source, whichever import wrote them."""
        self._lake.delete_files(self._mine())

    def lost_any(self) -> bool:
        """Whether a file of an earlier import was overwritten or removed."""
        return self._removed or not self._existed.isdisjoint(self._written)

    def _mine(self) -> list[str]:
        paths = [path for table in (*TABLES, QUARANTINE) for path in self._lake.written_paths(table)]
        return [path for path in paths if self._is_mine(path)]

    def _is_mine(self, path: str) -> bool:
        base = path.rsplit("/", 1)[-1].removesuffix(".parquet")
        return base == self.name or base.startswith(f"{self.name}-")

    def _next_name(self, table: str, date: str) -> str:
        part = self._parts[table, date]
        self._parts[table, date] += 1
        return f"{self.name}-{part:05d}" if part else self.name


def _end(path: str) -> str:
    return "/".join(path.split("/")[-3:])
