"""The lake: Parquet files, `<url>/<table>/date=YYYY-MM-DD/<name>.parquet`, written whole or not at all.

Takes and gives Arrow tables of the schemas. A row that breaks a rule goes to `<url>/quarantine/` with its reason,
once, and is counted; a file that cannot be read goes there whole. It does not know what the rows mean.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import merged_files, storage
from recsys.offline.lake.encoding import encodings
from recsys.offline.lake.quarantine import Quarantine
from recsys.offline.lake.schemas import TABLES
from recsys.offline.lake.validate import check, columns_to_check, conform
from recsys.types import DAY, Mask

_ATTEMPTS = 10
"""Readings of a folder whose files are merged or replaced while it is read."""

_Found = TypeVar("_Found")


@dataclass
class Lake:
    """A folder of tables, local or on any filesystem that pyarrow or fsspec opens."""

    url: str
    now: int | None = None
    """What a row's times are held against, microseconds; wall time when left out. A clock may be off by a day."""

    def __post_init__(self) -> None:
        self.filesystem, self.root = storage.open_url(str(self.url))
        self._quarantine = Quarantine(self.filesystem, self.root)

    @property
    def quarantined(self) -> Counter[str]:
        """Reason to number of rows (or of unreadable files) set aside by this object's reads."""
        return self._quarantine.met

    def write(self, table: str, rows: pa.Table, date: str, name: str) -> None:
        """Write one file of one partition; the same (table, date, name) again replaces it, also within a merged file.

        Args:
            rows: columns of `TABLES[table]`; missing nullable columns are filled with nulls.
            date: partition, `YYYY-MM-DD`.
            name: file name without ending; a rerun that uses the same name writes the same file.
        Raises: DataError when the rows do not fit the schema.
        """
        rows = conform(table, rows)
        path = f"{self.root}/{table}/date={date}/{name}.parquet"
        merged = merged_files.holder(self.filesystem, path)
        if merged is None:
            storage.write_parquet(self.filesystem, path, rows, encodings(rows.schema))
        else:
            merged_files.replace(self.filesystem, merged, path, rows)
        self._quarantine.forget(table, merged or path)

    def files(self, table: str) -> list[str]:
        """Paths of the table's files in order of date and name."""
        return [info.path for info in self.file_infos(table)]

    def file_infos(self, table: str) -> list[fs.FileInfo]:
        """The table's files with their sizes, in order of date and name; those within merged files are not among them.

        Raises: DataError when somebody put a file beside a merged one that holds the same name.
        """
        return merged_files.visible(self.filesystem, self.stored(table))

    def stored(self, table: str) -> list[fs.FileInfo]:
        """Every Parquet file below the table's folder, also those that no longer count because they were merged."""
        selector = fs.FileSelector(f"{self.root}/{table}", recursive=True, allow_not_found=True)
        return [
            info
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File and info.extension == "parquet" and not info.base_name.startswith(".")
        ]

    def written(self, table: str) -> list[str]:
        """The paths under which files were written, those within merged files too. `write` and `remove` know them."""
        names = []
        for path in self.files(table):
            folder = path.rsplit("/", 1)[0]
            held = merged_files.read_parts(self.filesystem, path) if merged_files.is_merged(path) else []
            held_paths = [f"{folder}/{part.name}.parquet" for part in held]
            names += [held_path for held_path in held_paths if not merged_files.is_merged(held_path)] or [path]
        return names

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All valid rows of a table, in order of file and row; an absent table is empty.

        Columns that an older file lacks read as null. Bad rows are quarantined and counted in `self.quarantined`.
        """
        schema = TABLES[table].schema
        wanted = list(columns) if columns is not None else schema.names
        latest, decoded = self._latest(), set()

        def rows_of(info: fs.FileInfo) -> pa.Table | None:
            rows = self._read_file(table, info, wanted, latest)
            if rows is not None:
                decoded.add(info.path)
            return rows

        found = self.scan(table, rows_of)
        for path in decoded - {info.path for info, _ in found}:
            self._quarantine.forget(table, path)  # merged since: its bad rows are those of the merged file
        rows = [part for _, part in found if part is not None]
        return pa.concat_tables(rows) if rows else pa.schema([schema.field(name) for name in wanted]).empty_table()

    def scan(
        self, table: str, visit: Callable[[fs.FileInfo], _Found | None]
    ) -> list[tuple[fs.FileInfo, _Found | None]]:  # fmt: skip
        """Visit each file of a table, in order of date and name, so that no row is met twice or missed.

        Every folder is seen as of one moment: it is listed again after the visits, and where it changed they are
        repeated. Files that were added meanwhile are not visited.

        Args:
            visit: what to find out about a file; None where that is nothing, and only then may `visit` take it away.
        Raises: DataError when a file has the name of one that was merged, or when a folder never stops changing.
        """
        found: dict[str, list[tuple[fs.FileInfo, _Found | None]]] = {}
        attempts: Counter[str] = Counter()
        listed = merged_files.by_folder(self.stored(table))
        again = set(listed)
        while True:
            failed: dict[str, Exception] = {}
            for folder in sorted(again):
                found[folder] = []
                try:
                    for info in merged_files.visible(self.filesystem, listed[folder]):
                        found[folder].append((info, visit(info)))
                except (FileNotFoundError, DataError) as error:
                    failed[folder] = error
            now = merged_files.by_folder(self.stored(table))
            again = set(failed)
            for folder in listed.keys() | now.keys():
                before = listed.get(folder, [])
                used = {info.path for info, result in found.get(folder, ()) if result is not None}
                may_go = set() if folder in failed else {info.path for info in before} - used
                if merged_files.differ(before, now.get(folder, []), may_go):
                    again.add(folder)
                elif isinstance(failed.get(folder), DataError):
                    raise failed[folder]
            for folder in again:
                attempts[folder] += 1
                if attempts[folder] == _ATTEMPTS:
                    raise DataError(
                        f"table {table} of {self.url} changes while it is read: {failed.get(folder, folder)}; "
                        "read it again later"
                    )
                listed[folder] = now.get(folder, [])
            if not again:
                pairs = [pair for folder in found for pair in found[folder]]
                return sorted(pairs, key=lambda pair: merged_files.plain_path(pair[0].path))

    def check(self, table: str, path: str) -> None:
        """Set aside what is wrong with one file, as reading it does."""
        self._read_file(table, self.filesystem.get_file_info(path), [], self._latest())

    def delete(self, tables: Iterable[str]) -> None:
        """Remove tables with all their files."""
        for table in tables:
            if self.exists(table):
                self.filesystem.delete_dir(f"{self.root}/{table}")

    def remove(self, paths: Iterable[str]) -> None:
        """Remove these files, as `files` or `written` name them; one that is gone already is none to remove."""
        for path in paths:
            merged = merged_files.holder(self.filesystem, path)
            if merged is None:
                storage.remove(self.filesystem, path)
            else:
                merged_files.replace(self.filesystem, merged, path, None)
            self.forget_quarantined(merged or path)

    def rewrite(
        self, table: str, info: fs.FileInfo, columns: Sequence[str], gone: Callable[[pa.Table], Mask]
    ) -> int:  # fmt: skip
        """Write one file again under its name without some of its rows, whole or not at all; an empty one goes.

        A file that cannot be decoded is set aside whole, as reading it does.

        Args:
            info: the file, as `file_infos` gave it.
            columns: what `gone` needs to see; only these are read, the others where a row goes, a row group at a time.
            gone: which rows go, (N,), given those of the columns that the file has.
        Returns: rows that went.
        Raises: FileNotFoundError when the file is gone or another one by now, OSError when it cannot be written.
        """
        path = info.path
        try:
            with self.filesystem.open_input_file(path) as source:
                file = pq.ParquetFile(source, pre_buffer=True)
                rows = file.read([name for name in columns if name in file.schema_arrow.names])
            chosen = gone(rows) if rows.column_names else np.zeros(len(rows), bool)
            if chosen.any():
                merged_files.without(self.filesystem, info, chosen)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            # Writing fails with the same errors: only a file that cannot be read either is to blame itself.
            if not storage.is_damage(error) or not storage.is_damaged(self.filesystem, path):
                raise
            if merged_files.identity(self.filesystem.get_file_info(path)) != merged_files.identity(info):
                raise FileNotFoundError(path) from None
            self._quarantine.add_file(table, path, error)
            return 0
        if chosen.any() and self._quarantine.forget(table, path) and storage.is_file(self.filesystem, path):
            self.check(table, path)  # its bad rows have other places now
        return int(chosen.sum())

    def exists(self, table: str = "") -> bool:
        """Whether there is a folder for a table, or for the lake itself."""
        path = f"{self.root}/{table}" if table else self.root
        return bool(self.filesystem.get_file_info(path).type == fs.FileType.Directory)

    def quarantine(self, folder: str, name: str, rows: pa.Table) -> None:
        """Write rows that were set aside before they reached a table: `<url>/quarantine/<folder>/<name>.parquet`."""
        self._quarantine.add_lines(folder, name, rows)

    def quarantine_counts(self) -> Counter[str]:
        """Reason to number of rows (or of unreadable files) that lie in the quarantine."""
        return self._quarantine.counts()

    def forget_quarantined(self, path: str) -> bool:
        """Drop what was set aside of a file that is no more; whether there was anything."""
        table = path.removeprefix(f"{self.root}/").split("/", 1)[0]
        return self._quarantine.forget(table, path)

    def begin(self, info: dict[str, Any] | None = None) -> None:
        """Mark the lake incomplete until `finish`: whoever reads it in between is told so by `info`.

        Args:
            info: what `unfinished` should tell, such as `origin`; without it a world is being written.
        """
        storage.write_json(self.filesystem, self._note, {"complete": False, **(info or {})})

    def finish(self, info: dict[str, Any]) -> None:
        """Mark the lake complete, with what a reader should know: `origin`, and `logs_end` (us) for a world."""
        storage.write_json(self.filesystem, self._note, {"complete": True, **info})

    def info(self) -> dict[str, Any]:
        """What `finish` noted; empty for a lake that someone else filled.

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
        """What `begin` noted for the last run that filled the lake, None when that run finished."""
        try:
            info = self._read_note()
        except ValueError:
            return None
        return info if info.get("complete") is False else None

    @property
    def _note(self) -> str:
        return f"{self.root}/_lake.json"

    def _read_note(self) -> dict[str, Any]:
        """Raises: ValueError with what it should be and is not."""
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

    def _latest(self) -> int | None:
        """The last moment that is not in the future. A world has its own time, and it may be still to come."""
        try:
            info = self._read_note()
        except ValueError:
            info = {}
        if info.get("origin") == "world" or info.get("complete") is False:
            return None
        return (time.time_ns() // 1000 if self.now is None else self.now) + DAY

    def _read_file(self, table: str, info: fs.FileInfo, wanted: list[str], latest: int | None) -> pa.Table | None:
        """Raises: FileNotFoundError when the file is gone, or is damaged and not the one that `info` tells of."""
        path = info.path
        try:
            # Opened once: two openings may meet two files of this name.
            source = self.filesystem.open_input_file(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _refused(path, error) from None
        with source:
            try:
                file = pq.ParquetFile(source, pre_buffer=True)
                names = columns_to_check(table, file.schema_arrow, wanted)
                rows = file.read([name for name in names if name in file.schema_arrow.names])
            except (pa.ArrowException, OSError) as error:
                if not storage.is_damage(error):
                    raise _refused(path, error) from None
                if merged_files.identity(self.filesystem.get_file_info(path)) != merged_files.identity(info):
                    raise FileNotFoundError(path) from None
                self._quarantine.add_file(table, path, error)
                return None
            checked, reason = check(table, rows, names, latest)
            if reason is not None:
                self._quarantine.add_rows(table, path, file.read(), reason)
                checked = checked.filter(pc.is_null(reason))
            return checked.select(wanted)


def _refused(path: str, error: Exception) -> DataError:
    """The system refused (permission, network, too many open files): the file itself may be fine."""
    return DataError(f"{path} cannot be opened: {error}; make it readable and try again")
