"""The stream into the lake: each record in exactly one file, whatever is killed when.

The lake itself carries how far it reaches, in `<lake>/stream/position.json`. Before a batch is written its last stream
id is noted there, so that after a crash the same records go to the same file names again; the note is cleared when all
files are in place. One writer at a time: a lock in Redis, also held by whoever must read the lake and its position as
one.

It does not know features or models; rows are those of `offline.schemas`.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import redis
from pyarrow import fs
from redis.exceptions import LockError

from recsys.errors import DataError, DependencyError
from recsys.offline.labels import ACTIONS
from recsys.offline.lake import Lake
from recsys.offline.stream_position import to_numbers
from recsys.online import keys
from recsys.online.commands import send
from recsys.online.erased import Erased, read_erased
from recsys.online.records import Decoded, Entry, Returned, decode
from recsys.online.stream import EventStream, position
from recsys.types import DAY, Ids, Times

log = logging.getLogger(__name__)

PAGE = 500
"""Records per read: a returned record has kilobytes, and a long answer would hold up every request."""

LOCK_S = 20
"""Seconds after which the lock of a killed writer is free again; a living one extends it with every file."""


class Position(NamedTuple):
    """How far the lake reaches."""

    done: str
    """Last stream id that is in the lake with everything before it; empty when nothing is."""
    writing: str | None
    """Last stream id of the batch being written, None when none is."""


def lake_watermark(lake: Lake) -> str:
    """Last stream id that the lake holds; empty when nothing was streamed into it.

    To read the lake and this as one, use `LakeSink.held`: otherwise a batch may be written in between.
    """
    return read_position(lake).done


def read_position(lake: Lake) -> Position:
    """Raises: DataError when the note cannot be read."""
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
        """`batch_records`: records per set of files at most."""
        self.client = client
        self.stream = stream
        self.lake = lake
        self.batch_records = batch_records

    def step(self) -> int:
        """Write the next batch, first finishing one that was begun and not completed.

        Returns: records written; 0 when there is none or another process holds the lake.
        Raises: DependencyError or redis.RedisError when Redis fails, OSError when the lake cannot be written.
        """
        lock = self._lock(LOCK_S)
        if not lock.acquire(blocking=False):
            return 0
        try:
            return self._write_next(lock, self.batch_records)
        finally:
            _release(lock)

    @contextmanager
    def held(self) -> Iterator[str]:
        """Bring the lake up to date and keep it so while the block runs; gives its watermark.

        The lock is short-lived and renewed from a thread: should this process be killed, the lake is free in `LOCK_S`.

        Raises: DependencyError when another process keeps the lake, or this one lost it while the block ran.
        """
        lock = self._lock(LOCK_S)
        if not lock.acquire(blocking=True, blocking_timeout=LOCK_S + 5):
            raise DependencyError(
                f"the lake {self.lake.url} is held by another process for {LOCK_S} s; wait for it to end"
            )
        over = threading.Event()
        keeper = threading.Thread(target=_keep, args=(lock, over), name="lake-lock", daemon=True)
        try:
            while self._write_next(lock, self.batch_records) == self.batch_records:
                pass
            keeper.start()
            yield lake_watermark(self.lake)
            if not lock.owned():
                raise DependencyError(
                    f"the lake {self.lake.url} was taken over by others while it was read; run it again"
                )
        finally:
            over.set()
            if keeper.is_alive():
                keeper.join()
            _release(lock)

    def _lock(self, timeout_s: float) -> Any:
        # Not thread-local: the thread that renews a lock is not the one that took it.
        return self.client.lock(keys.LAKE_LOCK.decode(), timeout=timeout_s, thread_local=False)

    def _write_next(self, lock: Any, batch_records: int) -> int:
        done, writing = read_position(self.lake)
        if writing is not None:
            entries = self._read(done, writing, None)
            if self._lost(done, writing):
                log.error(
                    "records %s to %s left the stream before all reached the lake %s; what is left of them is written",
                    done,
                    writing,
                    self.lake.url,
                )
        else:
            entries = self._read(done, None, batch_records)
            if not entries:
                return 0
            writing = entries[-1].id
            _write_position(self.lake, Position(done, writing))
        decoded = _without(decode(entries), read_erased(self.client))
        for table, date, rows in _files(decoded):
            lock.reacquire()
            self.lake.write(table, rows, date, f"stream-{done or '0-0'}-{writing}")
        lock.reacquire()
        _write_position(self.lake, Position(writing, None))
        return len(entries)

    def _lost(self, after: str, last: str) -> bool:
        """Whether records of a batch that was begun may be gone by trimming, or with the whole stream.

        Single records may also be gone because their user was erased: that loses nothing.
        """
        trimmed = send(self.client, "GET", keys.TRIMMED) or b""
        reached = self.stream.last_id()
        return position(trimmed.decode()) > position(after) or position(reached) < position(last)

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


def _files(decoded: Decoded) -> Iterator[tuple[str, str, pa.Table]]:
    """Table, date and rows of every file these records make; unreadable ones are the online sink's to report."""
    events = decoded.events
    shown = events["action"] == ACTIONS.index("impression")
    position = pa.array(events["position"], mask=events["position"] < 0)
    columns: dict[str, Any] = {name: events[name] for name in ("event_id", "request_id", "user_id", "post_id")}
    columns |= {name: _times(events[name]) for name in ("event_time", "ingest_time")}
    columns["stream_position"] = to_numbers(decoded.event_stream_id)
    both = pa.table(
        {
            **columns,
            "position": position,
            "value": pa.array(events["value"], mask=np.isnan(events["value"])),
            "type": pa.array(ACTIONS).take(pa.array(events["action"].astype(np.int32))),
        }
    )
    for table, some, absent in (("impressions", shown, ["value", "type"]), ("actions", ~shown, ["position"])):
        rows = both.drop_columns(absent).filter(pa.array(some))
        yield from _by_date(table, rows, events["ingest_time"][some])
    if decoded.returned:
        now = np.array([record.now for record in decoded.returned])
        yield from _by_date("requests", _requests(decoded.returned, now), now)
        sent, of_item = _returned(decoded.returned, to_numbers(decoded.returned_stream_id), now)
        yield from _by_date("returned", sent, of_item)


