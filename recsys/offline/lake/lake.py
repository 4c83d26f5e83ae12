"""The lake: Parquet files, `<url>/<table>/date=YYYY-MM-DD/<name>.parquet`, each written whole or not at all.

Takes and gives Arrow tables of the schemas. A row that breaks a rule goes once to `<url>/quarantine/`, with its reason,
and is counted; a file that cannot be decoded goes there whole. It does not know what the rows mean.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import merged_files, storage
from recsys.offline.lake.encoding import encodings
from recsys.offline.lake.quarantine import Quarantine
from recsys.offline.lake.scan import Found, Visited, scan
from recsys.offline.lake.schemas import TABLES
from recsys.offline.lake.validate import check, columns_to_check, conform
from recsys.types import DAY, Mask


@dataclass
class Lake:
    """A folder of tables, local or on any filesystem that pyarrow or fsspec opens."""

    url: str
    now: int | None = None
    """Times over a day later are in the future, microseconds; None takes the wall clock. Clocks may be off by a day."""

    def __post_init__(self) -> None:
        self.filesystem, self.root = storage.open_url(str(self.url))
        self._quarantine = Quarantine(self.filesystem, self.root)

    @property
    def quarantined(self) -> Counter[str]:
        """Map each reason to the rows (or unreadable files) that reads by this object quarantined."""
        return self._quarantine.counts_of_reads

    def write(self, table: str, rows: pa.Table, date: str, name: str) -> None:
        """Write one file of one partition, replacing an older (table, date, name), also inside a merged file.

        Args:
            rows: columns of `TABLES[table]`; nullable columns may be missing and become null.
            date: partition, `YYYY-MM-DD`.
            name: file name without ending. Use the same name in a rerun, so that it replaces its own file.
        Raises: DataError when the rows do not fit the schema.
        """
        rows = conform(table, rows)
        path = f"{self.root}/{table}/date={date}/{name}.parquet"
        merged = merged_files.merged_file_of(self.filesystem, path)
        if merged is None:
            storage.write_parquet(self.filesystem, path, rows, encodings(rows.schema))
        else:
            merged_files.replace_part(self.filesystem, merged, path, rows)
        self._quarantine.forget(table, merged or path)

    def files(self, table: str) -> list[str]:
        """Paths of the table's current files, in order of date and name."""
        return [info.path for info in self.file_infos(table)]

    def file_infos(self, table: str) -> list[fs.FileInfo]:
        """The table's current files with sizes, in order of date and name; without parts of merged files.

        Raises: DataError when a file has the name of a part of a merged file but is a different file.
        """
        return merged_files.current_files(self.filesystem, self.stored_files(table))

    def stored_files(self, table: str) -> list[fs.FileInfo]:
        """All Parquet files below the table's folder, also leftover parts of merged files."""
        selector = fs.FileSelector(f"{self.root}/{table}", recursive=True, allow_not_found=True)
        return [
            info
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File and info.extension == "parquet" and not info.base_name.startswith(".")
        ]

    def written_paths(self, table: str) -> list[str]:
        """Paths as they were written, with each merged file's parts instead of it; `delete_files` takes them."""
        paths = []
        for path in self.files(table):
            folder = path.rsplit("/", 1)[0]
            parts = merged_files.read_parts(self.filesystem, path) if merged_files.is_merged(path) else []
            part_paths = [f"{folder}/{part.name}.parquet" for part in parts]
            paths += [part_path for part_path in part_paths if not merged_files.is_merged(part_path)] or [path]
        return paths

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all valid rows of a table, in order of file and row; an absent table is empty.

        Columns missing in an older file read as null. Bad rows are quarantined and counted in `self.quarantined`.
        """
        schema = TABLES[table].schema
        wanted = list(columns) if columns is not None else schema.names
        latest, decoded = self._latest_valid_time(), set()

        def rows_of(info: fs.FileInfo) -> pa.Table | None:
            rows = self._read_file(table, info, wanted, latest)
            if rows is not None:
                decoded.add(info.path)
            return rows

        found = self.scan(table, rows_of)
        for path in decoded - {info.path for info, _ in found}:
            self._quarantine.forget(table, path)  # merged since: its bad rows were counted with the merged file
        rows = [part for _, part in found if part is not None]
        return pa.concat_tables(rows) if rows else pa.schema([schema.field(name) for name in wanted]).empty_table()

    def scan(self, table: str, visit: Callable[[fs.FileInfo], Found | None]) -> Visited[Found]:
        """Visit each file of a table, in order of date and name, so that no row is met twice or missed.

        Each folder is seen as of one moment: it is listed again after the visits, and visited again if it changed.
        Files added meanwhile are not visited.

        Args:
            visit: what to find out about a file. It may move or delete the file only if it returns None.
        Raises: DataError when a file has the name of a part of a merged file but is a different file, or when a folder
            does not stop changing.
        """
        return scan(self.filesystem, f"{table} of {self.url}", lambda: self.stored_files(table), visit)

    def quarantine_bad_rows(self, table: str, path: str) -> None:
        """Quarantine the bad rows of one file, as reading it does."""
        self._read_file(table, self.filesystem.get_file_info(path), [], self._latest_valid_time())

    def delete_tables(self, tables: Iterable[str]) -> None:
        """Delete tables with all their files."""
        for table in tables:
            if self.exists(table):
                self.filesystem.delete_dir(f"{self.root}/{table}")

    def delete_files(self, paths: Iterable[str]) -> None:
        """Delete files if they exist; paths as `files` or `written_paths` give them."""
        for path in paths:
            merged = merged_files.merged_file_of(self.filesystem, path)
            if merged is None:
                storage.remove(self.filesystem, path)
            else:
                merged_files.replace_part(self.filesystem, merged, path, None)
            self.forget_quarantined(merged or path)

    def delete_rows(
        self, table: str, info: fs.FileInfo, columns: Sequence[str], choose: Callable[[pa.Table], Mask]
    ) -> int:  # fmt: skip
        """Write one file again under its name without some of its rows, whole or not at all; delete it if empty.

        A file that cannot be decoded is quarantined whole, as reading it does.

        Args:
            info: the file, as `file_infos` gave it.
            columns: columns that `choose` needs. The others are read only if a row goes, a row group at a time.
            choose: rows to delete, (N,), given those of the columns that the file has.
        Returns: number of deleted rows.
        Raises: FileNotFoundError when the file was replaced or deleted meanwhile, OSError when it cannot be written.
        """
        path = info.path
        try:
            with self.filesystem.open_input_file(path) as source:
                file = pq.ParquetFile(source, pre_buffer=True)
                rows = file.read([name for name in columns if name in file.schema_arrow.names])
            chosen = choose(rows) if rows.column_names else np.zeros(len(rows), bool)
            if chosen.any():
                merged_files.remove_rows(self.filesystem, info, chosen)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            # Writing fails with the same errors, so read the file again to see whether it is damaged.
            if not storage.is_damage(error) or not storage.is_damaged(self.filesystem, path):
                raise
            if merged_files.identity(self.filesystem.get_file_info(path)) != merged_files.identity(info):
                raise FileNotFoundError(path) from None
            self._quarantine.add_file(table, path, error)
            return 0
        if chosen.any() and self._quarantine.forget(table, path) and storage.is_file(self.filesystem, path):
            self.quarantine_bad_rows(table, path)  # its bad rows have new line numbers
        return int(chosen.sum())

    def exists(self, table: str = "") -> bool:
        """Whether a table has a folder; without a name, whether the lake has one."""
        path = f"{self.root}/{table}" if table else self.root
        return bool(self.filesystem.get_file_info(path).type == fs.FileType.Directory)

    def quarantine(self, folder: str, name: str, rows: pa.Table) -> None:
        """Write rows rejected before they reached a table to `<url>/quarantine/<folder>/<name>.parquet`."""
        self._quarantine.add_lines(folder, name, rows)

    def quarantine_counts(self) -> Counter[str]:
        """Map each reason to the rows (or unreadable files) in the quarantine."""
        return self._quarantine.counts()

    def forget_quarantined(self, path: str) -> bool:
        """Delete the quarantined rows of a file that no longer exists; return whether there were any."""
        table = path.removeprefix(f"{self.root}/").split("/", 1)[0]
        return self._quarantine.forget(table, path)

    def begin(self, info: dict[str, Any] | None = None) -> None:
        """Mark the lake incomplete until `finish`; `info` raises an error until then.

        Args:
            info: what `unfinished` returns, such as `origin`; None for a world.
        """
        storage.write_json(self.filesystem, self._note, {"complete": False, **(info or {})})

    def finish(self, info: dict[str, Any]) -> None:
        """Mark the lake complete and record facts for readers: `origin`, and `logs_end` (us) for a world."""
        storage.write_json(self.filesystem, self._note, {"complete": True, **info})

    def info(self) -> dict[str, Any]:
        """The facts that `finish` recorded; empty for a lake that another program filled.

        Raises: DataError when the last run that filled the lake did not finish.
        """
        try:
            info = self._read_note()
        except ValueError as error:
            raise DataError(
                f"{self._note} is not {error}; run `recsys simulate` again, or remove it to use the lake as it is"
            ) from None
        if info and not info.get("complete"):
            command = "recsys import" if info.get("origin") == "import" else "recsys simulate"
            raise DataError(
                f"the logs in {self.url} are incomplete: the run that wrote them was interrupted; run `{command}` again"
            )
        return info

    def interrupted(self) -> bool:
        """Whether the last run that filled the lake did not finish."""
        return self.unfinished() is not None

    def unfinished(self) -> dict[str, Any] | None:
        """The facts that `begin` recorded if the last run that filled the lake did not finish, else None."""
        try:
            info = self._read_note()
        except ValueError:
            return None
        return info if info.get("complete") is False else None

    @property
    def _note(self) -> str:
        return f"{self.root}/_lake.json"

    def _read_note(self) -> dict[str, Any]:
        """Read `_lake.json`. Raises: ValueError naming the format it should have."""
        if not storage.is_file(self.filesystem, self._note):
            return {}
        with self.filesystem.open_input_stream(self._note) as stream:
            text = stream.read()
        try:
            info = json.loads(text)
        except ValueError:
            raise ValueError("JSON") from None
        if not isinstance(info, dict):
            raise ValueError("a JSON object")
        return info

    def _latest_valid_time(self) -> int | None:
        """The latest valid time, microseconds; None for a world, whose own time may lie in the future."""
        try:
            info = self._read_note()
        except ValueError:
            info = {}
        if info.get("origin") == "world" or info.get("complete") is False:
            return None
        return (time.time_ns() // 1000 if self.now is None else self.now) + DAY

    def _read_file(self, table: str, info: fs.FileInfo, wanted: list[str], latest: int | None) -> pa.Table | None:
        """Read one file's valid rows, None if it is damaged.

        Raises: FileNotFoundError when the file is gone, or is damaged but no longer the file of `info`.
        """
        path = info.path
        try:
            # Open once: a second opening may find another file under this name.
            source = self.filesystem.open_input_file(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _cannot_open(path, error) from None
        with source:
            try:
                file = pq.ParquetFile(source, pre_buffer=True)
                names = columns_to_check(table, file.schema_arrow, wanted)
                rows = file.read([name for name in names if name in file.schema_arrow.names])
            except (pa.ArrowException, OSError) as error:
                if not storage.is_damage(error):
                    raise _cannot_open(path, error) from None
                if merged_files.identity(self.filesystem.get_file_info(path)) != merged_files.identity(info):
                    raise FileNotFoundError(path) from None
                self._quarantine.add_file(table, path, error)
                return None
            checked, reason = check(table, rows, names, latest)
            if reason is not None:
                self._quarantine.add_rows(table, path, file.read(), reason)
                checked = checked.filter(pc.is_null(reason))
            return checked.select(wanted)


def _cannot_open(path: str, error: Exception) -> DataError:
    """The error for a file that the system refuses to open (permission, network, open files); it may be intact."""
    return DataError(f"{path} cannot be opened: {error}; make it readable and try again")
