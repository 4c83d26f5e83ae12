"""The files of one import: rows are buffered and written by date; files of earlier runs are deleted.

Takes tables with a time per row. It does not know what the rows mean or where they come from.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa

from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.types import DAY, Times

BUFFER_BYTES = 1 << 28
"""Bytes buffered before everything is written: large for few files, small enough for a laptop."""

QUARANTINE = "quarantine/import"


class Partitions:
    """The files that an import writes. The same rows in the same order give the same files."""

    def __init__(self, lake: Lake, name: str) -> None:
        self._lake, self.name = lake, name
        self._buffer: dict[tuple[str, str], list[pa.Table]] = defaultdict(list)
        self._bytes = 0
        self._parts: dict[tuple[str, str], int] = defaultdict(int)
        self._written: set[str] = set()
        """Path endings: table, date, file."""
        self._existed = {_ending(path) for path in self._own_paths()}
        self._removed = False

    def add(self, table: str, rows: pa.Table, times: Times) -> None:
        """Add rows of a table, each to the partition of its time (microseconds, (N,))."""
        if not len(rows):
            return
        day = times // DAY
        order = np.argsort(day, kind="stable")
        rows, day = rows.take(pa.array(order)), day[order]
        starts = np.flatnonzero(np.concatenate([[True], day[1:] != day[:-1]]))
        for start, end in zip(starts, [*starts[1:], len(day)], strict=True):
            date = str(np.datetime64(int(day[start]), "D"))
            self._buffer[table, date].append(rows.slice(start, end - start))
        self._bytes += rows.nbytes
        if self._bytes > BUFFER_BYTES:
            self.write()

    def write(self) -> None:
        """Write the buffered rows."""
        for (table, date), parts in sorted(self._buffer.items()):
            name = self._next_name(table, date)
            self._written.add(f"{table}/date={date}/{name}.parquet")
            self._lake.write(table, pa.concat_tables(parts), date, name)
        self._buffer.clear()
        self._bytes = 0

    def quarantine(self, rows: pa.Table) -> None:
        """Write rejected lines, as one more file of the quarantine."""
        name = self._next_name(QUARANTINE, "")
        self._lake.quarantine("import", name, rows)
        self._written.add(f"{QUARANTINE}/{name}.parquet")

    def remove_stale(self) -> None:
        """Delete files that an earlier import of the same source wrote and this one did not."""
        stale = [path for path in self._own_paths() if _ending(path) not in self._written]
        self._removed = bool(stale)
        self._lake.delete_files(stale)

    def remove_written(self) -> None:
        """Delete the files that this import wrote."""
        self._lake.delete_files(path for path in self._own_paths() if _ending(path) in self._written)

    def remove_all(self) -> None:
        """Delete all files of this source, whichever import wrote them."""
        self._lake.delete_files(self._own_paths())

    def replaced_any(self) -> bool:
        """Whether this import overwrote or deleted a file of an earlier one."""
        return self._removed or not self._existed.isdisjoint(self._written)

    def _own_paths(self) -> list[str]:
        paths = [path for table in (*TABLES, QUARANTINE) for path in self._lake.written_paths(table)]
        return [path for path in paths if self._is_own(path)]

    def _is_own(self, path: str) -> bool:
        base = path.rsplit("/", 1)[-1].removesuffix(".parquet")
        return base == self.name or base.startswith(f"{self.name}-")

    def _next_name(self, table: str, date: str) -> str:
        part = self._parts[table, date]
        self._parts[table, date] += 1
        return f"{self.name}-{part:05d}" if part else self.name


def _ending(path: str) -> str:
    return "/".join(path.split("/")[-3:])
