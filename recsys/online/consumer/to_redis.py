"""Apply the stream to the online store: each record once in effect, whenever a process is killed.

One step, for a batch of records behind the position of a generation:

    read records -> read the rows they touch -> compute -> write rows, trending and the new position in one call

The write goes through only if generation, position and tombstones are still what was read. Otherwise it changes
nothing: another consumer, a batch load or an erasure won the race, and the step reads again. While Redis writes one
batch, the next one is computed. A record that cannot be applied becomes a dead letter, with the reason, and stops
nothing. This module does not know who wrote the records, nor where catalogues come from.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError, RecsysError
from recsys.features.histories import KEPT as CLICKS_KEPT
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.connection.parse import parse_stream_id
from recsys.online.consumer import transaction
from recsys.online.consumer.changes import (
    Batch,
    BatchResult,
    BatchRows,
    apply_batch,
    dead_letter,
    decode_batch,
    rows_to_change,
)
from recsys.online.consumer.transaction import Changes, Fence, Found, PendingWrite
from recsys.online.generations import current
from recsys.online.stream.log import EventStream
from recsys.online.stream.records import Entry
from recsys.online.tombstones import UNREAD, read_erased

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 5
"""Reads of a batch's rows, each under newer tombstones, before the race counts as lost."""
_MAX_DEAD_IN_A_ROW = 20
"""Records in a row that become dead letters; then the program is at fault, not the records."""
_MAX_LOST_IN_A_ROW = 50
"""Races lost in a row."""
_MAX_BATCHES = 16
"""Batches per step, more than three; between steps the consumer checks whether it should stop."""
_NO_RECORDS_FAULT = (RecsysError, redis.RedisError, OSError, MemoryError)
"""Errors that no single record causes."""


class _StoreAt(NamedTuple):
    """Where a step starts: a generation, and the last stream id that its rows reflect."""

    generation: keys.Generation
    applied: str


class _NextBatch(NamedTuple):
    """Records read ahead. The other fields are None where decoding these or earlier records failed."""

    entries: Sequence[Entry]
    batch: Batch | None = None
    touched: BatchRows | None = None
    names: list[bytes] | None = None
    """Keys of the rows that the batch before does not touch: only these must be read."""


class _ReadBatch(NamedTuple):
    """A batch with its rows, ready to be computed once the result of the batch before is known."""

    batch: Batch
    touched: BatchRows
    rows: dict[bytes, bytes | None]
    """Those that the batch before does not touch."""
    erased_version: int
    origin: int


class _ComputedBatch(NamedTuple):
    """A batch ready to be written."""

    result: BatchResult
    erased_version: int


