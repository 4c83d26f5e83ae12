"""The stream into the online store: each record once in effect, whatever is killed when.

Reads the records after the position of a generation and the rows they touch, applies them, and writes rows, trending
and the new position in one call that goes through only if generation, position and tombstones are still what was read.
Whoever loses that race, to another consumer, a batch load or an erasure, has changed nothing and simply reads again;
losing again and again is no race and is told. A record that cannot be applied is set aside with its reason and stops
nothing. It does not know who wrote the records, nor where catalogues come from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Literal, NamedTuple

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError, RecsysError
from recsys.features.decay import advance
from recsys.features.histories import KEPT as CLICKS_KEPT
from recsys.features.spec import USER
from recsys.offline.catalogue import Catalogue
from recsys.offline.labels import CLICK
from recsys.online import keys, transaction, trending
from recsys.online.apply import Counted, counted, touched
from recsys.online.commands import send
from recsys.online.erased import Erased, read_erased
from recsys.online.pointer import current
from recsys.online.records import Entry, decode
from recsys.online.rows import pack, unpack
from recsys.online.stream import EventStream
from recsys.online.transaction import Changes, Fence, Patches
from recsys.online.user_rows import advance_users
from recsys.online.values import stream_id

log = logging.getLogger(__name__)

_ATTEMPTS = 5
_MOST_BAD = 20
_MOST_LOST = 50
_NOBODY = Erased(-1, np.empty(0, np.int64), np.empty(0, np.int64))
"""Before the tombstones were read: their version is never this, also where it was lost."""
_NO_USERS = Patches(b"", b"")


class _Position(NamedTuple):
    generation: keys.Generation
    applied: str


class _Plain(NamedTuple):
    """Rows of posts, authors and topics; a list per entity, whose rows have one size."""

    names: list[bytes]
    rows: list[list[bytes]]


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
        """Apply the next batch, waiting up to `block_ms` for one.

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
        entries = self.stream.read(at.applied, self.config.batch_size, block_ms)
        if not entries:
            return 0
        if self.catalogue_of_now is not None:
            self.catalogue = self.catalogue_of_now()
        taken = self._take(at, entries)
        if not taken:
            return self._lost(at.generation)
        self._lost_in_a_row = 0
        self._at = _Position(at.generation, entries[taken - 1].id)
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
            except (RecsysError, redis.RedisError, OSError, MemoryError):
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
                    nothing = Changes([], 0, [], [], 0, _NO_USERS, [], [_letter(entries[0], reason)])
                    # As of now: before the tombstones were read for this record, applying it may have failed already.
                    erased_version = transaction.read(self.client, at.generation, []).erased_version
                    return int(self._write(at, erased_version, nothing, entries))

    def _apply(self, at: _Position, entries: Sequence[Entry]) -> bool:
        decoded = decode(entries)
        events = counted(self.catalogue, decoded.events, decoded.returned, self.impressions)
        for _ in range(_ATTEMPTS):
            allowed = events.where(~self._erased.covers(events.user_id, events.time))
            parts = touched(allowed)
            names = [at.generation.rows(part.entity.name, part.ids) for part in parts]
            found = transaction.read(self.client, at.generation, [name for some in names for name in some])
            is_current = found.number == b"%d" % at.generation.number
            if found.applied != at.applied.encode() or (self._fixed is None and not is_current):
                return False
            if found.erased_version == self._erased.version:
                break
            self._erased = read_erased(self.client)
        else:
            return False
        there, new = _Plain([], []), _Plain([], [])
        users, user_names, users_found, start = _NO_USERS, names[-1], 0, 0
        for part, asked in zip(parts, names, strict=True):
            rows = found.rows[start : start + len(asked)]
            start += len(asked)
            known = np.fromiter((row is not None for row in rows), bool, len(rows))
            if part.entity is USER:
                order = np.argsort(~known, kind="stable")
                place = np.empty(len(order), np.int64)
                place[order] = np.arange(len(order))
                user_names, rows = [asked[i] for i in order.tolist()], [rows[i] for i in order.tolist()]
                users_found, kept = int(known.sum()), CLICKS_KEPT * self.config.history_size
                users = advance_users(user_names, rows, part.events, place[part.place], kept)
            else:
                states = unpack(part.entity, asked, rows)
                advance(states, part.entity, part.place, part.events.time, part.events.action)
                packed = pack(part.entity, states)
                for some, chosen in ((there, known.tolist()), (new, (~known).tolist())):
                    some.names.extend(compress(asked, chosen))
                    some.rows.append(list(compress(packed, chosen)))
        changes = Changes(
            plain_names=there.names + new.names,
            plain_found=len(there.names),
            plain=there.rows + new.rows,
            user_names=user_names,
            users_found=users_found,
            users=users,
            trending=self._trending(at.generation, allowed, found.origin),
            dead_letters=[_letter(entry, reason) for entry, reason in decoded.bad],
        )
        return self._write(at, found.erased_version, changes, entries)

    def _write(self, at: _Position, erased_version: int, changes: Changes, entries: Sequence[Entry]) -> bool:
        fence = Fence(at.generation, at.applied.encode(), erased_version, self._fixed is None)
        config = self.config
        written = transaction.write(self.client, fence, changes, entries[-1].id, config.ttl_s, config.trending_size)
        if written:
            for entry_id, _, _, reason in changes.dead_letters:
                log.warning("stream record %s cannot be applied and was set aside: %s", entry_id, reason)
        return written

    def _trending(self, generation: keys.Generation, events: Counted, origin: int) -> list[tuple[bytes, bytes]]:
        clicks = events.where(events.action == CLICK)
        gain = trending.weight(clicks.time, origin)
        language = np.where(clicks.post_row >= 0, self.catalogue.language[clicks.post_row], -1)
        sets = [(generation.trending(None), np.ones(len(clicks), bool))]
        for row in np.unique(language[language >= 0]):
            sets.append((generation.trending(self.catalogue.languages[row]), language == row))
        return [(name, trending.gains(clicks.post_id[some], gain[some])) for name, some in sets if some.any()]


def _letter(entry: Entry, reason: str) -> tuple[str, bytes, bytes, str]:
    return entry.id, entry.kind, entry.payload, reason
