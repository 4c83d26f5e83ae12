"""Append the stream to the lake: each record in exactly one file, whenever a process is killed.

The lake itself stores how far it reaches, in `<lake>/stream/position.json`. One batch:

    1. note its last stream id in position.json, as `writing`
    2. write its files, under names made of the batch's first and last stream id
    3. move the position: `done` is that id, `writing` is empty

After a crash between 1 and 3 the same records are written to the same names again. One process writes at a time, under
a lock in Redis; a process that must read the lake together with its position holds the same lock. Lock and note are
checked before every file and before the position moves; a writer that lost either stops. When somebody is erased while
a batch is written, the batch is written again without them.

One case remains. A process may be suspended for longer than the lock lives, between the check and the renaming of a
finished file. When it wakes up, its file replaces the same file of another writer. The records are the same, except for
a person erased meanwhile: their rows are in the lake again until they are erased once more (training leaves them out in
any case). `position.json` can go back in the same way, in the instant before its own renaming.

This module does not know features or models; rows are those of `offline.lake.schemas`.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import redis
from pyarrow import fs

from recsys.errors import DataError, DependencyError, RecsysError
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.connection.parse import parse_number
from recsys.online.consumer.lake_lock import LakeLock, is_wanted
from recsys.online.consumer.lake_rows import tables_by_date, without_erased
from recsys.online.stream.log import EventStream, position
from recsys.online.stream.records import Entry, decode
from recsys.online.tombstones import read_erased

log = logging.getLogger(__name__)

PAGE = 500
"""Records per read. A returned record has kilobytes, and Redis would keep requests waiting during a longer read."""

LOCK_S = 20
"""Seconds after which the lock of a killed writer expires; a thread renews that of a living one."""

WAIT_S = LOCK_S + 5.0
"""Seconds that `held` waits; longer than `LOCK_S`, so the lock of a killed holder expires first."""

_MAX_BAD = 20
"""Records of a batch that may be left out because writing them fails. With more, the program is at fault."""


class Position(NamedTuple):
    """How far the lake reaches."""

    done: str
    """The lake holds all records up to this stream id; empty when it holds none."""
    writing: str | None
    """Last stream id of the batch being written, None when none is."""


def lake_watermark(lake: Lake) -> str:
    """Last stream id that the lake holds; empty when nothing was streamed into it.

    To read the lake together with its watermark, use `LakeSink.held`: otherwise a batch may be written in between.
    """
    return read_position(lake).done


def read_position(lake: Lake) -> Position:
    """Read `position.json`. Raises: DataError when it cannot be read."""
    filesystem, path = _note(lake)
    if filesystem.get_file_info(path).type == fs.FileType.NotFound:
        return Position("", None)
    try:
        with filesystem.open_input_stream(path) as source:
            return Position(**json.loads(source.read()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"the lake's stream position {path} must be JSON with done and writing: {error}; restore the file"
        ) from None


class LakeSink:
    """Appends the stream to the tables requests, returned, impressions and actions."""

    def __init__(self, client: redis.Redis, stream: EventStream, lake: Lake, batch_records: int = 10_000) -> None:
        """`batch_records`: records per batch at most."""
        self.client = client
        self.stream = stream
        self.lake = lake
        self.batch_records = batch_records

    def step(self) -> int:
        """Write the next batch, or finish one that was interrupted.

        Returns: records written; 0 when there is none, or another process holds the lake or waits for it.
        Raises: DependencyError when Redis fails or another process took the lake, OSError when it cannot be written.
        """
        if is_wanted(self.client):
            return 0
        lock = LakeLock(self.client, self.lake.url, LOCK_S)
        if not lock.acquire():
            return 0
        try:
            return self._finish(lock) or self._write_next(lock)
        finally:
            lock.release()

    @contextmanager
    def held(self) -> Iterator[str]:
        """Bring the lake up to the stream and keep other writers out while the block runs; gives its watermark.

        A thread renews the lock. If this process is killed, the lake is free after `LOCK_S`.

        Raises: DependencyError when another process keeps the lake, this one lost it while the block ran, or Redis
        does not answer.
        """
        lock = LakeLock(self.client, self.lake.url, LOCK_S)
        if not lock.acquire(WAIT_S):
            raise DependencyError(
                f"the lake {self.lake.url} is held by another process, still after {WAIT_S:g} s; wait until that "
                "one ends"
            )
        try:
            self._finish(lock)
            while self._write_next(lock) == self.batch_records:
                pass
            yield lake_watermark(self.lake)
            lock.check()
        finally:
            lock.release()

    def _finish(self, lock: LakeLock) -> int:
        """Write an interrupted batch again; gives its number of records."""
        note = read_position(self.lake)
        if note.writing is None:
            return 0
        entries = self._read(note.done, note.writing, None)
        if self._records_lost(note.done, note.writing):
            log.error(
                "records %s to %s left the stream before all reached the lake %s; the remaining ones are written",
                note.done,
                note.writing,
                self.lake.url,
            )
        self._write(lock, note, note.writing, entries)
        return len(entries)

    def _write_next(self, lock: LakeLock) -> int:
        note = read_position(self.lake)
        entries = self._read(note.done, None, self.batch_records)
        if not entries:
            return 0
        begun = Position(note.done, entries[-1].id)
        self._move(lock, note, begun)
        self._write(lock, begun, entries[-1].id, entries)
        return len(entries)

    def _write(self, lock: LakeLock, note: Position, last: str, entries: Sequence[Entry]) -> None:
        """Write all files of the batch in `note`, then move the position behind it."""
        _BatchFiles(self, lock, note).write(entries)
        self._move(lock, note, Position(last, None))

    def _move(self, lock: LakeLock, found: Position, to: Position) -> None:
        self.check(lock, found)
        _write_position(self.lake, to)

    def check(self, lock: LakeLock, note: Position) -> None:
        """Raises: DependencyError when this writer lost the lock, or another one moved the position."""
        lock.check()
        found = read_position(self.lake)
        if found != note:
            raise DependencyError(
                f"the lake {self.lake.url} must stay at {tuple(note)} while a batch is written, but another writer "
                f"moved it to {tuple(found)}; run it again"
            )

    def _records_lost(self, after: str, last: str) -> bool:
        """Whether records of an interrupted batch may be missing because the stream was trimmed or is gone.

        Single records may also be missing because their user was erased; those are not lost.
        """
        trimmed, reached = self.stream.trimmed(), self.stream.last_id()
        return position(trimmed) > position(after) or position(reached) < position(last)

    def _read(self, after: str, last: str | None, limit: int | None) -> list[Entry]:
        """Records after a position, up to `last` or to `limit` of them."""
        found: list[Entry] = []
        while limit is None or len(found) < limit:
            page = self.stream.read(after, PAGE if limit is None else min(PAGE, limit - len(found)))
            found += [entry for entry in page if last is None or position(entry.id) <= position(last)]
            if not page or (last is not None and position(page[-1].id) >= position(last)):
                break
            after = page[-1].id
        return found


class _BatchFiles:
    """The files of one batch, written again under the same names until they are right."""

    def __init__(self, sink: LakeSink, lock: LakeLock, note: Position) -> None:
        self.sink = sink
        self.lock = lock
        self.note = note
        self._name = f"stream-{note.done or '0-0'}-{note.writing}"
        self._written: set[tuple[str, str]] = set()
        """Table and date of every file of this batch."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Write these records, without those that fail alone, and twice, with an unforeseen error.

        Raises: DataError when more than `_MAX_BAD` records fail: then the program is at fault.
        """
        if self._failure(entries) is None or (failure := self._failure(entries)) is None:
            return
        bad = dict(self._failing(entries))
        if not bad:
            raise failure
        self._write_all([entry for entry in entries if entry.id not in bad])
        for entry_id, reason in bad.items():
            url = self.sink.lake.url
            log.error("stream record %s cannot be written and is left out of the lake %s: %s", entry_id, url, reason)

    def _write_all(self, entries: Sequence[Entry]) -> None:
        """Write these records; write them again while people are erased in between."""
        while not self._write_once(entries):
            pass

    def _write_once(self, entries: Sequence[Entry]) -> bool:
        """Write these records without those of erased people. False when somebody was erased meanwhile."""
        erased = read_erased(self.sink.client)
        lake, wanted = self.sink.lake, set()
        for table, date, rows in tables_by_date(without_erased(decode(entries), erased)):
            self.sink.check(self.lock, self.note)
            self._written.add((table, date))
            wanted.add((table, date))
            lake.write(table, rows, date, self._name)
        # Remove files of an earlier attempt whose records are all erased by now.
        for table, date in self._written - wanted:
            self.sink.check(self.lock, self.note)
            lake.delete_files([f"{lake.root}/{table}/date={date}/{self._name}.parquet"])
        self._written = wanted
        return (
            parse_number(keys.ERASED_VERSION, send(self.sink.client, "GET", keys.ERASED_VERSION) or b"0")
            == erased.version
        )

    def _failing(self, entries: Sequence[Entry]) -> list[tuple[str, str]]:
        """Id of every record that fails alone, with the reason; found by halving."""
        found: list[tuple[str, str]] = []
        todo = [entries]
        while todo:
            some = todo.pop()
            failure = self._failure(some)
            if failure is not None and len(some) > 1:
                todo += [some[len(some) // 2 :], some[: len(some) // 2]]
            elif failure is not None:
                found.append((some[0].id, f"{type(failure).__name__}: {failure}"))
            if len(found) > _MAX_BAD:
                raise DataError(
                    f"more than {_MAX_BAD} records from {found[0][0]} on cannot be written into the lake "
                    f"{self.sink.lake.url}: {found[-1][1]}; repair the program, then start it again"
                ) from failure
        return found

    def _failure(self, entries: Sequence[Entry]) -> Exception | None:
        """The unforeseen error of writing these records, None without one. Errors that no record causes are raised."""
        try:
            self._write_all(entries)
        except (RecsysError, redis.RedisError, OSError, MemoryError):
            raise
        except Exception as error:
            return error
        return None


def _note(lake: Lake) -> tuple[Any, str]:
    return lake.filesystem, f"{lake.root}/stream/position.json"


def _write_position(lake: Lake, note: Position) -> None:
    filesystem, path = _note(lake)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    with filesystem.open_output_stream(temporary) as sink:
        sink.write(json.dumps(note._asdict()).encode())
    filesystem.move(temporary, path)
