"""Merged files: small files of one partition as one, which knows the names, rows and bytes of what it holds.

A merged file is named after its first part, `<name>.merged.parquet`, and carries the list of its parts in its Parquet
metadata. A file that it holds counts no more, from the moment the merged file appears under its name: that rename is
the only step of a compaction that readers see. What was merged keeps its name: writing it again replaces its rows
there. It does not know what the rows mean.
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
    """A file within a merged one."""

    name: str
    """Without folder and ending."""
    rows: int
    bytes: int
    """Of the file; another size under this name is another file."""
    digest: str | None = None
    """Of the file's bytes; None in merged files of older programs, which tell files by size alone."""


def is_merged(path: str) -> bool:
    return path.endswith(MERGED)


def plain_path(path: str) -> str:
    """The path of a merged file's first part, which is also its place in the order of files; others are their own."""
    return path.removesuffix(MERGED) + ".parquet" if is_merged(path) else path


def read_parts(filesystem: Any, path: str) -> list[Part]:
    """What a merged file holds, in order of its rows; nothing where the file cannot be decoded."""
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
    """The schema of a merged file that holds these."""
    return schema.with_metadata({**(schema.metadata or {}), _KEY: json.dumps(parts).encode()})


def identity(info: fs.FileInfo) -> tuple[str, int, int | None]:
    """Path, bytes and time of change: what stays the same for as long as nobody writes the file again."""
    return info.path, info.size, info.mtime_ns


def by_folder(infos: Iterable[fs.FileInfo]) -> dict[str, list[fs.FileInfo]]:
    folders: dict[str, list[fs.FileInfo]] = defaultdict(list)
    for info in infos:
        folders[info.path.rsplit("/", 1)[0]].append(info)
    return dict(folders)


def differ(before: Iterable[fs.FileInfo], after: Iterable[fs.FileInfo], may_go: Collection[str] = ()) -> bool:
    """Whether what was read between two listings of a folder may be of no single moment.

    New files do not matter, but for merged ones: the first listing may have missed both them and their parts.

    Args:
        may_go: paths of files of which nothing was used.
    """
    old, new = ({identity(info) for info in infos} for infos in (before, after))
    return any(path not in may_go for path, _, _ in old - new) or any(is_merged(path) for path, _, _ in new - old)


def visible(filesystem: Any, infos: Iterable[fs.FileInfo]) -> list[fs.FileInfo]:
    """The files that count, in order: without those that a merged file holds.

    Raises: DataError when a file with the name of a merged one is not that one.
    """
    folders = by_folder(infos).values()
    found = [info for files in folders for info in (files if len(files) == 1 else _unheld(filesystem, files))]
    return sorted(found, key=lambda info: plain_path(info.path))


def _unheld(filesystem: Any, files: Sequence[fs.FileInfo]) -> list[fs.FileInfo]:
    held: dict[str, tuple[Part, str]] = {}
    for info in files:
        if is_merged(info.path):
            folder = info.path.rsplit("/", 1)[0]
            held |= {f"{folder}/{part.name}.parquet": (part, info.path) for part in read_parts(filesystem, info.path)}
    for info in files:
        if info.path in held and not _is_part(filesystem, info, held[info.path][0]):
            raise DataError(
                f"{info.path} must not have the name of a file that {held[info.path][1]} holds already; "
                "run again what wrote it, or give the new file another name"
            )
    return [info for info in files if info.path not in held]


def _is_part(filesystem: Any, info: fs.FileInfo, part: Part) -> bool:
    """Whether a file is the one that was merged. One that is deleted meanwhile was: only those are."""
    if info.size != part.bytes:
        return False
    try:
        return part.digest is None or part.digest == storage.digest(filesystem, info.path)
    except FileNotFoundError:
        return True


def holder(filesystem: Any, path: str) -> str | None:
    """The merged file that holds what was written to `path`, None when none does."""
    folder, name = path.rsplit("/", 1)
    name = name.removesuffix(".parquet")
    for info in filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True)):
        if not is_merged(info.path) or info.base_name.startswith("."):
            continue
        if any(part.name == name for part in read_parts(filesystem, info.path)):
            return str(info.path)
    return None


def replace(filesystem: Any, merged: str, path: str, rows: pa.Table | None) -> None:
    """Put other rows in place of those that a merged file holds of `path`; None removes them.

    Raises: DataError when the merged file's columns are of other types.
    """
    name = path.rsplit("/", 1)[-1].removesuffix(".parquet")
    # Left over from a compaction that was cut short; it would be mistaken for something new once its part is.
    storage.remove(filesystem, path)
    parts = read_parts(filesystem, merged)
    old = pq.read_table(merged, filesystem=filesystem, partitioning=None)
    pieces, kept, start = [], [], 0
    for part in parts:
        piece: pa.Table | None = old.slice(start, part.rows)
        start += part.rows
        if part.name == name:
            piece = rows
            part = Part(name, 0 if rows is None else len(rows), 0)
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


def without(filesystem: Any, info: fs.FileInfo, gone: Mask) -> None:
    """Write a file again without some of its rows, a row group in memory at a time; one that is left empty goes.

    A merged file goes on holding all its parts, those without rows too.

    Args:
        info: the file as it was found when its rows were chosen.
        gone: which rows go, (N,).
    Raises: FileNotFoundError when it is not that file any more.
    """
    left = ~gone
    held = read_parts(filesystem, info.path) if is_merged(info.path) else []
    ends = np.cumsum([0, *(part.rows for part in held)])
    left_before = np.concatenate([[0], np.cumsum(left)])
    held = [
        part._replace(rows=int(left_before[end] - left_before[start]))
        for part, start, end in zip(held, ends[:-1], ends[1:], strict=True)
    ]
    temporary = storage.temporary_for(info.path)
    try:
        if left.any():
            _write_some(filesystem, info.path, temporary, left, held)
        if identity(filesystem.get_file_info(info.path)) != identity(info):
            raise FileNotFoundError(info.path)
        if left.any():
            filesystem.move(temporary, info.path)
        else:
            filesystem.delete_file(info.path)
    finally:
        storage.remove(filesystem, temporary)


def _write_some(filesystem: Any, path: str, target: str, left: Mask, held: Sequence[Part]) -> None:
    with filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        if file.metadata.num_rows != len(left):
            raise FileNotFoundError(path)
        schema = with_parts(file.schema_arrow, held) if held else file.schema_arrow
        start = 0
        with pq.ParquetWriter(target, schema, filesystem=filesystem, **encodings(schema)) as writer:
            for group in range(file.num_row_groups):
                rows = file.read_row_group(group)
                writer.write_table(rows.filter(pa.array(left[start : start + len(rows)])))
                start += len(rows)
