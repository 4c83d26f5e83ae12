"""One person out of the lake: every file that holds rows of theirs is written again without them, under its name.

Takes a lake that nobody streams into meanwhile (`LakeSink.held`), a user id and the name it came with; gives what was
removed where. Cut short anywhere, every file is as it was or without the person, and running it again does the rest.
Rows of others stay as they are, also those that mention the person as an author, and so do the posts they wrote.

A file's rows are found by one column of it; memory is bounded by that column and one row group. It does not know Redis.
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
from recsys.types import Mask

PERSONAL = tuple(name for name, spec in TABLES.items() if "user_id" in spec.schema.names)
"""Tables whose rows belong to a user."""

_ATTEMPTS = 10
"""Looks at a table whose files others change meanwhile."""

_WHOLE_NUMBER = re.compile(r"\s*([+-]?[0-9]+|0[xX][0-9a-fA-F]+)\s*")

Report = Callable[[int, int], None]
"""Called with (done, total) in files."""


@dataclass
class Removed:
    """What went from one place."""

    rows: int = 0
    files: int = 0
    """That held these rows; written again, or gone where nothing was left."""

    def add(self, rows: int) -> None:
        self.rows += rows
        self.files += rows > 0


@dataclass
class LakeErasure:
    """What went from the lake, and what could not be looked into."""

    tables: dict[str, Removed] = field(default_factory=lambda: {name: Removed() for name in (*PERSONAL, "ids")})
    quarantine: Removed = field(default_factory=Removed)
    not_searched: list[str] = field(default_factory=list)
    """Files of the quarantine that cannot be decoded, so that nobody knows whom they are of."""
    authored_posts: int = 0
    """Posts that name the person as their author; they stay."""


def erase(lake: Lake, user_id: int, name: str, report: Report = lambda done, total: None) -> LakeErasure:
    """Remove a person's rows from every table that has a user, from `ids` and from the quarantine.

    Args:
        name: the id as it was outside; what `ids` says it was called is looked for as well.
    Raises: DataError when others keep changing the files, OSError when they cannot be read or written.
    """
    result = LakeErasure()
    files = _Counted(report, sum(len(lake.stored(table)) for table in (*PERSONAL, "ids")))
    person = _Person(user_id, frozenset({name, str(user_id), *_names(lake, user_id)}))
    remove_temporary(lake)
    # The names lead to quarantined lines, so they go last: a run that is cut short still has them when it is repeated.
    for table in PERSONAL:
        _erase_from(lake, table, ["user_id"], person.owns, result.tables[table], files)
    _erase_quarantined(lake, person, result)
    _erase_from(lake, "ids", ["kind", "id"], person.is_called, result.tables["ids"], files)
    result.authored_posts = _count_authored(lake, user_id)
    return result


class _Counted:
    """Files done so far, of about so many."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._done, self._total = report, 0, total

    def one(self) -> None:
        self._done += 1
        self._report(min(self._done, self._total), self._total)


@dataclass(frozen=True)
class _Person:
    """Whom rows are held against; columns may be of any type, as other programs may have written them."""

    user_id: int
    names: frozenset[str]

    def owns(self, rows: pa.Table) -> Mask:
        """Rows with their `user_id`."""
        return self._is(rows["user_id"])

    def is_called(self, rows: pa.Table) -> Mask:
        """Rows of `ids` about them: of their number, unless it is a post's."""
        if not {"kind", "id"} <= set(rows.column_names):
            return np.zeros(len(rows), bool)
        is_post = pc.equal(rows["kind"].cast(pa.string()), "post").fill_null(False)
        return np.asarray(self._is(rows["id"]) & ~np.asarray(is_post))

    def is_in(self, rows: pa.Table) -> Mask:
        """Lines of a source that hold their name or number as a word."""
        words = "|".join(re.escape(name) for name in sorted(self.names))
        found = [re.search(rf"(?<!\w)(?:{words})(?!\w)", text or "") is not None for text in rows["text"].to_pylist()]
        return np.array(found, bool)

    def _is(self, column: pa.ChunkedArray) -> Mask:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        kind = column.type
        if pa.types.is_integer(kind):
            try:
                found = pc.equal(column, pa.scalar(self.user_id, kind))
            except (pa.ArrowException, OverflowError):
                return np.zeros(len(column), bool)  # a type that is too small for this number
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            theirs = [text for text in pc.unique(column).to_pylist() if text is not None and self._is_meant(text)]
            found = pc.is_in(column, value_set=pa.array(theirs, kind))
        elif pa.types.is_floating(kind):
            found = pc.equal(column, float(self.user_id))
        else:
            return np.zeros(len(column), bool)
        return np.asarray(found.fill_null(False).to_numpy())

    def _is_meant(self, text: str) -> bool:
        number = _WHOLE_NUMBER.fullmatch(text)
        return text.strip() in self.names or (
            number is not None and int(number[1], 16 if "x" in number[1].lower() else 10) == self.user_id
        )


