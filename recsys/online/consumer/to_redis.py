"""The stream into the online store: each record once in effect, whatever is killed when.

Reads the records after the position of a generation and the rows they touch, applies them, and writes rows, trending
and the new position in one call that goes through only if generation, position and tombstones are still what was read.
Whoever loses that race, to another consumer, a batch load or an erasure, has changed nothing and simply reads again;
losing again and again is no race and is told. While Redis writes a batch and reads the rows of the one after the next,
the next one is computed. A record that cannot be applied is set aside with its reason and stops nothing. It does not
know who wrote the records, nor where catalogues come from.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError, RecsysError
from recsys.features.histories import KEPT as CLICKS_KEPT
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.connection.parse import stream_id
from recsys.online.consumer import transaction
from recsys.online.consumer.batch import Batch, Named, Outcome, name_rows, outcome, read_batch, set_aside
from recsys.online.consumer.transaction import Changes, Fence, Found, Writing
from recsys.online.pointer import current
from recsys.online.stream.log import EventStream
from recsys.online.stream.records import Entry
from recsys.online.tombstones import Erased, read_erased

log = logging.getLogger(__name__)

T = TypeVar("T")

_ATTEMPTS = 5
_MOST_BAD = 20
_MOST_LOST = 50
_IN_A_ROW = 16
"""Batches of one step at most, more than three: between steps the consumer looks whether it should stop."""
_NOBODY = Erased(-1, np.empty(0, np.int64), np.empty(0, np.int64))
"""Before the tombstones were read: their version is never this, also where it was lost."""
_FORESEEN = (RecsysError, redis.RedisError, OSError, MemoryError)
"""Errors that no single record is the cause of."""


class _Position(NamedTuple):
    generation: keys.Generation
    applied: str


class _Ahead(NamedTuple):
    """Records to come. The rest is None where looking at them fails, or at those before."""

    entries: Sequence[Entry]
    batch: Batch | None = None
    named: Named | None = None
    names: list[bytes] | None = None
    """Of the rows that the batch before does not touch too."""


class _Looked(NamedTuple):
    """A batch and all that is needed to compute what it does, once it is known what the batch before does."""

    batch: Batch
    named: Named
    rows: dict[bytes, bytes | None]
    """Those that the batch before does not touch."""
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

        Rows of a batch are read behind the write of the last but one. Those that the last one touches too are what that
        one leaves behind. When a write does not go through, what was computed from it must not be written: another
        consumer may have applied the same records, and then the position alone would let it pass. A batch that cannot
        be computed ahead, for an error or because its rows were read as of another position, is left to `_take`.
        """
        first = _unless_it_fails(lambda: self._look_up(at, self._batch(entries)))
        ready = self._computed(at, first, None)
        if first is None or ready is None:
            return self._take(at, entries)
        taken, coming = 0, self._ahead(at, entries, first.named)
        found = None if coming.names is None else transaction.read(self.client, at.generation, coming.names)
        looked = self._looked(at, coming, found)
        after = self._ahead(at, coming.entries, coming.named)
        for number in itertools.count(4):  # of the batch whose records are read in this turn
            if ready is None:
                return taken + self._take(at, entries)
            changes, self._at = ready.outcome.changes, None  # until the answer is there, nobody knows
            writing = self._send(at, ready.erased_version, changes, entries, after.names)
            try:
                ready = self._computed(at, looked, ready.outcome)
                later = self._ahead(at, after.entries, after.named) if number <= _IN_A_ROW else _Ahead([])
            finally:
                written = writing.done()
                if written:
                    self._settle(at, changes, entries)
                    self._bad_in_a_row = 0
            if not written:
                return taken
            taken += len(entries)
            if not coming.entries:
                return taken
            at = _Position(at.generation, entries[-1].id)
            looked = self._looked(at, after, writing.found)
            entries, coming, after = coming.entries, after, later
        return taken

    def _ahead(self, at: _Position, before: Sequence[Entry], named_before: Named | None) -> _Ahead:
        """What follows these records, whose rows are `named_before`."""
        entries = self._read(before[-1].id) if before else []
        if not entries or named_before is None:
            return _Ahead(entries)

        def named() -> _Ahead:
            batch = self._batch(entries)
            named = name_rows(batch, self._erased, at.generation)
            same = {name for some in named_before.names for name in some}
            return _Ahead(entries, batch, named, [name for some in named.names for name in some if name not in same])

        return _unless_it_fails(named) or _Ahead(entries)

    def _looked(self, at: _Position, ahead: _Ahead, found: Found | None) -> _Looked | None:
        """Records and their rows, None when those are not as of this position or of other tombstones."""
        if ahead.batch is None or ahead.named is None or ahead.names is None or found is None:
            return None
        if not self._is_as_of(at, found) or found.erased_version != self._erased.version:
            return None
        rows = dict(zip(ahead.names, found.rows, strict=True))
        return _Looked(ahead.batch, ahead.named, rows, found.erased_version, found.origin)

    def _computed(self, at: _Position, looked: _Looked | None, before: Outcome | None) -> _Ready | None:
        return None if looked is None else _unless_it_fails(lambda: self._ready(at, looked, before))

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
        looked = self._look_up(at, self._batch(entries))
        if looked is None:
            return False
        ready = self._ready(at, looked, None)
        return self._write(at, ready.erased_version, ready.outcome.changes, entries)

    def _batch(self, entries: Sequence[Entry]) -> Batch:
        return read_batch(self.catalogue, entries, self.impressions)

    def _look_up(self, at: _Position, batch: Batch) -> _Looked | None:
        """The rows that a batch touches; None when a race was lost."""
        for _ in range(_ATTEMPTS):
            named = name_rows(batch, self._erased, at.generation)
            names = [name for some in named.names for name in some]
            found = transaction.read(self.client, at.generation, names)
            if not self._is_as_of(at, found):
                return None
            if found.erased_version == self._erased.version:
                rows = dict(zip(names, found.rows, strict=True))
                return _Looked(batch, named, rows, found.erased_version, found.origin)
            self._erased = read_erased(self.client)
        return None

    def _is_as_of(self, at: _Position, found: Found) -> bool:
        is_current = found.number == b"%d" % at.generation.number
        return found.applied == at.applied.encode() and (self._fixed is not None or is_current)

    def _ready(self, at: _Position, looked: _Looked, before: Outcome | None) -> _Ready:
        """What a batch does.

        Args:
            before: what the batch before it does, when its rows were read as if that were not there.
        """
        rows = looked.rows
        if before is not None:
            both = [name for some in looked.named.names for name in some if name not in rows]
            rows = {**rows, **{name: before.row_after(name) for name in both}}
        kept = CLICKS_KEPT * self.config.history_size
        done = outcome(looked.batch, looked.named, rows, at.generation, looked.origin, kept)
        return _Ready(done, looked.erased_version)

    def _write(self, at: _Position, erased_version: int, changes: Changes, entries: Sequence[Entry]) -> bool:
        if not self._send(at, erased_version, changes, entries).done():
            return False
        self._settle(at, changes, entries)
        return True

    def _send(
        self,
        at: _Position,
        erased_version: int,
        changes: Changes,
        entries: Sequence[Entry],
        then_read: Sequence[bytes] | None = None,
    ) -> Writing:
        fence = Fence(at.generation, at.applied.encode(), erased_version, self._fixed is None)
        ttl_s, trending_size = self.config.ttl_s, self.config.trending_size
        return transaction.write(self.client, fence, changes, entries[-1].id, ttl_s, trending_size, then_read)

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
