"""The lake: Parquet files, `<url>/<table>/date=YYYY-MM-DD/<name>.parquet`, zstd, written whole or not at all.

Takes and gives Arrow tables of the schemas. A row that breaks a rule goes to `<url>/quarantine/` with its reason,
once, and is counted; a file that cannot be read goes there whole. It does not know what the rows mean.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.schemas import TABLES

log = logging.getLogger(__name__)


@dataclass
class Lake:
    """A folder of tables, local or on any filesystem that pyarrow or fsspec opens."""

    url: str
    _set_aside: dict[str, Counter[str]] = field(default_factory=dict, init=False, repr=False)
    """Path of a file to reasons and rows; a file that is read again counts once."""

    def __post_init__(self) -> None:
        try:
            if "://" in self.url:
                self._fs, self._root = fs.FileSystem.from_uri(self.url)
            else:
                self._fs, self._root = fs.LocalFileSystem(), str(self.url)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"offline.url {self.url!r} cannot be opened: {error}") from None

    @property
    def quarantined(self) -> Counter[str]:
        """Reason to number of rows (or of unreadable files) set aside by this object's reads."""
        return sum(self._set_aside.values(), Counter())

    def write(self, table: str, rows: pa.Table, date: str, name: str) -> None:
        """Write one file of one partition; the same (table, date, name) again replaces it.

        Args:
            rows: columns of `TABLES[table]`; missing nullable columns are filled with nulls.
            date: partition, `YYYY-MM-DD`.
            name: file name without ending; a rerun that uses the same name writes the same file.
        Raises: DataError when the rows do not fit the schema.
        """
        rows = conform(table, rows)
        folder = f"{self._root}/{table}/date={date}"
        self._fs.create_dir(folder, recursive=True)
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            pq.write_table(rows, temporary, filesystem=self._fs, compression="zstd", compression_level=1)
            self._fs.move(temporary, f"{folder}/{name}.parquet")
        except BaseException:
            if self._fs.get_file_info(temporary).type == fs.FileType.File:
                self._fs.delete_file(temporary)
            raise

    def files(self, table: str) -> list[str]:
        """Paths of the table's files in order of date and name."""
        selector = fs.FileSelector(f"{self._root}/{table}", recursive=True, allow_not_found=True)
        return sorted(
            info.path
            for info in self._fs.get_file_info(selector)
            if info.type == fs.FileType.File and info.extension == "parquet" and not info.base_name.startswith(".")
        )

    def read(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All valid rows of a table, in order of file and row; an absent table is empty.

        Columns that an older file lacks read as null. Bad rows are quarantined and counted in `self.quarantined`.
        """
        schema = TABLES[table].schema
        wanted = list(columns) if columns is not None else schema.names
        parts = [part for path in self.files(table) if (part := self._read_file(table, path, wanted)) is not None]
        if not parts:
            return pa.schema([schema.field(name) for name in wanted]).empty_table()
        return pa.concat_tables(parts)

    def delete(self, tables: Iterable[str]) -> None:
        """Remove tables with all their files."""
        for table in tables:
            if self._fs.get_file_info(f"{self._root}/{table}").type == fs.FileType.Directory:
                self._fs.delete_dir(f"{self._root}/{table}")

    def begin(self) -> None:
        """Mark the lake incomplete until `finish`: whoever reads it in between is told so by `info`."""
        self._write_info({"complete": False})

    def finish(self, info: dict[str, Any]) -> None:
        """Mark the lake complete, with what a reader should know: `origin`, and `logs_end` (us) for a world."""
        self._write_info({"complete": True, **info})

    def info(self) -> dict[str, Any]:
        """What `finish` noted; empty for a lake that someone else filled.

        Raises: DataError when the last run that filled the lake did not finish.
        """
        path = f"{self._root}/_lake.json"
        if self._fs.get_file_info(path).type != fs.FileType.File:
            return {}
        with self._fs.open_input_stream(path) as stream:
            text = stream.read()
        try:
            info: dict[str, Any] = json.loads(text)
        except ValueError:
            raise DataError(
                f"{path} is not JSON; run `recsys simulate` again, or remove it to use the lake as it is"
            ) from None
        if not info.get("complete"):
            raise DataError(
                f"the logs in {self.url} are incomplete: the run that wrote them was interrupted; "
                "run `recsys simulate` again"
            )
        return info

    def interrupted(self) -> bool:
        """Whether the last run that filled the lake did not finish."""
        path = f"{self._root}/_lake.json"
        if self._fs.get_file_info(path).type != fs.FileType.File:
            return False
        with self._fs.open_input_stream(path) as stream:
            try:
                return json.loads(stream.read()).get("complete") is False
            except (ValueError, AttributeError):
                return False

    def _write_info(self, info: dict[str, Any]) -> None:
        self._fs.create_dir(self._root, recursive=True)
        temporary = f"{self._root}/._lake.{uuid.uuid4().hex[:8]}.tmp"
        with self._fs.open_output_stream(temporary) as stream:
            stream.write(json.dumps(info, indent=1).encode())
        self._fs.move(temporary, f"{self._root}/_lake.json")

    def _read_file(self, table: str, path: str, wanted: list[str]) -> pa.Table | None:
        spec = TABLES[table]
        checked = list(dict.fromkeys([*wanted, *spec.required, *spec.enums]))
        try:
            present = set(pq.read_schema(path, filesystem=self._fs).names)
            rows = pq.read_table(
                path, filesystem=self._fs, columns=[name for name in checked if name in present], partitioning=None
            )
            rows = _fill(table, rows, checked)
            rows.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            # The system refused (permission, network, too many open files): the file itself may be fine.
            if isinstance(error, OSError) and error.errno is not None:
                raise DataError(f"{path} cannot be opened: {error}; make it readable and try again") from None
            self._quarantine_file(table, path, error)
            return None
        reason = _broken_rules(table, rows)
        if reason is not None:
            self._quarantine_rows(table, path, reason)
            rows = rows.filter(pc.is_null(reason))
        return rows.select(wanted)

    def _quarantine_rows(self, table: str, path: str, reason: pa.Array) -> None:
        """Keep the rows as they were found, all columns of them, whichever columns this read asked for."""
        rows = pq.read_table(path, filesystem=self._fs, partitioning=None)
        bad = rows.append_column("reason", reason).filter(pc.is_valid(reason))
        bad = bad.append_column("file", pa.repeat(path, len(bad)))
        counts = Counter(bad["reason"].to_pylist())
        if counts != self._set_aside.get(path):
            log.warning("%s: %d rows of %s set aside: %s", table, len(bad), path, dict(counts))
        self._set_aside[path] = counts
        folder = f"{self._root}/quarantine/{table}"
        self._fs.create_dir(folder, recursive=True)
        name = hashlib.sha256(path.encode()).hexdigest()[:16]
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
        pq.write_table(bad, temporary, filesystem=self._fs, compression="zstd")
        self._fs.move(temporary, f"{folder}/{name}.parquet")

    def _quarantine_file(self, table: str, path: str, error: Exception) -> None:
        self._set_aside[path] = Counter(["unreadable_file"])
        folder = f"{self._root}/quarantine/{table}"
        self._fs.create_dir(folder, recursive=True)
        target = f"{folder}/{path.rsplit('/', 1)[-1]}.{hashlib.sha256(path.encode()).hexdigest()[:8]}.unreadable"
        log.warning("%s cannot be read and was moved to %s: %s", path, target, " ".join(str(error).split()))
        self._fs.move(path, target)


def conform(table: str, rows: pa.Table) -> pa.Table:
    """The rows with exactly the columns, types and metadata of the table's schema.

    Raises: DataError naming the table and the column that is missing, unknown or of another type.
    """
    schema = TABLES[table].schema
    unknown = [name for name in rows.column_names if name not in schema.names]
    if unknown:
        raise DataError(f"table {table} has no column {', '.join(unknown)}; it has {', '.join(schema.names)}")
    try:
        return _fill(table, rows, schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"table {table}: rows do not fit the schema: {' '.join(str(error).split())}") from None


def _fill(table: str, rows: pa.Table, names: Sequence[str]) -> pa.Table:
    """Columns in this order with the schema's types; those the rows lack become null."""
    schema = TABLES[table].schema
    columns = {
        name: rows[name].cast(schema.field(name).type)
        if name in rows.column_names
        else pa.nulls(len(rows), schema.field(name).type)
        for name in names
    }
    return pa.table(columns)


def _broken_rules(table: str, rows: pa.Table) -> pa.Array | None:
    """For each row the first rule it breaks, null where it breaks none; None when the whole table is clean."""
    spec = TABLES[table]
    checks: list[tuple[str, pa.ChunkedArray]] = []
    for name in spec.required:
        if rows[name].null_count:
            checks.append((f"{table}.{name} is null", pc.is_null(rows[name])))
    for name, values in spec.enums.items():
        known = pc.is_in(rows[name], value_set=pa.array(values))
        unknown = pc.and_(pc.is_valid(rows[name]), pc.invert(known))
        if pc.any(unknown).as_py():
            checks.append((f"{table}.{name} is not one of {', '.join(values)}", unknown))
    if not checks:
        return None
    flags = pa.StructArray.from_arrays(
        [check.combine_chunks() for _, check in checks], names=[str(i) for i in range(len(checks))]
    )
    return pc.case_when(flags, *[pa.scalar(reason) for reason, _ in checks])
