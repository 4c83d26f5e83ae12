"""Rows of a CSV or Parquet file with mapped columns: events, or descriptions of posts and users.

Takes a file and a mapping, fills a lake. It does not know how files are read or how the lake stores rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.hashing import hash_rows, hash_text
from recsys.offline.imports.faults import Faults, check_times
from recsys.offline.imports.identity import hash_names
from recsys.offline.imports.lines import utf8
from recsys.offline.imports.report import ImportReport, make_report
from recsys.offline.imports.session import POST_COLUMNS, USER_COLUMNS, Import, importing
from recsys.offline.imports.tabular import Chunk, CsvFile, ParquetFile, TableFile
from recsys.offline.imports.times import parse_times
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import MEDIA_TYPES, TABLES, TIME
from recsys.offline.logs.events import ACTIONS
from recsys.progress import Progress
from recsys.types import Ids, Mask, Times

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?$"
_SMALL = r"^\d{1,4}(\.0+)?$"
LEAST_VALUE = TABLES["actions"].ranges["value"].at_least or 0.0
SUSPICIOUS_SHARE = 0.1
"""Share of events in 1970 above which the user is warned: their times may not be seconds."""
_DESCRIBES_A_POST = ("author_id", "topic", "language", "media", "text", "created_at")


def import_csv(
    path: Path, columns: dict[str, str], types: dict[str, str], table: str, lake: Lake, now: int, progress: Progress
) -> ImportReport:
    """Import a CSV file with a header.

    Args:
        columns: from field to column (`mapping.parse_map`).
        types: from the file's event types to ours (`mapping.parse_types`).
        table: of the rows: events, posts, users or follows.
        now: wall clock, microseconds.
    Raises: ConfigError when a column is missing, DataError when the file is missing or the lake may not be filled.
    """
    return _import(CsvFile(path, columns), "csv", columns, types, table, lake, now, progress)


def import_parquet(
    path: Path, columns: dict[str, str], types: dict[str, str], table: str, lake: Lake, now: int, progress: Progress
) -> ImportReport:
    """Import a Parquet file; arguments as in `import_csv`."""
    return _import(ParquetFile(path, columns), "parquet", columns, types, table, lake, now, progress)


def _import(
    file: TableFile, kind: str, columns: dict[str, str], types: dict[str, str], table: str,
    lake: Lake, now: int, progress: Progress,
) -> ImportReport:  # fmt: skip
    if table == "events" and "type" not in columns:
        progress.say("--map names no type: every row is a click")
    size = file.path.stat().st_size
    rejected: list[tuple[str, Ids]] = []
    with importing(lake, kind, file.path, now, progress, size, synthetic_times=False, table=table) as job:
        for chunk in file.chunks(lambda reason, records: rejected.append((reason, records)), job.advance):
            rows = _MappedRows(job, chunk)
            if table == "events":
                rows.events(types)
            elif table == "follows":
                rows.follows()
            else:
                rows.describe(table)
            rejected.extend((reason, chunk.record[bad]) for reason, bad in rows.faults.by_reason())
        _reject(job, file, rejected)
    n_events = job.counts["impressions"] + job.counts["actions"]
    if job.counts["of_1970"] > n_events * SUSPICIOUS_SHARE:
        progress.say(
            f"{job.counts['of_1970']} of {n_events} events are of 1970: a number counts seconds, milli-, micro- or "
            "nanoseconds since then; write a date such as 20200101 as 2020-01-01"
        )
    return make_report(job, [file.path.name], False)


def _reject(job: Import, file: TableFile, rejected: list[tuple[str, Ids]]) -> None:
    """Quarantine records. Their texts are read again: few are needed, and keeping all would cost more memory."""
    records = np.concatenate([np.empty(0, np.int64), *(records for _, records in rejected)])
    if not len(records):
        return
    reasons = np.repeat([reason for reason, _ in rejected], [len(records) for _, records in rejected])
    order = np.argsort(records, kind="stable")
    for (_, line, text), reason in zip(file.read_texts(records[order]), reasons[order], strict=True):
        job.reject(str(reason), file.path.name, np.array([line]), [text])


class _MappedRows:
    """One chunk of records: fields as text, and the faults found so far."""

    def __init__(self, job: Import, chunk: Chunk) -> None:
        self._job, self._chunk = job, chunk
        self._n = len(chunk.record)
        self.faults = Faults(self._n)
        self._text = {name: self._as_text(column) for name, column in chunk.columns.items()}

    def events(self, types: dict[str, str]) -> None:
        """Add the impressions and actions, and the descriptions of their posts."""
        user = self._job.ids_of("user", self._text["user_id"], self.faults)
        post = self._job.ids_of("post", self._text["post_id"], self.faults)
        time, _ = self._time("event_time")
        arrived, given = self._time("ingest_time", optional=True)
        created = self._created()
        code = np.full(self._n, ACTIONS.index("click"), np.int64)
        if "type" in self._text:
            place = pc.index_in(self._text["type"], value_set=pa.array(list(types))).fill_null(-1).to_numpy()
            self.faults.add("unknown_type", place < 0)
            code = np.array([ACTIONS.index(name) for name in types.values()])[place]
        value = self._number("value", _NUMBER, pa.float32(), "value_not_a_number")
        # Impressions have no value in the lake, so a bad one is ignored.
        refused = pc.less(value, pa.scalar(LEAST_VALUE, pa.float32())).fill_null(False)
        self.faults.add("value_out_of_range", refused.to_numpy(zero_copy_only=False) & (code > 0))
        position = self._number("position", _SMALL, pa.int16(), "position_not_a_number")
        author = self._author()
        keep = self.faults.valid()
        mask = pa.array(keep)
        # Without a request id, a user's actions on a post belong to that user's impressions of the post.
        request = hash_rows(user, post)
        if "request_id" in self._text:
            # Many logs number each user's requests from 1, so the hash includes the user.
            name = self._text["request_id"]
            named = hash_rows(user, hash_names(name), hash_text("request"))
            request = np.where(name.is_valid().to_numpy(zero_copy_only=False), named, request)
        self._job.add(
            request[keep], user[keep], post[keep], code[keep], time[keep],
            ingest=np.where(given, arrived, time)[keep], position=position.filter(mask), value=value.filter(mask),
        )  # fmt: skip
        self._describe_posts(post, time, author, created)

    def describe(self, table: str) -> None:
        """Add descriptions of posts or users; the last one of an id counts."""
        kind = table.removesuffix("s")
        ids = self._job.ids_of(kind, self._text[f"{kind}_id"], self.faults)
        created = self._created()
        if table == "posts":
            if "media" in self._text:
                unknown = pc.invert(pc.is_in(self._text["media"], value_set=pa.array(MEDIA_TYPES)))
                unknown = pc.and_(unknown, self._text["media"].is_valid())
                self.faults.add("unknown_media", unknown.to_numpy(zero_copy_only=False))
            self._describe_posts(ids, np.zeros(self._n, np.int64), self._author(), created, all_rows=True)
            return
        keep = self.faults.valid()
        columns = {name: self._text.get(name, pa.nulls(self._n, pa.string())) for name in ("language", "country")}
        rows = pa.table({**columns, "created_at": created}).select(USER_COLUMNS).filter(pa.array(keep))
        self._job.described["users"].add(ids[keep], np.zeros(int(keep.sum()), np.int64), rows)

    def follows(self) -> None:
        """Add follows."""
        user = self._job.ids_of("user", self._text["user_id"], self.faults)
        author = self._job.ids_of("user", self._text["author_id"], self.faults)
        created = self._created()
        keep = self.faults.valid()
        created = created.fill_null(pa.scalar(0, TIME)).filter(pa.array(keep))
        rows = pa.table({"user_id": pa.array(user[keep]), "author_id": pa.array(author[keep]), "created_at": created})
        self._job.partitions.add("follows", rows, created.cast(pa.int64()).to_numpy())
        self._job.users.add(user[keep], created.cast(pa.int64()).to_numpy())

    def _describe_posts(
        self, post: Ids, order: Times, author: pa.Array, created: pa.Array, all_rows: bool = False
    ) -> None:
        """Add descriptions of posts; the one with the highest `order` counts. Rows that say nothing are skipped."""
        if not all_rows and not set(_DESCRIBES_A_POST) & set(self._text):
            return
        columns = {name: self._text.get(name, pa.nulls(self._n, pa.string())) for name in _DESCRIBES_A_POST}
        columns |= {"author_id": author, "created_at": created, "visible": pa.array([True] * self._n, pa.bool_())}
        keep = self.faults.valid()
        if not all_rows:
            keep &= np.any([columns[name].is_valid().to_numpy(zero_copy_only=False) for name in _DESCRIBES_A_POST], 0)
        rows = pa.table(columns).select(POST_COLUMNS).filter(pa.array(keep))
        self._job.described["posts"].add(post[keep], order[keep], rows)

    def _as_text(self, column: pa.Array) -> pa.Array:
        """Values as strings, null where empty; bytes that are not UTF-8 are a fault."""
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            text = utf8(column)
            broken = pc.and_(column.is_valid(), pc.invert(text.is_valid()))
            self.faults.add("invalid_utf8", broken.to_numpy(zero_copy_only=False))
        elif pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)  # pandas writes a missing value as NaN
            whole = pc.equal(column, pc.floor(column))  # pandas writes 7 as 7.0 if the column has missing values
            is_id = pc.and_(whole, pc.less(pc.abs(column), 2.0**53)).fill_null(False)
            number = pc.if_else(is_id, column, 0.0).cast(pa.int64()).cast(pa.string())
            text = pc.if_else(is_id, number, column.cast(pa.string()))
        else:
            text = column.cast(pa.string())
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)

    def _time(self, field: str, optional: bool = False, oldest: int | None = None) -> tuple[Times, Mask]:
        """Microseconds, raised to `oldest`, and whether the row gives a time; (N,) both."""
        if field not in self._text:
            return np.zeros(self._n, np.int64), np.zeros(self._n, bool)
        text, column = self._text[field], self._chunk.columns[field]
        has_own_type = not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type))
        time, known = parse_times(column if has_own_type else text)
        time = time if oldest is None else np.maximum(time, oldest)
        given = text.is_valid().to_numpy(zero_copy_only=False)
        check_times(self.faults, time, known | (~given if optional else False), self._job.now)
        return time, given

    def _created(self) -> pa.Array:
        """Creation times, null where missing. Times before 1970 become 1970, the oldest that a lake allows."""
        time, given = self._time("created_at", optional=True, oldest=0)
        return pa.array(time, mask=~given).cast(TIME)

    def _author(self) -> pa.Array:
        """Author ids, null for posts without one; authors are numbered as users."""
        if "author_id" not in self._text:
            return pa.nulls(self._n, pa.int64())
        name = self._text["author_id"]
        given = np.flatnonzero(name.is_valid().to_numpy(zero_copy_only=False))
        faults = Faults(len(given))
        ids = np.zeros(self._n, np.int64)
        ids[given] = self._job.ids_of("user", name.take(pa.array(given)), faults)
        for reason, rows in faults.by_reason():
            broken = np.zeros(self._n, bool)
            broken[given[rows]] = True
            self.faults.add(reason.replace("user", "author", 1), broken)
        return pa.array(ids, mask=name.is_null().to_numpy(zero_copy_only=False))

    def _number(self, field: str, pattern: str, kind: pa.DataType, reason: str) -> pa.Array:
        """Parse a field as numbers, null where missing; text that does not match `pattern` is a fault."""
        if field not in self._text:
            return pa.nulls(self._n, kind)
        text = pc.utf8_trim_whitespace(self._text[field])
        is_number = pc.match_substring_regex(text, pattern).fill_null(False)
        number = pc.if_else(is_number, text, pa.scalar(None, pa.string())).cast(pa.float64())
        finite = np.abs(number.fill_null(0).to_numpy()) < np.finfo(np.float32).max
        broken = text.is_valid().to_numpy(zero_copy_only=False) & ~is_number.to_numpy(zero_copy_only=False)
        self.faults.add(reason, broken | ~finite)
        return pc.if_else(pa.array(finite), number, None).cast(kind, safe=False)
