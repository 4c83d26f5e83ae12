"""Visit the files of a table so that no row is met twice or missed, while others merge and replace files.

Takes how to list the files and what to do with each. It does not read files itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import merged_files

_ATTEMPTS = 10
"""Visits to a folder that keeps changing before giving up."""

Found = TypeVar("Found")
Visited = list[tuple[fs.FileInfo, Found | None]]
"""Files and what the visit found."""


def scan(
    filesystem: Any,
    name: str,
    list_files: Callable[[], list[fs.FileInfo]],
    visit: Callable[[fs.FileInfo], Found | None],
) -> Visited[Found]:
    """Visit each current file, in order of date and name; see `Lake.scan`.

    Args:
        name: of the table, for errors.
        list_files: lists all stored files of the table, parts of merged files included.
    """
    found: dict[str, Visited[Found]] = {}
    attempts: Counter[str] = Counter()
    listed = merged_files.by_folder(list_files())
    pending = set(listed)
    while True:
        # 1. Visit the files of each pending folder. A file may vanish, or a listing may catch a compaction half-way.
        failed: dict[str, Exception] = {}
        for folder in sorted(pending):
            found[folder] = []
            try:
                for info in merged_files.current_files(filesystem, listed[folder]):
                    found[folder].append((info, visit(info)))
            except (FileNotFoundError, DataError) as error:
                failed[folder] = error
        # 2. List again: a folder that failed or changed is visited again. An error in an unchanged folder is real.
        now = merged_files.by_folder(list_files())
        pending = set(failed)
        for folder in listed.keys() | now.keys():
            before = listed.get(folder, [])
            used = {info.path for info, result in found.get(folder, ()) if result is not None}
            unused = set() if folder in failed else {info.path for info in before} - used
            if merged_files.changed(before, now.get(folder, []), unused):
                pending.add(folder)
            elif isinstance(failed.get(folder), DataError):
                raise failed[folder]
        # 3. Take the new listing of pending folders, or give up.
        for folder in pending:
            attempts[folder] += 1
            if attempts[folder] == _ATTEMPTS:
                raise DataError(
                    f"table {name} changes while it is read: {failed.get(folder, folder)}; read it again later"
                )
            listed[folder] = now.get(folder, [])
        if not pending:
            pairs = [pair for folder in found for pair in found[folder]]
            return sorted(pairs, key=lambda pair: merged_files.first_part_path(pair[0].path))
