"""One import on its way into the lake: what all formats share.

Takes checked columns from a format, gives files in the lake, a quarantine and the counts of the report. Files are named
after the source, so importing it again replaces its files and deletes those it no longer needs. It does not know
formats.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError
from recsys.hashing import hash_rows
from recsys.offline.catalogue.ids import MAX_ID_CHARACTERS
from recsys.offline.imports.faults import Faults
from recsys.offline.imports.identity import Names
from recsys.offline.imports.partitions import Partitions
from recsys.offline.imports.running import Earliest, Latest
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TIME
from recsys.offline.logs.events import ACTIONS, CLICK
from recsys.progress import Progress, Report
from recsys.types import DAY, Ids, Mask, Times

_YEAR = 365 * DAY
_QUARANTINE_BYTES = 1 << 26
"""Bytes of rejected lines buffered before they are written."""

POST_COLUMNS = ("author_id", "topic", "language", "media", "text", "created_at", "visible")
USER_COLUMNS = ("language", "country", "created_at")


class Import:
    """One import: collects rows and counts, and writes them."""

    def __init__(
        self, lake: Lake, partitions: Partitions, now: int, report: Report, total_bytes: int
    ) -> None:  # fmt: skip
        self.lake, self.name, self.now = lake, partitions.name, now
        self.partitions = partitions
        self.names = Names(lake.read("ids"))
        self.posts, self.users = Earliest(), Earliest()
        self.described: dict[str, Latest] = {"posts": Latest(), "users": Latest()}
        self.counts: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self._rejected: list[pa.Table] = []
        self._report, self._done, self._total = report, 0, total_bytes

    def advance(self, n_bytes: int) -> None:
        """Report that so many more bytes of the source were read."""
        self._done += n_bytes
        self._report(min(self._done, self._total), self._total)

    def reject(self, reason: str, file: str, lines: Ids, texts: Sequence[str] | pa.Array) -> None:
        """Quarantine lines of the source, (N,) each."""
        if not len(lines):
            return
        self.quarantined[reason] += len(lines)
        columns = {
            "reason": pa.array([reason] * len(lines), pa.string()),
            "file": pa.array([file] * len(lines), pa.string()),
            "line": pa.array(lines, pa.int64()),
            "text": pa.array(texts, pa.string()),
        }
        self._rejected.append(pa.table(columns))
        if sum(rows.nbytes for rows in self._rejected) > _QUARANTINE_BYTES:
            self._write_rejected()

    def ids_of(self, kind: str, names: pa.Array, faults: Faults) -> Ids:
        """Ids of users or posts by name, (N,); an invalid name is a fault of its row and gets 0."""
        text = names.fill_null("")
        length = pc.utf8_length(text).to_numpy()
        faults.add(f"empty_{kind}_id", length == 0)
        faults.add(f"{kind}_id_too_long", length > MAX_ID_CHARACTERS)
        ids = np.zeros(len(text), np.int64)
        valid = np.flatnonzero(faults.valid())
        ids[valid], collided = self.names.ids_of(kind, text.take(pa.array(valid)))
        faults.add(f"{kind}_id_hash_collision", _expand(collided, valid, len(text)))
        return ids

    def add(
        self, request: Ids, user: Ids, post: Ids, code: Ids | int, time: Times, *,
        ingest: Times | None = None, position: pa.Array | None = None, value: pa.Array | None = None,
    ) -> None:  # fmt: skip
        """Add impressions and actions; every column is (N,).

        Args:
            code: place in `ACTIONS`, of each row or one for all.
            ingest: when it arrived; None takes `time`.
        """
        code = np.broadcast_to(np.asarray(code, np.int64), request.shape)
        ingest = time if ingest is None else ingest
        columns = {
            "event_id": hash_rows(request, user, post, code, time),
            "request_id": request, "user_id": user, "post_id": post,
            "event_time": _times(time), "ingest_time": _times(ingest),
        }  # fmt: skip
        rows = pa.table(columns)
        shown = code == 0
        for table, mask, extra in (
            ("impressions", shown, ("position", position)),
            ("actions", ~shown, ("value", value)),
        ):
            place = np.flatnonzero(mask)
            if not len(place):
                continue
            chosen = rows.take(pa.array(place))
            if extra[1] is not None:
                chosen = chosen.append_column(extra[0], extra[1].take(pa.array(place)))
            if table == "actions":
                chosen = chosen.append_column("type", pa.array(ACTIONS).take(pa.array(code[place])))
            self.counts[table] += len(place)
            self.partitions.add(table, chosen, time[place])
        self.counts["clicks"] += int((code == CLICK).sum())
        self.counts["of_1970"] += int((time < _YEAR).sum())
        self.posts.add(post, time)
        self.users.add(user, time)

    def close(self) -> None:
        """Write posts, users and names, then delete the stale files of an earlier import of this source."""
        times = self.posts.times()
        start = int(times.min()) if len(times) else 0
        self._write_described("posts", "post_id", self.posts, start)
        self._write_described("users", "user_id", self.users, start)
        names = self.names.table()
        # Names have no time of their own, so they go to one fixed date.
        self.partitions.add("ids", names, np.zeros(len(names), np.int64))
        self.partitions.write()
        self._write_rejected()
        self.partitions.remove_stale()

    def _write_described(self, table: str, key: str, seen: Earliest, missing: int) -> None:
        """Write descriptions; a missing `created_at` is the first time the logs mention the id, or `missing`."""
        ids, rows = self.described[table].rows()
        if rows is None:
            return
        created = rows["created_at"].cast(pa.int64())
        created = pc.coalesce(created, pa.array(seen.of(ids, missing))).to_numpy()
        rows = rows.set_column(rows.column_names.index("created_at"), "created_at", _times(created))
        self.partitions.add(table, rows.append_column(key, pa.array(ids)), created)

    def _write_rejected(self) -> None:
        if self._rejected:
            self.partitions.quarantine(pa.concat_tables(self._rejected))
            self._rejected = []


@contextmanager
def importing(
    lake: Lake, kind: str, source: Path, now: int, progress: Progress, total_bytes: int, *,
    synthetic_times: bool, table: str | None = None,
) -> Iterator[Import]:  # fmt: skip
    """Import `source` within a `with` block: the lake is incomplete until it ends. A DataError undoes the import.

    Args:
        kind: name of the format.
        now: wall clock, microseconds; times over a day later are refused.
        synthetic_times: whether the format lacks some times, so that they are made up.
        table: of the rows, if the format does not fix it: one file may be imported as several tables.
    Raises: DataError when the lake holds a simulated world.
    """
    resolved = str(source.resolve())
    digest = hashlib.sha256(resolved.encode()).hexdigest()[:8]
    name = "-".join(["import", kind, *([table] if table else []), digest])
    before, interrupted = _prepare(lake, name, progress)
    partitions = Partitions(lake, name)
    synthetic_times |= bool(before.get("synthetic_times"))
    note = {"origin": "import", "source": name, "path": resolved, "synthetic_times": synthetic_times}
    lake.begin({**note, "before": before})
    try:
        with progress.stage(f"import {kind}") as report:
            job = Import(lake, partitions, now, report, total_bytes)
            yield job
            job.close()
    except DataError:
        # Files of an earlier import may be lost for good. A half is worse than nothing, so the whole source goes.
        if interrupted or partitions.replaced_any():
            partitions.remove_all()
            progress.say(
                f"all rows of {resolved} were removed, also those of earlier imports; import it again once it is fixed"
            )
        else:
            partitions.remove_written()
        lake.finish(before)
        raise
    lake.finish({"origin": "import", "format": kind, "synthetic_times": synthetic_times})


def _prepare(lake: Lake, name: str, progress: Progress) -> tuple[dict[str, Any], bool]:
    """Check that the lake may be filled, and delete what an interrupted import of another source left.

    Returns: the facts recorded about the lake before, and whether an import of this source was interrupted.
    Raises: DataError when the lake may not be filled.
    """
    unfinished = lake.unfinished()
    elsewhere = "import into another folder with --set data_dir=FOLDER"
    if unfinished is None:
        noted = lake.info()
        if noted.get("origin") == "world":
            raise DataError(f"the logs in {lake.url} are a simulated world's; {elsewhere}")
        return noted, False
    if unfinished.get("origin") != "import":
        raise DataError(f"{lake.url} holds the logs of an interrupted simulation; {elsewhere}")
    before, other = unfinished.get("before") or {}, str(unfinished.get("source"))
    if other == name:
        return before, True
    if not other.startswith("import-"):
        raise DataError(f"an import into {lake.url} was interrupted and left no name; {elsewhere}")
    progress.say(f"the import of {unfinished.get('path')} into {lake.url} was interrupted: its rows are removed first")
    Partitions(lake, other).remove_all()
    return before, False


def _times(values: Times) -> pa.Array:
    return pa.array(values, pa.int64()).cast(TIME)


def _expand(mask: Mask, places: Ids, n: int) -> Mask:
    """A mask of the rows at `places` as a mask of all `n` rows."""
    full = np.zeros(n, bool)
    full[places] = mask
    return full
