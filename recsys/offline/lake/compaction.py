"""Compaction: merge the small files of a partition into one, without readers seeing a row twice or not at all.

Takes a lake. The merged file is written under a temporary name and renamed; from then on it replaces its parts, which
are deleted afterwards (`merged_files`). If the run is cut short anywhere, the lake reads the same, and the next run
deletes the leftovers. Rows keep their values and their order; it does not know what they mean. It takes no lock: run
one compaction at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import merged_files, storage
from recsys.offline.lake.encoding import encodings
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.merged_files import Part
from recsys.offline.lake.schemas import TABLES
from recsys.progress import Report

TARGET_BYTES = 128 << 20
"""Size limit of a merged file: large for few files to list, small enough to rewrite when a part changes."""

STALE_S = 3600.0
"""A temporary file of this age is a leftover: no single file takes an hour to write."""

_ROW_GROUP = 1 << 20


def compact(
    lake: Lake,
    tables: Sequence[str] | None = None,
    target_bytes: int = TARGET_BYTES,
    progress: Report = lambda done, total: None,
) -> dict[str, dict[str, int]]:
    """Merge neighbouring files of each (table, date) up to a size. Files whose column types differ stay separate.

    Args:
        tables: None for all.
        target_bytes: size limit of a merged file.
    Returns: for each table with files `files_before`, `files_after`, `bytes_before`, `bytes_after`.
    Raises: DataError for an unknown table, an incomplete lake, or files that change meanwhile.
    """
    chosen = list(TABLES) if tables is None else list(tables)
    for table in chosen:
        if table not in TABLES:
            raise DataError(f"there is no table {table}; the tables are {', '.join(TABLES)}")
    lake.info()
    result = {}
    for done, table in enumerate(chosen):
        remove_leftovers(lake, table)
        before = lake.file_infos(table)
        for _, files in groupby(before, key=lambda info: info.path.rsplit("/", 1)[0]):
            for run, schema in _mergeable_runs(lake, list(files), target_bytes):
                _merge(lake, table, run, schema)
        after = lake.file_infos(table)
        if before:
            result[table] = {
                "files_before": len(before),
                "files_after": len(after),
                "bytes_before": sum(info.size for info in before),
                "bytes_after": sum(info.size for info in after),
            }
        progress(done + 1, len(chosen))
    remove_temporary(lake)
    return result


def _mergeable_runs(
    lake: Lake, files: Sequence[fs.FileInfo], target_bytes: int
) -> Iterator[tuple[list[fs.FileInfo], pa.Schema]]:  # fmt: skip
    """Runs of two or more neighbours that fit into one file, with a schema of all their columns."""
    run: list[fs.FileInfo] = []
    schema: pa.Schema | None = None
    for info in files:
        found = _schema_of(lake, info.path)
        both = _unify(schema, found) if run else found
        if both is None or sum(other.size for other in run) + info.size > target_bytes:
            if len(run) > 1:
                yield run, schema
            run, both = [], found
        if found is not None:
            run, schema = [*run, info], both
    if len(run) > 1:
        yield run, schema


def _schema_of(lake: Lake, path: str) -> pa.Schema | None:
    """The file's schema, None if it cannot be decoded: reading the table will quarantine it."""
    try:
        return pq.read_schema(path, filesystem=lake.filesystem)
    except (pa.ArrowException, OSError) as error:
        if storage.is_damage(error):
            return None
        raise


def _unify(one: pa.Schema | None, other: pa.Schema | None) -> pa.Schema | None:
    """A schema with the columns of both and the later version; None when a column has two types."""
    if one is None or other is None:
        return None
    versions = [(schema.metadata or {}).get(b"recsys.schema") for schema in (one, other)]
    known = sorted((version for version in versions if version), key=lambda version: (len(version), version))
    try:
        both = pa.unify_schemas([one.remove_metadata(), other.remove_metadata()])
    except pa.ArrowException:
        return None
    return both.with_metadata({b"recsys.schema": known[-1]} if known else None)


