"""Merged files: one file that replaces several small files of a partition and lists them as its parts.

A merged file is named after its first part, `<name>.merged.parquet`; its Parquet metadata lists the names, rows and
bytes of its parts. From the moment it has that name, readers ignore files that are its parts: that rename is the only
step of a compaction that readers see. Parts keep their names: writing a part again replaces its rows inside the merged
file. It does not know what the rows mean.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import storage
from recsys.offline.lake.encoding import encodings
from recsys.types import Mask

MERGED = ".merged.parquet"
_KEY = b"recsys.parts"


class Part(NamedTuple):
    """A file inside a merged one."""

    name: str
    """Without folder and ending."""
    rows: int
    bytes: int
    """Size of the file; a file with this name and another size is a different file."""
    digest: str | None = None
    """Of the file's bytes; None in merged files of older programs, which compare sizes only."""


def is_merged(path: str) -> bool:
    return path.endswith(MERGED)


def first_part_path(path: str) -> str:
    """Path of a merged file's first part, by which files are ordered; the path itself for other files."""
    return path.removesuffix(MERGED) + ".parquet" if is_merged(path) else path


def read_parts(filesystem: Any, path: str) -> list[Part]:
    """Parts of a merged file in order of its rows; empty if the file cannot be decoded."""
    try:
        noted = (pq.read_schema(path, filesystem=filesystem).metadata or {}).get(_KEY, b"[]")
        return [Part(*part) for part in json.loads(noted)]
    except ValueError:
        return []
    except (pa.ArrowException, OSError) as error:
        if storage.is_damage(error):
            return []
        raise


def with_parts(schema: pa.Schema, parts: Sequence[Part]) -> pa.Schema:
    """The schema with this list of parts in its metadata."""
    return schema.with_metadata({**(schema.metadata or {}), _KEY: json.dumps(parts).encode()})


def identity(info: fs.FileInfo) -> tuple[str, int, int | None]:
    """Path, size and modification time: unchanged until the file is written again."""
    return info.path, info.size, info.mtime_ns


def by_folder(infos: Iterable[fs.FileInfo]) -> dict[str, list[fs.FileInfo]]:
    folders: dict[str, list[fs.FileInfo]] = defaultdict(list)
    for info in infos:
        folders[info.path.rsplit("/", 1)[0]].append(info)
    return dict(folders)


def changed(before: Iterable[fs.FileInfo], after: Iterable[fs.FileInfo], unused: Collection[str] = ()) -> bool:
    """Whether rows read between two listings of a folder may mix two states of it.

    New files are harmless, except merged ones: the first listing may have missed both the merged file and its parts.

    Args:
        unused: paths of files whose rows were not used; these may change or vanish.
    """
    old, new = ({identity(info) for info in infos} for infos in (before, after))
    return any(path not in unused for path, _, _ in old - new) or any(is_merged(path) for path, _, _ in new - old)


def current_files(filesystem: Any, infos: Iterable[fs.FileInfo]) -> list[fs.FileInfo]:
    """Files whose rows count, in order: all but the parts of merged files.

    Raises: DataError when a file has the name of a part but is a different file.
    """
    folders = by_folder(infos).values()
    found = [info for files in folders for info in (files if len(files) == 1 else _drop_parts(filesystem, files))]
    return sorted(found, key=lambda info: first_part_path(info.path))


def _drop_parts(filesystem: Any, files: Sequence[fs.FileInfo]) -> list[fs.FileInfo]:
    parts: dict[str, tuple[Part, str]] = {}  # path of each part: the part, and the merged file that lists it
    for info in files:
        if is_merged(info.path):
            folder = info.path.rsplit("/", 1)[0]
            parts |= {f"{folder}/{part.name}.parquet": (part, info.path) for part in read_parts(filesystem, info.path)}
    for info in files:
        if info.path in parts and not _is_part(filesystem, info, parts[info.path][0]):
            raise DataError(
                f"{info.path} must not have the name of a file that is already part of {parts[info.path][1]}; "
                "run again what wrote it, or give the new file another name"
            )
    return [info for info in files if info.path not in parts]


