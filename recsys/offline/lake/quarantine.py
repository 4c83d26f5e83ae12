"""The quarantine: bad rows and unreadable files under `<url>/quarantine/<table>/`, and their counts.

Takes rows with a reason each. The bad rows of one file make one file here, named after it, so that reading that file
again counts nothing twice. It does not know the rules.
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
        self._found: dict[str, Counter[str]] = {}
        """Reasons and rows by path of the file, so that a file read again counts once."""

    @property
    def counts_of_reads(self) -> Counter[str]:
        """Map each reason to the rows (or unreadable files) that this object quarantined."""
        return sum(self._found.values(), Counter())

    def add_rows(self, table: str, path: str, rows: pa.Table, reason: pa.Array) -> None:
        """Write the bad rows of a file with all their columns, plus `reason`, `file` and `line` (from 0).

        Args:
            rows: all rows of the file.
            reason: the rule that each row breaks, null for valid rows.
        """
        rows = rows.drop_columns([name for name in ("reason", "file", "line") if name in rows.column_names])
        line = pa.array(range(len(rows)), pa.int64())
        bad = rows.append_column("reason", reason).append_column("line", line).filter(pc.is_valid(reason))
        bad = bad.append_column("file", pa.repeat(path, len(bad)))
        counts = Counter(bad["reason"].to_pylist())
        if counts != self._found.get(path):
            log.warning("%s: %d rows of %s quarantined: %s", table, len(bad), path, dict(counts))
        self._found[path] = counts
        storage.write_parquet(self._fs, self._rows_of(table, path), bad, _OPTIONS)

    def add_file(self, table: str, path: str, error: Exception) -> None:
        """Move a file that cannot be decoded into the quarantine."""
        self._found[path] = Counter([UNREADABLE])
        folder = f"{self._folder}/{table}"
        self._fs.create_dir(folder, recursive=True)
        target = f"{folder}/{path.rsplit('/', 1)[-1]}.{_hash(path)[:8]}.unreadable"
        log.warning("%s cannot be read and was moved to %s: %s", path, target, " ".join(str(error).split()))
        self._fs.move(path, target)

    def add_lines(self, folder: str, name: str, rows: pa.Table) -> None:
        """Write rows rejected before they reached a table; `rows` has `reason`, `file` and `line`."""
        storage.write_parquet(self._fs, f"{self._folder}/{folder}/{name}.parquet", rows, _OPTIONS)

    def forget(self, table: str, path: str) -> bool:
        """Delete the quarantined rows of a file that was replaced or deleted; return whether there were any."""
        self._found.pop(path, None)
        known = storage.is_file(self._fs, self._rows_of(table, path))
        if known:
            self._fs.delete_file(self._rows_of(table, path))
        return known

    def counts(self) -> Counter[str]:
        """Map each reason to the rows (or unreadable files) in the quarantine, whichever process put them there."""
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
        """Rows by reason; a file without reasons, from another program, counts as one unreadable file."""
        try:
            rows = pq.read_table(path, filesystem=self._fs, partitioning=None)
            return Counter(rows["reason"].cast(pa.string()).drop_null().to_pylist())
        except FileNotFoundError:
            return Counter()  # deleted since it was listed, because its source was written again
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