def _names(lake: Lake, user_id: int) -> list[str]:
    """What `ids` says the user is called where the logs came from."""

    def names_in(info: fs.FileInfo) -> list[str] | None:
        try:
            rows = pq.read_table(
                info.path, columns=["kind", "id", "name"], filesystem=lake.filesystem, partitioning=None
            )
            theirs = _Person(user_id, frozenset()).is_called(rows)
            return [str(name) for name in rows["name"].filter(pa.array(theirs)).to_pylist()]
        except (pa.ArrowException, OSError, KeyError) as error:
            if isinstance(error, KeyError) or storage.is_damage(error):
                return None  # removing what is in this file sets it aside
            raise

    return [name for _, names in lake.scan("ids", names_in) for name in names or ()]


def _erase_from(
    lake: Lake,
    table: str,
    columns: Sequence[str],
    gone: Callable[[pa.Table], Mask],
    removed: Removed,
    files: _Counted,
) -> None:
    """Go through a table's files until a look at it shows none that was not gone through."""
    remove_leftovers(lake, table)
    clean: set[tuple[str, int, int | None]] = set()
    for _ in range(_ATTEMPTS):
        waiting = [info for info in lake.file_infos(table) if merged_files.identity(info) not in clean]
        if not waiting:
            return
        for info in waiting:
            try:
                rows = lake.rewrite(table, info, columns, gone)
            except FileNotFoundError:
                continue  # merged or replaced: the next look finds what took its place
            removed.add(rows)
            if rows == 0:
                clean.add(merged_files.identity(info))
            files.one()
    raise DataError(f"table {table} of {lake.url} keeps changing; erase again when nothing else writes there")


def _erase_quarantined(lake: Lake, person: _Person, result: LakeErasure) -> None:
    """Remove the person's rows that were set aside, and files that cannot be decoded where their users can be read."""
    selector = fs.FileSelector(f"{lake.root}/quarantine", recursive=True, allow_not_found=True)
    for info in sorted(lake.filesystem.get_file_info(selector), key=lambda info: str(info.path)):
        if info.type != fs.FileType.File or info.extension not in ("parquet", "unreadable"):
            continue
        gone = _chooser(person, info.path.rsplit("/", 2)[-2])
        if gone is None or info.base_name.startswith("."):
            continue
        try:
            found = gone(lake, info.path)
            if found.any() and info.extension == "parquet":
                merged_files.without(lake.filesystem, info, found)
            elif found.any():
                lake.filesystem.delete_file(info.path)
            result.quarantine.add(int(found.sum()))
        except FileNotFoundError:
            continue  # what it was set aside from was written again
        except (pa.ArrowException, OSError, KeyError) as error:
            if not isinstance(error, KeyError) and not storage.is_damaged(lake.filesystem, info.path):
                raise
            result.not_searched.append(info.path)


def _chooser(person: _Person, folder: str) -> Callable[[Lake, str], Mask] | None:
    """How to find the person in files of a folder of the quarantine; None where no person's rows lie there."""
    ways: dict[str, tuple[list[str], Callable[[pa.Table], Mask]]] = {
        **{table: (["user_id"], person.owns) for table in PERSONAL},
        "ids": (["kind", "id"], person.is_called),
        "import": (["text"], person.is_in),
    }
    if folder not in ways:
        return None
    columns, gone = ways[folder]

    def chosen(lake: Lake, path: str) -> Mask:
        with lake.filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            rows = file.read([name for name in columns if name in file.schema_arrow.names])
        return gone(rows)

    return chosen


def _count_authored(lake: Lake, user_id: int) -> int:
    def count(info: fs.FileInfo) -> int | None:
        try:
            rows: Any = pq.read_table(info.path, columns=["author_id"], filesystem=lake.filesystem, partitioning=None)
            return int(_Person(user_id, frozenset())._is(rows["author_id"]).sum())
        except (pa.ArrowException, OSError, KeyError) as error:
            if isinstance(error, KeyError) or storage.is_damage(error):
                return None
            raise

    return sum(number or 0 for _, number in lake.scan("posts", count))
