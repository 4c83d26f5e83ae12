"""Where bad rows and unreadable files lie, `<url>/quarantine/<table>/`, and how many this process has met.

Takes rows with a reason each. The rows of one file make one file here, named after it, so that reading it again
counts nothing twice. It does not know the rules.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.offline.lake import storage

log = logging.getLogger(__name__)

UNREADABLE = "unreadable_file"
_OPTIONS = {"compression": "zstd"}


class Quarantine:
    """The quarantine of one lake."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self._fs, self._folder = filesystem, f"{root}/quarantine"
        self._met: dict[str, Counter[str]] = {}
        """Path of a file to reasons and rows; a file that is read again counts once."""

    @property
    def met(self) -> Counter[str]:
        """Reason to number of rows (or of unreadable files) that this object set aside."""
        return sum(self._met.values(), Counter())

    def add_rows(self, table: str, path: str, rows: pa.Table, reason: pa.Array) -> None:
        """Keep the bad rows as they were found, all columns of them, with `reason`, `file` and `line` (from 0).

        Args:
            rows: all of the file.
            reason: for every row of the file the rule it breaks, null where it breaks none.
        """
        rows = rows.drop_columns([name for name in ("reason", "file", "line") if name in rows.column_names])
        line = pa.array(range(len(rows)), pa.int64())
        bad = rows.append_column("reason", reason).append_column("line", line).filter(pc.is_valid(reason))
        bad = bad.append_column("file", pa.repeat(path, len(bad)))
        counts = Counter(bad["reason"].to_pylist())
        if counts != self._met.get(path):
            log.warning("%s: %d rows of %s set aside: %s", table, len(bad), path, dict(counts))
        self._met[path] = counts
        storage.write_parquet(self._fs, self._rows_of(table, path), bad, _OPTIONS)

    def add_file(self, table: str, path: str, error: Exception) -> None:
        """Move a file here that cannot be decoded."""
        self._met[path] = Counter([UNREADABLE])
        folder = f"{self._folder}/{table}"
        self._fs.create_dir(folder, recursive=True)
        target = f"{folder}/{path.rsplit('/', 1)[-1]}.{_hash(path)[:8]}.unreadable"
        log.warning("%s cannot be read and was moved to %s: %s", path, target, " ".join(str(error).split()))
        self._fs.move(path, target)

    def add_lines(self, folder: str, name: str, rows: pa.Table) -> None:
        """Keep what was rejected before it reached a table; `rows` has `reason`, `file` and `line`."""
        storage.write_parquet(self._fs, f"{self._folder}/{folder}/{name}.parquet", rows, _OPTIONS)

    def forget(self, table: str, path: str) -> bool:
        """Remove what is known of a file that was replaced or removed; whether there was anything."""
        self._met.pop(path, None)
        known = storage.is_file(self._fs, self._rows_of(table, path))
        if known:
            self._fs.delete_file(self._rows_of(table, path))
        return known

    def counts(self) -> Counter[str]:
        """Reason to number of rows (or of unreadable files) that lie here, whoever set them aside."""
        total: Counter[str] = Counter()
        for info in self._fs.get_file_info(fs.FileSelector(self._folder, recursive=True, allow_not_found=True)):
            if info.type != fs.FileType.File or info.base_name.startswith("."):
                continue
            if info.extension == "unreadable":
                total[UNREADABLE] += 1
            elif info.extension == "parquet":
                total.update(self._reasons(info.path))
        return total

    def _reasons(self, path: str) -> Counter[str]:
        """To rows; anything else than rows with a reason, put here by another program, is one unreadable file."""
        try:
            rows = pq.read_table(path, filesystem=self._fs, partitioning=None)
            return Counter(rows["reason"].cast(pa.string()).drop_null().to_pylist())
        except FileNotFoundError:
            return Counter()  # its rows were written again since it was listed
        except KeyError:
            return Counter([UNREADABLE])
        except (pa.ArrowException, OSError) as error:
            if storage.is_damage(error):
                return Counter([UNREADABLE])
            raise

    def _rows_of(self, table: str, path: str) -> str:
        return f"{self._folder}/{table}/{_hash(path)[:16]}.parquet"


def _hash(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()