def _merge(lake: Lake, table: str, run: Sequence[fs.FileInfo], schema: pa.Schema) -> None:
    """Merge one run of files; only the rename is visible to readers."""
    # 1. Write all rows to a temporary file that lists its parts.
    target = merged_files.first_part_path(run[0].path).removesuffix(".parquet") + merged_files.MERGED
    parts = [part for info in run for part in _parts_of(lake, info, target)]
    temporary = storage.temporary_path(target)
    try:
        _write(lake, temporary, run, merged_files.with_parts(schema, parts))
        # 2. If no file changed meanwhile, rename: from here on the parts do not count.
        for info in run:
            if not _is_unchanged(lake, info):
                raise FileNotFoundError(info.path)
        lake.filesystem.move(temporary, target)
    except FileNotFoundError as error:
        raise DataError(
            f"{run[0].path} or a file beside it changed while they were merged; "
            f"run `recsys lake compact` again when nothing else writes there ({error})"
        ) from None
    finally:
        storage.remove(lake.filesystem, temporary)
    # 3. Delete the parts, and quarantine their bad rows anew: they have new line numbers.
    had_bad_rows = False
    for info in run:
        if info.path != target:
            _delete(lake, info)
        had_bad_rows |= lake.forget_quarantined(info.path)
    if had_bad_rows:
        lake.quarantine_bad_rows(table, target)


def _is_unchanged(lake: Lake, info: fs.FileInfo) -> bool:
    return merged_files.identity(lake.filesystem.get_file_info(info.path)) == merged_files.identity(info)


def _delete(lake: Lake, info: fs.FileInfo) -> None:
    """Delete a file that was merged, unless it has changed since.

    Raises: DataError when it has changed: its new rows would be lost.
    """
    if _is_unchanged(lake, info):
        lake.filesystem.delete_file(info.path)
    elif storage.is_file(lake.filesystem, info.path):
        raise DataError(
            f"{info.path} must not change while it is merged: its older rows are merged, its new ones are left where "
            "they are; run again what wrote it, or give the file another name"
        )


def _parts_of(lake: Lake, info: fs.FileInfo, target: str) -> list[Part]:
    """The parts that a file adds to the merged one: itself or, if it is a merged file, its parts."""
    name = info.path.rsplit("/", 1)[-1].removesuffix(".parquet")
    if not merged_files.is_merged(info.path):
        rows = pq.read_metadata(info.path, filesystem=lake.filesystem).num_rows
        return [Part(name, rows, info.size, storage.digest(lake.filesystem, info.path))]
    parts = merged_files.read_parts(lake.filesystem, info.path)
    if info.path == target:
        return parts
    # The rename replaces only a merged file of the same name. Another one becomes a part too, so that it is ignored.
    return [*parts, Part(name, 0, info.size, storage.digest(lake.filesystem, info.path))]


def _write(lake: Lake, path: str, run: Sequence[fs.FileInfo], schema: pa.Schema) -> None:
    """Write all rows of these files to a new one, about a row group in memory at a time."""
    waiting: list[pa.Table] = []
    with pq.ParquetWriter(path, schema, filesystem=lake.filesystem, **encodings(schema)) as writer:
        for info in run:
            with lake.filesystem.open_input_file(info.path) as source:
                file = pq.ParquetFile(source)
                for group in range(file.num_row_groups):
                    waiting.append(_with_all_columns(file.read_row_group(group), schema))
                    if sum(map(len, waiting)) >= _ROW_GROUP:
                        writer.write_table(pa.concat_tables(waiting), _ROW_GROUP)
                        waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting), _ROW_GROUP)


def _with_all_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    columns: list[Any] = [
        rows[column.name].cast(column.type) if column.name in rows.column_names else pa.nulls(len(rows), column.type)
        for column in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def remove_leftovers(lake: Lake, table: str) -> None:
    """Delete parts of merged files that a compaction left behind."""
    stored = lake.stored_files(table)
    current = {info.path for info in merged_files.current_files(lake.filesystem, stored)}
    for info in stored:
        if info.path not in current:
            _delete(lake, info)
            lake.forget_quarantined(info.path)


def remove_temporary(lake: Lake) -> None:
    """Delete stale temporary files of killed writers, if the filesystem keeps times."""
    for info in lake.filesystem.get_file_info(fs.FileSelector(lake.root, recursive=True, allow_not_found=True)):
        left_over = info.base_name.startswith(".") and info.extension == "tmp"
        if left_over and info.mtime is not None and info.mtime.timestamp() < time.time() - STALE_S:
            storage.remove(lake.filesystem, info.path)
