"""Erase one person from the lake: rewrite every file that has rows of theirs, under its name, without those rows.

Takes a lake, a user id and the name it came with; gives what was removed where. The caller keeps the stream out
meanwhile (`LakeSink.held`). If the run is cut short, each file is either as it was or without the person; run it again
to finish.
Rows of other users stay as they are, also those that mention the person as an author; so do the posts they wrote.

Memory is bounded by the columns that identify the person and one row group of a file. It does not know Redis.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import merged_files, storage
from recsys.offline.lake.compaction import remove_leftovers, remove_temporary
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.progress import Report
from recsys.types import Mask

PERSONAL = tuple(name for name, spec in TABLES.items() if "user_id" in spec.schema.names)
"""Tables whose rows belong to a user."""

_ATTEMPTS = 10
"""Passes over a table whose files keep changing before giving up."""

_WHOLE_NUMBER = re.compile(r"\s*([+-]?[0-9]+|0[xX][0-9a-fA-F]+)\s*")


@dataclass
class Removed:
    """Rows and files removed from one table or from the quarantine."""

    rows: int = 0
    files: int = 0
    """Files that had such rows: rewritten, or deleted if nothing was left."""

    def add(self, rows: int) -> None:
        self.rows += rows
        self.files += rows > 0


@dataclass
class LakeErasure:
    """Everything removed from the lake, and the files that could not be searched."""

    tables: dict[str, Removed] = field(default_factory=lambda: {name: Removed() for name in (*PERSONAL, "ids")})
    quarantine: Removed = field(default_factory=Removed)
    not_searched: list[str] = field(default_factory=list)
    """Files of the quarantine that cannot be decoded: they may still contain the person."""
    authored_posts: int = 0
    """Posts that name the person as their author; they stay."""


def erase(lake: Lake, user_id: int, name: str, report: Report = lambda done, total: None) -> LakeErasure:
    """Remove a person's rows from every table that has a user, from `ids` and from the quarantine.

    Args:
        name: the id as a string. Names that `ids` records for it are searched for as well.
        report: called with (done, total) in files.
    Raises: DataError when the files keep changing, OSError when they cannot be read or written.
    """
    result = LakeErasure()
    files = _FileCounter(report, sum(len(lake.stored_files(table)) for table in (*PERSONAL, "ids")))
    person = _Person(user_id, frozenset({name, str(user_id), *_names(lake, user_id)}))
    remove_temporary(lake)
    # Names are needed to find rejected lines, so `ids` goes last: a run that was cut short needs them again.
    for table in PERSONAL:
        _erase_from(lake, table, ["user_id"], person.owns, result.tables[table], files)
    _erase_quarantined(lake, person, result)
    _erase_from(lake, "ids", ["kind", "id"], person.is_named, result.tables["ids"], files)
    result.authored_posts = _count_authored(lake, user_id)
    return result


class _FileCounter:
    """Reports files done; the total is an estimate, as files may be replaced meanwhile."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._done, self._total = report, 0, total

    def advance(self) -> None:
        self._done += 1
        self._report(min(self._done, self._total), self._total)


@dataclass(frozen=True)
class _Person:
    """The person to look for, in columns of any type: other programs may have written the files."""

    user_id: int
    names: frozenset[str]

    def owns(self, rows: pa.Table) -> Mask:
        """Rows with the person's `user_id`, (N,)."""
        return self._matches(rows["user_id"])

    def is_named(self, rows: pa.Table) -> Mask:
        """Rows of `ids` with the person's number, unless they name a post, (N,)."""
        if not {"kind", "id"} <= set(rows.column_names):
            return np.zeros(len(rows), bool)
        is_post = pc.equal(rows["kind"].cast(pa.string()), "post").fill_null(False)
        return np.asarray(self._matches(rows["id"]) & ~np.asarray(is_post))

    def is_mentioned(self, rows: pa.Table) -> Mask:
        """Rejected lines that contain the person's name or number as a word, (N,)."""
        words = "|".join(re.escape(name) for name in sorted(self.names))
        found = [re.search(rf"(?<!\w)(?:{words})(?!\w)", text or "") is not None for text in rows["text"].to_pylist()]
        return np.array(found, bool)

    def _matches(self, column: pa.ChunkedArray) -> Mask:
        """Whether each value is the person's id, (N,)."""
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_integer(kind):
            try:
                found = pc.equal(column, pa.scalar(self.user_id, kind))
            except (pa.ArrowException, OverflowError):
                return np.zeros(len(column), bool)  # the id does not fit this type
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            ids = [text for text in pc.unique(column).to_pylist() if text is not None and self._is_id(text)]
            found = pc.is_in(column, value_set=pa.array(ids, kind))
        elif pa.types.is_floating(kind):
            found = pc.equal(column, float(self.user_id))
        else:
            return np.zeros(len(column), bool)
        return np.asarray(found.fill_null(False).to_numpy())

    def _is_id(self, text: str) -> bool:
        """Whether a text is a name of the person or their number, decimal or hexadecimal."""
        number = _WHOLE_NUMBER.fullmatch(text)
        return text.strip() in self.names or (
            number is not None and int(number[1], 16 if "x" in number[1].lower() else 10) == self.user_id
        )


