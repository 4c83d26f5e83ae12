"""The stream into the online store: each record once in effect, whatever is killed when.

Reads the records after the position of a generation and the rows they touch, applies them, and writes rows, trending
and the new position in one call that goes through only if generation, position and tombstones are still what was read.
Whoever loses that race, to another consumer, a batch load or an erasure, has changed nothing and simply reads again;
losing again and again is no race and is told. While Redis writes a batch the next one is computed. A record that cannot
be applied is set aside with its reason and stops nothing. It does not know who wrote the records, nor where catalogues
come from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError, RecsysError
from recsys.features.histories import KEPT as CLICKS_KEPT
from recsys.offline.catalogue import Catalogue
from recsys.online import keys, transaction
from recsys.online.batch import Batch, Named, Outcome, name_rows, outcome, read_batch, set_aside
from recsys.online.commands import send
from recsys.online.erased import Erased, read_erased
from recsys.online.pointer import current
from recsys.online.records import Entry
from recsys.online.stream import EventStream
from recsys.online.transaction import Changes, Fence, Writing
from recsys.online.values import stream_id

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 5
_MOST_BAD = 20
_MOST_LOST = 50
_IN_A_ROW = 16
"""Batches of one step at most: between steps the consumer looks whether it should stop."""
_NOBODY = Erased(-1, np.empty(0, np.int64), np.empty(0, np.int64))
"""Before the tombstones were read: their version is never this, also where it was lost."""
_FORESEEN = (RecsysError, redis.RedisError, OSError, MemoryError)
"""Errors that no single record is the cause of."""


class _Position(NamedTuple):
    generation: keys.Generation
    applied: str


class _Looked(NamedTuple):
    """A batch and all that is needed to compute what it does."""

    batch: Batch
    named: Named
    rows: dict[bytes, bytes | None]
    erased_version: int
    origin: int


class _Ready(NamedTuple):
    """A batch to be written."""

    outcome: Outcome
    erased_version: int


class OnlineSink:
    """Applies the stream to one generation. Several may run; they take turns by losing races."""

    def __init__(
        self,
        client: redis.Redis,
        stream: EventStream,
        catalogue: Catalogue,
        config: OnlineConfig,
        impressions: Literal["explicit", "implied"],
        generation: keys.Generation | None = None,
    ) -> None:
        """`generation`: one that is not in use yet and that nobody else writes; None for whichever is in use."""
        self.client = client
        self.stream = stream
        self.catalogue = catalogue
        """Tells author, topic and language of a post."""
        self.catalogue_of_now: Callable[[], Catalogue] | None = None
        """Asked for the catalogue with every batch, once its records are read: then it is at least as new as a release
        that was in use when they were appended. None: it never changes."""
        self.config = config
        self.impressions = impressions
        self._fixed = generation
        self._erased = _NOBODY
        self._bad_in_a_row = 0
        self._lost_in_a_row = 0
        self._at: _Position | None = None
        """Where the last step ended; whether that still holds, the next one's read tells."""

    def step(self, block_ms: int = 0) -> int:
        """Apply what is waiting: one batch, or up to `_IN_A_ROW` when the first is full; waits `block_ms` for one.

        Returns: records taken; 0 when there was none or a race was lost.
        Raises: DataError when no generation was loaded or a value cannot be trusted, DependencyError or
        redis.RedisError when Redis fails or `_MOST_LOST` races were lost in a row: then it is something else, and
        whoever repeats this must wait.
        """
        at, self._at = self._at, None
        if at is None:
            generation = self._fixed or current(self.client)
            applied = send(self.client, "GET", generation.applied)
            if applied is None:
                return self._lost(generation)
            at = _Position(generation, stream_id(generation.applied, applied))
        entries = self._read(at.applied, block_ms)
        if not entries:
            return 0
        taken = self._take_many(at, entries) if len(entries) == self.config.batch_size else self._take(at, entries)
        if not taken:
            return self._lost(at.generation)
        self._lost_in_a_row = 0
        return taken

    def _lost(self, generation: keys.Generation) -> int:
        """Takes note of a lost race, gives 0: no records."""
        self._lost_in_a_row += 1
        if self._lost_in_a_row < _MOST_LOST:
            return 0
        self._lost_in_a_row = 0
        raise DependencyError(
            f"the online store could not be brought up to the stream {_MOST_LOST} times in a row, others were faster "
            f"or {generation.applied.decode()} is gone; see who else writes to it, then run `recsys train`"
        )

    def _read(self, after: str, block_ms: int = 0) -> Sequence[Entry]:
        """The next records, and then the catalogue of now; whatever that one fails with is no record's fault."""
        entries = self.stream.read(after, self.config.batch_size, block_ms)
        if entries and self.catalogue_of_now is not None:
            self.catalogue = self.catalogue_of_now()
        return entries

    def _take_many(self, at: _Position, entries: Sequence[Entry]) -> int:
        """Apply batches, each computed while Redis writes the one before; gives how many records were dealt with.

        Rows of a batch are read before the write of the batch before it is sent, and those that both touch are what
        that one leaves behind. When a write does not go through, what was computed from it must not be written: another
        consumer may have applied the same records, and then the position alone would let it pass. What makes computing
        fail is left to `_take`.
        """
        taken = 0
        ready = self._computed(at, self._looked_up(at, self._counted(entries), None))
        next_entries = self._read(entries[-1].id)
        next_batch = self._counted(next_entries)
        for number in range(1, _IN_A_ROW + 1):
            if ready is None:
                return taken + self._take(at, entries)
            looked = self._looked_up(at, next_batch, ready.outcome) if number < _IN_A_ROW else None
            coming = self._read(next_entries[-1].id) if next_entries and number + 1 < _IN_A_ROW else []
            self._at = None  # until the answer is there, nobody knows
            writing = self._send(at, ready.erased_version, ready.outcome.changes, entries)
            try:
                next_ready, coming_batch = self._computed(at, looked), self._counted(coming)
            finally:
                written = writing.done()
                if written:
                    self._settle(at, ready.outcome.changes, entries)
                    self._bad_in_a_row = 0
            if not written:
                return taken
            taken += len(entries)
            if not next_entries:
                return taken
            at = _Position(at.generation, entries[-1].id)
            entries, ready, next_entries, next_batch = next_entries, next_ready, coming, coming_batch
        return taken

    def _counted(self, entries: Sequence[Entry]) -> Batch | None:
        return _unless_it_fails(lambda: self._batch(entries)) if entries else None

    def _looked_up(self, at: _Position, batch: Batch | None, before: Outcome | None) -> _Looked | None:
        return None if batch is None else _unless_it_fails(lambda: self._look_up(at, batch, before))

    def _computed(self, at: _Position, looked: _Looked | None) -> _Ready | None:
        return None if looked is None else _unless_it_fails(lambda: self._ready(at, looked))

    def _take(self, at: _Position, entries: Sequence[Entry]) -> int:
        """Apply these records or, when some of them make that fail, fewer; gives how many were dealt with.

        An error nobody foresaw is tried again once, then with half the records, until the one that causes it is alone.

        Raises: DataError after `_MOST_BAD` such records in a row: then it is not they that are at fault.
        """
        retried = False
        while True:
            try:
                applied = self._apply(at, entries)
                self._bad_in_a_row = 0
                return len(entries) if applied else 0
            except _FORESEEN:
                raise
            except Exception as error:
                if not retried:
                    retried = True
                elif len(entries) > 1:
                    retried, entries = False, entries[: len(entries) // 2]
                else:
                    reason = f"{type(error).__name__}: {error}"
                    if self._bad_in_a_row == _MOST_BAD:
                        raise DataError(
                            f"{_MOST_BAD} stream records in a row could not be applied and were set aside, and neither "
                            f"can {entries[0].id}: {reason}; repair the program, then start it again"
                        ) from error
                    self._bad_in_a_row += 1
                    # As of now: before the tombstones were read for this record, applying it may have failed already.
                    erased_version = transaction.read(self.client, at.generation, []).erased_version
                    return int(self._write(at, erased_version, set_aside(entries[0], reason), entries))

    def _apply(self, at: _Position, entries: Sequence[Entry]) -> bool:
        looked = self._look_up(at, self._batch(entries), None)
        if looked is None:
            return False
        ready = self._ready(at, looked)
        return self._write(at, ready.erased_version, ready.outcome.changes, entries)

    def _batch(self, entries: Sequence[Entry]) -> Batch:
        return read_batch(self.catalogue, entries, self.impressions)

    def _look_up(self, at: _Position, batch: Batch, before: Outcome | None) -> _Looked | None:
        """The rows that a batch touches; None when a race was lost.

        Args:
            before: what the batch before it does, when that is still to be written.
        """
        for _ in range(_ATTEMPTS):
            named = name_rows(batch, self._erased, at.generation)
            names = [name for some in named.names for name in some]
            rows: dict[bytes, bytes | None] = {}
            if before is not None:
                rows = {name: before.row_after(name) for name in names if name in before.touched}
                names = [name for name in names if name not in rows]
            found = transaction.read(self.client, at.generation, names)
            is_current = found.number == b"%d" % at.generation.number
            if found.applied != at.applied.encode() or (self._fixed is None and not is_current):
                return None
            if found.erased_version == self._erased.version:
                rows.update(zip(names, found.rows, strict=True))
                return _Looked(batch, named, rows, found.erased_version, found.origin)
            self._erased = read_erased(self.client)
        return None

    def _ready(self, at: _Position, looked: _Looked) -> _Ready:
        kept = CLICKS_KEPT * self.config.history_size
        done = outcome(looked.batch, looked.named, looked.rows, at.generation, looked.origin, kept)
        return _Ready(done, looked.erased_version)

    def _write(self, at: _Position, erased_version: int, changes: Changes, entries: Sequence[Entry]) -> bool:
        if not self._send(at, erased_version, changes, entries).done():
            return False
        self._settle(at, changes, entries)
        return True

    def _send(self, at: _Position, erased_version: int, changes: Changes, entries: Sequence[Entry]) -> Writing:
        fence = Fence(at.generation, at.applied.encode(), erased_version, self._fixed is None)
        config = self.config
        return transaction.write(self.client, fence, changes, entries[-1].id, config.ttl_s, config.trending_size)

    def _settle(self, at: _Position, changes: Changes, entries: Sequence[Entry]) -> None:
        self._at = _Position(at.generation, entries[-1].id)
        for entry_id, _, _, reason in changes.dead_letters:
            log.warning("stream record %s cannot be applied and was set aside: %s", entry_id, reason)


def _unless_it_fails(act: Callable[[], T]) -> T | None:
    """None for an error nobody foresaw: whoever looks at records one by one will meet it again."""
    try:
        return act()
    except _FORESEEN:
        raise
    except Exception:
        log.debug("a batch cannot be computed ahead and is taken by itself", exc_info=True)
        return None