def _without(decoded: Decoded, erased: Erased) -> Decoded:
    """The records of everybody but the erased."""
    events = decoded.events
    keep = ~erased.covers(events["user_id"], np.minimum(events["event_time"], events["ingest_time"]))
    people = np.array([record.user_id for record in decoded.returned], np.int64)
    now = np.array([record.now for record in decoded.returned], np.int64)
    kept = np.flatnonzero(~erased.covers(people, now))
    return Decoded(
        events[keep],
        [decoded.event_stream_id[place] for place in np.flatnonzero(keep)],
        [decoded.returned[place] for place in kept],
        [decoded.returned_stream_id[place] for place in kept],
        decoded.bad,
    )


def _by_date(table: str, rows: pa.Table, time: Times) -> Iterator[tuple[str, str, pa.Table]]:
    day = time // DAY
    for number in np.unique(day):
        yield table, str(np.datetime64(int(number), "D")), rows.filter(pa.array(day == number))


def _requests(returned: Sequence[Returned], now: Times) -> pa.Table:
    return pa.table(
        {
            "request_id": [record.request_id for record in returned],
            "user_id": [record.user_id for record in returned],
            "now": _times(now),
            "policy": [record.policy for record in returned],
            "release": [record.release for record in returned],
            "watermark": [record.watermark for record in returned],
            "user_watermark": [record.user_watermark for record in returned],
            "candidates": _lists([record.candidates for record in returned], np.int64),
        }
    )


def _returned(returned: Sequence[Returned], stream_position: Ids, now: Times) -> tuple[pa.Table, Times]:
    items = [len(record.post_id) for record in returned]
    of_item = np.repeat(now, items)
    columns = {
        name: np.concatenate([getattr(record, name) for record in returned])
        for name in ("post_id", "position", "propensity", "sources", "score")
    }
    table = {
        "request_id": np.repeat([record.request_id for record in returned], items),
        "user_id": np.repeat([record.user_id for record in returned], items),
        "now": _times(of_item),
        "features": _lists([row for record in returned for row in record.features], np.float32),
        "stream_position": np.repeat(stream_position, items),
        **columns,
    }
    return pa.table(table), of_item


def _lists(rows: Sequence[np.ndarray], kind: type[np.generic]) -> pa.Array:
    ends = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate([np.empty(0, kind), *rows])))


def _times(time: Times) -> pa.Array:
    return pa.array(time).cast(pa.timestamp("us", tz="UTC"))


def _note(lake: Lake) -> tuple[Any, str]:
    return lake.filesystem, f"{lake.root}/stream/position.json"


def _write_position(lake: Lake, note: Position) -> None:
    filesystem, path = _note(lake)
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    temporary = f"{path}.{uuid.uuid4().hex[:8]}.tmp"
    with filesystem.open_output_stream(temporary) as sink:
        sink.write(json.dumps(note._asdict()).encode())
    filesystem.move(temporary, path)


def _keep(lock: Any, over: threading.Event) -> None:
    """Renew a lock until `over`; a lock that was lost stays lost, and `held` says so."""
    while not over.wait(LOCK_S / 3):
        try:
            lock.reacquire()
        except redis.RedisError as error:
            log.warning("the lake's lock could not be renewed: %s", error)


def _release(lock: Any) -> None:
    try:
        lock.release()
    except (LockError, redis.RedisError) as error:
        log.warning("the lake's lock was not released and frees itself: %s", error)