class OnlineSink:
    """Applies the stream to one generation. Several sinks may run at once; each write is won by one of them."""

    def __init__(
        self,
        client: redis.Redis,
        stream: EventStream,
        catalogue: Catalogue,
        config: OnlineConfig,
        impressions: Literal["explicit", "implied"],
        generation: keys.Generation | None = None,
    ) -> None:
        """`generation`: one that is not in use yet and has no other writer; None for the one in use."""
        self.client = client
        self.stream = stream
        self.catalogue = catalogue
        """Gives author, topic and language of a post."""
        self.latest_catalogue: Callable[[], Catalogue] | None = None
        """Called for the catalogue of every batch after its records are read, so it is at least as new as a release
        that was in use when they were appended. None: the catalogue never changes."""
        self.config = config
        self.impressions = impressions
        self._fixed = generation
        self._erased = UNREAD
        self._dead_in_a_row = 0
        self._lost_in_a_row = 0
        self._at: _StoreAt | None = None
        """Where the last step ended; the next read checks whether that still holds."""

    def step(self, block_ms: int = 0) -> int:
        """Apply one batch, or up to `_MAX_BATCHES` when the first is full; waits up to `block_ms` for a record.

        Returns: records dealt with; 0 when there was none or a race was lost.
        Raises: DataError when no generation was loaded or a stored value is invalid; DependencyError or
        redis.RedisError, after which to wait, when Redis fails or `_MAX_LOST_IN_A_ROW` races in a row were lost.
        """
        at, self._at = self._at, None
        if at is None:
            generation = self._fixed or current(self.client)
            applied = send(self.client, "GET", generation.applied)
            if applied is None:
                return self._race_lost(generation)
            at = _StoreAt(generation, parse_stream_id(generation.applied, applied))
        entries = self._read_entries(at.applied, block_ms)
        if not entries:
            return 0
        take = self._take_pipelined if len(entries) == self.config.batch_size else self._take
        taken = take(at, entries)
        if not taken:
            return self._race_lost(at.generation)
        self._lost_in_a_row = 0
        return taken

    def _race_lost(self, generation: keys.Generation) -> int:
        """Count a lost race; gives 0, the number of records dealt with."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row < _MAX_LOST_IN_A_ROW:
            return 0
        self._lost_in_a_row = 0
        raise DependencyError(
            f"the online store could not be brought up to the stream {_MAX_LOST_IN_A_ROW} times in a row: others were "
            f"faster, or {generation.applied.decode()} is gone; see who else writes to it, then run `recsys train`"
        )

    def _read_entries(self, after: str, block_ms: int = 0) -> Sequence[Entry]:
        """The next records, and then the latest catalogue, so that an error of that one is blamed on no record."""
        entries = self.stream.read(after, self.config.batch_size, block_ms)
        if entries and self.latest_catalogue is not None:
            self.catalogue = self.latest_catalogue()
        return entries

    def _take_pipelined(self, at: _StoreAt, entries: Sequence[Entry]) -> int:
        """Apply batch after batch, computing each while Redis writes the one before. Gives the records dealt with.

                       Redis                                  this process
            turn 1     write 1, then read rows of 3           compute 2, read records of 4
            turn 2     write 2, then read rows of 4           compute 3, read records of 5

        Rows that the batch before touches too are taken from its result. When a write does not go through, everything
        computed from it is dropped: another consumer may have applied the same records, and the position alone would
        not show it. A batch that cannot be computed ahead is left to `_take`.
        """
        # 1. Read and compute the first batch; read the rows of the second and the records of the third.
        first = _or_none(lambda: self._read_rows(at, self._decode(entries)))
        computed = self._try_compute(at, first, None)
        if first is None or computed is None:
            return self._take(at, entries)
        taken, coming = 0, self._read_ahead(at, entries, first.touched)
        found = None if coming.names is None else transaction.read(self.client, at.generation, coming.names)
        read = self._with_rows(at, coming, found)
        after = self._read_ahead(at, coming.entries, coming.touched)
        for number in itertools.count(4):  # the batch whose records are read in this turn
            if computed is None:
                return taken + self._take(at, entries)
            # 2. Send the write; behind it, read the rows of the batch after next. The position is unknown meanwhile.
            changes, self._at = computed.result.changes, None
            writing = self._send(at, computed.erased_version, changes, entries, after.names)
            try:
                # 3. Meanwhile compute the next batch and read the records of a later one.
                computed = self._try_compute(at, read, computed.result)
                later = self._read_ahead(at, after.entries, after.touched) if number <= _MAX_BATCHES else _NextBatch([])
            finally:
                written = writing.wait()
                if written:
                    self._settle(at, changes, entries)
                    self._dead_in_a_row = 0
            if not written:
                return taken
            taken += len(entries)
            if not coming.entries:
                return taken
            # 4. Move on by one batch.
            at = _StoreAt(at.generation, entries[-1].id)
            read = self._with_rows(at, after, writing.found)
            entries, coming, after = coming.entries, after, later
        return taken

    def _read_ahead(self, at: _StoreAt, before: Sequence[Entry], touched_before: BatchRows | None) -> _NextBatch:
        """The records behind `before`, whose rows are `touched_before`."""
        entries = self._read_entries(before[-1].id) if before else []
        if not entries or touched_before is None:
            return _NextBatch(entries)

        def decoded() -> _NextBatch:
            batch = self._decode(entries)
            touched = rows_to_change(batch, self._erased, at.generation)
            shared = set(touched_before.all_names())
            return _NextBatch(entries, batch, touched, [name for name in touched.all_names() if name not in shared])

        return _or_none(decoded) or _NextBatch(entries)

    def _with_rows(self, at: _StoreAt, coming: _NextBatch, found: Found | None) -> _ReadBatch | None:
        """A batch with its rows; None when those were read at another position or under other tombstones."""
        if coming.batch is None or coming.touched is None or coming.names is None or found is None:
            return None
        if not self._was_read_at(at, found) or found.erased_version != self._erased.version:
            return None
        rows = dict(zip(coming.names, found.rows, strict=True))
        return _ReadBatch(coming.batch, coming.touched, rows, found.erased_version, found.origin)

    def _try_compute(self, at: _StoreAt, read: _ReadBatch | None, before: BatchResult | None) -> _ComputedBatch | None:
        return None if read is None else _or_none(lambda: self._compute(at, read, before))

    def _take(self, at: _StoreAt, entries: Sequence[Entry]) -> int:
        """Apply these records or, when some of them fail, fewer. Gives the records dealt with.

        After an unforeseen error the batch is tried once more, then half of it, until the record that causes the error
        is alone. That one becomes a dead letter.

        Raises: DataError after `_MAX_DEAD_IN_A_ROW` such records in a row: then the program is at fault.
        """
        retried = False
        while True:
            try:
                applied = self._apply(at, entries)
                self._dead_in_a_row = 0
                return len(entries) if applied else 0
            except _NO_RECORDS_FAULT:
                raise
            except Exception as error:
                if not retried:
                    retried = True
                elif len(entries) > 1:
                    retried, entries = False, entries[: len(entries) // 2]
                else:
                    return self._set_aside(at, entries, error)

    def _set_aside(self, at: _StoreAt, entries: Sequence[Entry], error: Exception) -> int:
        """Make the one record in `entries` a dead letter."""
        reason = f"{type(error).__name__}: {error}"
        if self._dead_in_a_row == _MAX_DEAD_IN_A_ROW:
            raise DataError(
                f"{_MAX_DEAD_IN_A_ROW} stream records in a row could not be applied and were set aside, and neither "
                f"can {entries[0].id}: {reason}; repair the program, then start it again"
            ) from error
        self._dead_in_a_row += 1
        # Read the version now: applying may have failed before it was read for this record.
        erased_version = transaction.read(self.client, at.generation, []).erased_version
        return int(self._write(at, erased_version, dead_letter(entries[0], reason), entries))

    def _apply(self, at: _StoreAt, entries: Sequence[Entry]) -> bool:
        """Read, compute and write one batch; False when a race was lost."""
        if (read := self._read_rows(at, self._decode(entries))) is None:
            return False
        computed = self._compute(at, read, None)
        return self._write(at, computed.erased_version, computed.result.changes, entries)

    def _decode(self, entries: Sequence[Entry]) -> Batch:
        return decode_batch(self.catalogue, entries, self.impressions)

    def _read_rows(self, at: _StoreAt, batch: Batch) -> _ReadBatch | None:
        """The rows that a batch touches, read under the newest tombstones; None when a race was lost."""
        for _ in range(_ATTEMPTS):
            touched = rows_to_change(batch, self._erased, at.generation)
            names = touched.all_names()
            found = transaction.read(self.client, at.generation, names)
            if not self._was_read_at(at, found):
                return None
            if found.erased_version == self._erased.version:
                rows = dict(zip(names, found.rows, strict=True))
                return _ReadBatch(batch, touched, rows, found.erased_version, found.origin)
            self._erased = read_erased(self.client)
        return None

    def _was_read_at(self, at: _StoreAt, found: Found) -> bool:
        """Whether generation and position were still these when the rows were read."""
        is_current = found.number == b"%d" % at.generation.number
        return found.applied == at.applied.encode() and (self._fixed is not None or is_current)

    def _compute(self, at: _StoreAt, read: _ReadBatch, before: BatchResult | None) -> _ComputedBatch:
        """Count a batch into its rows.

        Args:
            before: result of the batch before, when that is not written yet; rows that it touches come from here.
        """
        rows = read.rows
        if before is not None:
            rows = rows | {name: before.row_after(name) for name in read.touched.all_names() if name not in rows}
        kept = CLICKS_KEPT * self.config.history_size
        result = apply_batch(read.batch, read.touched, rows, at.generation, read.origin, kept)
        return _ComputedBatch(result, read.erased_version)

    def _write(self, at: _StoreAt, erased_version: int, changes: Changes, entries: Sequence[Entry]) -> bool:
        """Send a write and wait for it; False when a race was lost."""
        if not self._send(at, erased_version, changes, entries).wait():
            return False
        self._settle(at, changes, entries)
        return True

    def _send(
        self,
        at: _StoreAt,
        erased_version: int,
        changes: Changes,
        entries: Sequence[Entry],
        then_read: Sequence[bytes] | None = None,
    ) -> PendingWrite:
        fence = Fence(at.generation, at.applied.encode(), erased_version, self._fixed is None)
        return transaction.write(self.client, fence, changes, entries[-1].id, self.config, then_read)

    def _settle(self, at: _StoreAt, changes: Changes, entries: Sequence[Entry]) -> None:
        self._at = _StoreAt(at.generation, entries[-1].id)
        for entry_id, _, _, reason in changes.dead_letters:
            log.warning("stream record %s cannot be applied and was set aside: %s", entry_id, reason)


def _or_none(act: Callable[[], T]) -> T | None:
    """None after an unforeseen error: `_take` will meet it again, record by record."""
    try:
        return act()
    except _NO_RECORDS_FAULT:
        raise
    except Exception:
        log.debug("a batch cannot be computed ahead and is taken by itself", exc_info=True)
        return None