def _names(lake: Lake, user_id: int) -> list[str]:
    """The names that `ids` records for the user."""

    def names_in(info: fs.FileInfo) -> list[str] | None:
        try:
            rows = pq.read_table(
                info.path, columns=["kind", "id", "name"], filesystem=lake.filesystem, partitioning=None
            )
            named = _Person(user_id, frozenset()).is_named(rows)
            return [str(name) for name in rows["name"].filter(pa.array(named)).to_pylist()]
        except (pa.ArrowException, OSError, KeyError) as error:
            if isinstance(error, KeyError) or storage.is_damage(error):
                return None  # `_erase_from` quarantines this file
            raise

    return [name for _, names in lake.scan("ids", names_in) for name in names or ()]


def _erase_from(
    lake: Lake,
    table: str,
    columns: Sequence[str],
    choose: Callable[[pa.Table], Mask],
    removed: Removed,
    files: _FileCounter,
) -> None:
    """Delete the chosen rows from a table's files, and list them again until all are known to be clean."""
    remove_leftovers(lake, table)
    clean: set[tuple[str, int, int | None]] = set()
    for _ in range(_ATTEMPTS):
        waiting = [info for info in lake.file_infos(table) if merged_files.identity(info) not in clean]
        if not waiting:
            return
        for info in waiting:
            try:
                rows = lake.delete_rows(table, info, columns, choose)
            except FileNotFoundError:
                continue  # merged or replaced: the next listing has its replacement
            removed.add(rows)
            if rows == 0:
                clean.add(merged_files.identity(info))
            files.advance()
    raise DataError(f"table {table} of {lake.url} keeps changing; erase again when nothing else writes there")


def _erase_quarantined(lake: Lake, person: _Person, result: LakeErasure) -> None:
    """Remove the person's quarantined rows, and unreadable files whose `user_id` column can be read and has them."""
    selector = fs.FileSelector(f"{lake.root}/quarantine", recursive=True, allow_not_found=True)
    for info in sorted(lake.filesystem.get_file_info(selector), key=lambda info: str(info.path)):
        if info.type != fs.FileType.File or info.extension not in ("parquet", "unreadable"):
            continue
        find = _finder(person, info.path.rsplit("/", 2)[-2])
        if find is None or info.base_name.startswith("."):
            continue
        try:
            found = find(lake, info.path)
            if found.any() and info.extension == "parquet":
                merged_files.remove_rows(lake.filesystem, info, found)
            elif found.any():
                lake.filesystem.delete_file(info.path)
            result.quarantine.add(int(found.sum()))
        except FileNotFoundError:
            continue  # deleted, because its source was written again
        except (pa.ArrowException, OSError, KeyError) as error:
            if not isinstance(error, KeyError) and not storage.is_damaged(lake.filesystem, info.path):
                raise
            result.not_searched.append(info.path)


def _finder(person: _Person, folder: str) -> Callable[[Lake, str], Mask] | None:
    """The function that finds the person in files of a quarantine folder; None if it has no personal rows."""
    finders: dict[str, tuple[list[str], Callable[[pa.Table], Mask]]] = {
        **{table: (["user_id"], person.owns) for table in PERSONAL},
        "ids": (["kind", "id"], person.is_named),
        "import": (["text"], person.is_mentioned),
    }
    if folder not in finders:
        return None
    columns, choose = finders[folder]

    def find(lake: Lake, path: str) -> Mask:
        with lake.filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            rows = file.read([name for name in columns if name in file.schema_arrow.names])
        return choose(rows)

    return find


def _count_authored(lake: Lake, user_id: int) -> int:
    """Posts that name the user as their author."""

    def count(info: fs.FileInfo) -> int | None:
        try:
            rows: Any = pq.read_table(info.path, columns=["author_id"], filesystem=lake.filesystem, partitioning=None)
            return int(_Person(user_id, frozenset())._matches(rows["author_id"]).sum())
        except (pa.ArrowException, OSError, KeyError) as error:
            if isinstance(error, KeyError) or storage.is_damage(error):
                return None
            raise

    return sum(number or 0 for _, number in lake.scan("posts", count))