def _is_part(filesystem: Any, info: fs.FileInfo, part: Part) -> bool:
    """Whether a file is the one that was merged. A file that vanishes meanwhile was: only parts are deleted."""
    if info.size != part.bytes:
        return False
    try:
        return part.digest is None or part.digest == storage.digest(filesystem, info.path)
    except FileNotFoundError:
        return True


def merged_file_of(filesystem: Any, path: str) -> str | None:
    """The merged file that has `path` as a part, None when there is none."""
    folder, name = path.rsplit("/", 1)
    name = name.removesuffix(".parquet")
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if not is_merged(info.path) or info.base_name.startswith("."):
            continue
        if any(part.name == name for part in read_parts(filesystem, info.path)):
            return str(info.path)
    return None


def replace_part(filesystem: Any, merged: str, path: str, rows: pa.Table | None) -> None:
    """Replace the rows of one part of a merged file; None removes the part. Delete the file if no rows are left.

    Raises: DataError when the merged file's columns have other types.
    """
    name = path.rsplit("/", 1)[-1].removesuffix(".parquet")
    # A compaction that was cut short may have left the part's file. It goes first: next to the changed part it would
    # look like a new file.
    storage.remove(filesystem, path)
    parts = read_parts(filesystem, merged)
    old = pq.read_table(merged, filesystem=filesystem, partitioning=None)
    # Cut the rows into parts, and put the new rows in place of the old ones.
    pieces, kept, start = [], [], 0
    for part in parts:
        piece: pa.Table | None = old.slice(start, part.rows)
        start += part.rows
        if part.name == name:
            piece = rows
            part = Part(name, 0 if rows is None else len(rows), 0)  # size 0: no file is this part any more
        if piece is not None:
            pieces.append(piece.replace_schema_metadata(old.schema.metadata))
            kept.append(part)
    if not any(part.rows for part in kept):
        filesystem.delete_file(merged)
        return
    try:
        table = pa.concat_tables(pieces, promote_options="default")
    except pa.ArrowException as error:
        raise DataError(f"{path} is part of {merged}, whose columns must have the same types: {error}") from None
    table = table.replace_schema_metadata(with_parts(old.schema, kept).metadata)
    storage.write_parquet(filesystem, merged, table, encodings(table.schema))


def remove_rows(filesystem: Any, info: fs.FileInfo, chosen: Mask) -> None:
    """Write a file again without the chosen rows, one row group in memory at a time; delete it if no row is left.

    A merged file keeps all its parts, also those left without rows.

    Args:
        info: the file as it was when its rows were chosen.
        chosen: rows to remove, (N,).
    Raises: FileNotFoundError when the file has changed since.
    """
    kept = ~chosen
    # 1. New row counts of the parts: part i had the rows [ends[i], ends[i + 1]).
    parts = read_parts(filesystem, info.path) if is_merged(info.path) else []
    ends = np.cumsum([0, *(part.rows for part in parts)])
    kept_before = np.concatenate([[0], np.cumsum(kept)])  # (N + 1,)
    parts = [
        part._replace(rows=int(kept_before[end] - kept_before[start]))
        for part, start, end in zip(parts, ends[:-1], ends[1:], strict=True)
    ]
    # 2. Write beside the file, check that it is still the same, then rename.
    temporary = storage.temporary_path(info.path)
    try:
        if kept.any():
            _copy_rows(filesystem, info.path, temporary, kept, parts)
        if identity(filesystem.get_file_info(info.path)) != identity(info):
            raise FileNotFoundError(info.path)
        if kept.any():
            filesystem.move(temporary, info.path)
        else:
            filesystem.delete_file(info.path)
    finally:
        storage.remove(filesystem, temporary)


def _copy_rows(filesystem: Any, path: str, target: str, kept: Mask, parts: Sequence[Part]) -> None:
    """Copy the kept rows, (N,) as a mask, to a new file with this list of parts."""
    with filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        if file.metadata.num_rows != len(kept):
            raise FileNotFoundError(path)
        schema = with_parts(file.schema_arrow, parts) if parts else file.schema_arrow
        start = 0
        with pq.ParquetWriter(target, schema, filesystem=filesystem, **encodings(schema)) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                writer.write_table(rows.filter(pa.array(kept[start : start + len(rows)])))
                start += len(rows)
