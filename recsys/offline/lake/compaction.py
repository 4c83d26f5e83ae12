"""Small files of a partition become one, and nobody who reads meanwhile sees a row twice or not at all.

Takes a lake. The merged file is written under a temporary name and renamed; from then on it stands for its parts, which
are deleted after that (`parts.py`). Cut short anywhere, the lake reads the same, and the next run removes what is left
over. Rows stay as they are, in the order in which the lake reads them; it does not know what they mean. One compaction
at a time: it takes no lock.
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
"""Files grow no larger than this: few enough to list, small enough to be written again when a part is."""

STALE_S = 3600.0
"""Age from which a temporary file is left over: no single file takes an hour to write."""

_ROW_GROUP = 1 << 20


def compact(
    lake: Lake,
    tables: Sequence[str] | None = None,
    target_bytes: int = TARGET_BYTES,
    progress: Report = lambda done, total: None,
) -> dict[str, dict[str, int]]:
    """Merge neighbouring files of each (table, date) up to a size. Files of other types than their neighbours' stay.

    Args:
        tables: all when left out.
        target_bytes: size of a merged file at most.
    Returns: table to `files_before`, `files_after`, `bytes_before`, `bytes_after`; tables without files are left out.
    Raises: DataError for an unknown table, an incomplete lake, or files that others change meanwhile.
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
            for run, schema in _runs(lake, list(files), target_bytes):
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


def _runs(
    lake: Lake, files: Sequence[fs.FileInfo], target_bytes: int
) -> Iterator[tuple[list[fs.FileInfo], pa.Schema]]:  # fmt: skip
    """Two or more neighbours that fit together, with the schema that holds all their columns."""
    run: list[fs.FileInfo] = []
    schema: pa.Schema | None = None
    for info in files:
        found = _schema_of(lake, info.path)
        both = _unified(schema, found) if run else found
        if both is None or sum(other.size for other in run) + info.size > target_bytes:
            if len(run) > 1:
                yield run, schema
            run, both = [], found
        if found is not None:
            run, schema = [*run, info], both
    if len(run) > 1:
        yield run, schema


def _schema_of(lake: Lake, path: str) -> pa.Schema | None:
    """None when it cannot be decoded: reading the table will set it aside."""
    try:
        return pq.read_schema(path, filesystem=lake.filesystem)
    except (pa.ArrowException, OSError) as error:
        if storage.is_damage(error):
            return None
        raise


def _unified(one: pa.Schema | None, other: pa.Schema | None) -> pa.Schema | None:
    """All columns of both, and the later version of the two; None when a column has two types."""
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
    target = merged_files.plain_path(run[0].path).removesuffix(".parquet") + merged_files.MERGED
    held = [part for info in run for part in _parts_of(lake, info, target)]
    temporary = storage.temporary_for(target)
    try:
        _write(lake, temporary, run, merged_files.with_parts(schema, held))
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
    had_bad_rows = False
    for info in run:
        if info.path != target:
            _delete(lake, info)
        had_bad_rows |= lake.forget_quarantined(info.path)
    if had_bad_rows:
        lake.check(table, target)


def _is_unchanged(lake: Lake, info: fs.FileInfo) -> bool:
    return merged_files.identity(lake.filesystem.get_file_info(info.path)) == merged_files.identity(info)


def _delete(lake: Lake, info: fs.FileInfo) -> None:
    """Delete what a merged file holds, unless somebody has put other rows there since it was looked at."""
    if _is_unchanged(lake, info):
        lake.filesystem.delete_file(info.path)
    elif storage.is_file(lake.filesystem, info.path):
        raise DataError(
            f"{info.path} must not change while it is merged: its older rows are merged, its new ones are left where "
            "they are; run again what wrote it, or give the file another name"
        )


def _parts_of(lake: Lake, info: fs.FileInfo, target: str) -> list[Part]:
    """What a file brings into the merged one: itself, or what it holds."""
    name = info.path.rsplit("/", 1)[-1].removesuffix(".parquet")
    if not merged_files.is_merged(info.path):
        rows = pq.read_metadata(info.path, filesystem=lake.filesystem).num_rows
        return [Part(name, rows, info.size, storage.digest(lake.filesystem, info.path))]
    held = merged_files.read_parts(lake.filesystem, info.path)
    if info.path == target:
        return held
    # A merged file that this one does not replace by its name must not count beside it either.
    return [*held, Part(name, 0, info.size, storage.digest(lake.filesystem, info.path))]


def _write(lake: Lake, path: str, run: Sequence[fs.FileInfo], schema: pa.Schema) -> None:
    """All rows of these files, a row group in memory at a time."""
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
    """Delete what merged files hold already."""
    stored = lake.stored(table)
    counted = {info.path for info in merged_files.visible(lake.filesystem, stored)}
    for info in stored:
        if info.path not in counted:
            _delete(lake, info)
            lake.forget_quarantined(info.path)


def remove_temporary(lake: Lake) -> None:
    """Delete what killed writers left behind; where the filesystem keeps no times it stays."""
    for info in lake.filesystem.get_file_info(fs.FileSelector(lake.root, recursive=True, allow_not_found=True)):
        left_over = info.base_name.startswith(".") and info.extension == "tmp"
        if left_over and info.mtime is not None and info.mtime.timestamp() < time.time() - STALE_S:
            storage.remove(lake.filesystem, info.path)
