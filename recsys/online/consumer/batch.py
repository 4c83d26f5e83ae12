"""One batch of the stream as changes of the online store. Without Redis: rows come in as bytes and leave as bytes.

Takes records and what the rows they touch hold, gives `transaction.Changes`. The rows after these changes can be asked
for before Redis has them (`Outcome.row_after`), so that the next batch is computed while this one is written. It does
not know who reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from recsys.features.spec import USER
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.labels import CLICK
from recsys.online import keys
from recsys.online.consumer.changes import Counted, Touched, counted, touched
from recsys.online.consumer.transaction import Changes
from recsys.online.rows import trending
from recsys.online.rows.byte_patches import Patches
from recsys.online.rows.counter_rows import advance_plain
from recsys.online.rows.user_rows import advance_users
from recsys.online.stream.records import Entry, decode
from recsys.online.tombstones import Erased


class Batch(NamedTuple):
    """Records, and what counts among them."""

    entries: Sequence[Entry]
    events: Counted
    bad: list[tuple[Entry, str]]
    """Records that cannot be read, with the reason."""
    catalogue: Catalogue
    """The one that `events` were looked up in."""


class Named(NamedTuple):
    """The rows that a batch touches, under their keys."""

    events: Counted
    """Without those of erased people."""
    parts: list[Touched]
    names: list[list[bytes]]
    """Keys of each part's rows, in the order of its `ids`."""


class _StoredRows(NamedTuple):
    """Rows of one entity that were all found, or all not."""

    names: list[bytes]
    before: list[bytes | None]
    patches: Patches


class Outcome(NamedTuple):
    """What a batch does, and what it leaves behind."""

    changes: Changes
    touched: dict[bytes, tuple[int, bytes | None]]
    """Place of each row in the changes, and the row before."""

    def row_after(self, name: bytes) -> bytes:
        """What Redis holds under this name once the changes are written. Raises: KeyError when they do not touch it."""
        return self.changes.patches.row_after(*self.touched[name])


def read_batch(catalogue: Catalogue, entries: Sequence[Entry], impressions: Literal["explicit", "implied"]) -> Batch:
    decoded = decode(entries)
    return Batch(entries, counted(catalogue, decoded.events, decoded.returned, impressions), decoded.bad, catalogue)


def name_rows(batch: Batch, erased: Erased, generation: keys.Generation) -> Named:
    """Which rows a batch touches when these people are left out."""
    allowed = batch.events.where(~erased.covers(batch.events.user_id, batch.events.time))
    parts = touched(allowed)
    return Named(allowed, parts, [generation.rows(part.entity.name, part.ids) for part in parts])


def outcome(
    batch: Batch,
    named: Named,
    rows: Mapping[bytes, bytes | None],
    generation: keys.Generation,
    origin: int,
    clicks_kept: int,
) -> Outcome:
    """What this batch does to these rows.

    Args:
        rows: of every name in `named`; None where there is none.
        origin: moment at which a click adds 1 to a trending score, microseconds.
        clicks_kept: clicked posts to keep per user.
    Raises: DataError naming a row that cannot be trusted.
    """
    found: list[_StoredRows] = []
    new: list[_StoredRows] = []
    for part, names in zip(named.parts, named.names, strict=True):
        # Those with a row first: the write takes them apart.
        absent = np.fromiter((rows[name] is None for name in names), bool, len(names))
        order, n_found = np.argsort(absent, kind="stable"), int((~absent).sum())
        names = [names[place] for place in order.tolist()]
        before = [rows[name] for name in names]
        part = part.reordered(order)
        if part.entity is USER:
            patches = advance_users(names, before, part.events, part.place, clicks_kept)
        else:
            patches = advance_plain(names, before, part)
        found.append(_StoredRows(names[:n_found], before[:n_found], patches.part(0, n_found)))
        new.append(_StoredRows(names[n_found:], before[n_found:], patches.part(n_found, len(names))))
    names = [name for some in found + new for name in some.names]
    before = [row for some in found + new for row in some.before]
    changes = Changes(
        names=names,
        found=sum(len(some.names) for some in found),
        patches=Patches.joined([some.patches for some in found + new]),
        trending=_trending(batch.catalogue, generation, named.events, origin),
        dead_letters=[_letter(entry, reason) for entry, reason in batch.bad],
    )
    return Outcome(changes, dict(zip(names, enumerate(before), strict=True)))


def set_aside(entry: Entry, reason: str) -> Changes:
    """The changes of a record that cannot be applied: it is kept with its reason, and nothing else."""
    return Changes([], 0, Patches.joined([]), [], [_letter(entry, reason)])


def _letter(entry: Entry, reason: str) -> tuple[str, bytes, bytes, str]:
    return entry.id, entry.kind, entry.payload, reason


def _trending(
    catalogue: Catalogue, generation: keys.Generation, events: Counted, origin: int
) -> list[tuple[bytes, bytes]]:
    clicks = events.where(events.action == CLICK)
    gain = trending.weight(clicks.time, origin)
    language = np.where(clicks.post_row >= 0, catalogue.language[clicks.post_row], -1)
    sets = [(generation.trending(None), np.ones(len(clicks), bool))]
    for row in np.unique(language[language >= 0]):
        sets.append((generation.trending(catalogue.languages[row]), language == row))
    return [(name, trending.gains(clicks.post_id[some], gain[some])) for name, some in sets if some.any()]
