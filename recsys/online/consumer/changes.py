"""What one batch of the stream changes in the online store. Without Redis: rows come in as bytes and leave as patches.

    records --decode_batch--> Batch --rows_to_change--> BatchRows --apply_batch--> BatchResult

Takes records and the rows they touch, gives `transaction.Changes`. `BatchResult.row_after` gives a row as it will be
once the changes are written, so that the next batch is computed while this one is written. This module does not know
who reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from recsys.features.spec import USER
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.events import ACTIONS, CLICK
from recsys.online import keys
from recsys.online.consumer.transaction import Changes
from recsys.online.rows import trending
from recsys.online.rows.byte_patches import Patches
from recsys.online.rows.counter_rows import advance_counters
from recsys.online.rows.events import CountedEvents, RowEvents, group_by_row
from recsys.online.rows.user_rows import advance_users
from recsys.online.stream.records import Entry, Returned, decode
from recsys.online.tombstones import Erased
from recsys.types import Rows

IMPRESSION = ACTIONS.index("impression")


class Batch(NamedTuple):
    """Records of the stream, and the events that count among them."""

    entries: Sequence[Entry]
    events: CountedEvents
    bad: list[tuple[Entry, str]]
    """Records that cannot be read, with the reason."""
    catalogue: Catalogue
    """The one that `events` were looked up in."""


class BatchRows(NamedTuple):
    """The rows that a batch touches."""

    events: CountedEvents
    """Without those of erased people."""
    groups: list[RowEvents]
    """One group for posts, authors, topics and users each."""
    names: list[list[bytes]]
    """Keys of each group's rows, in the order of its `ids`."""

    def all_names(self) -> list[bytes]:
        return [name for names in self.names for name in names]


class _StoredRows(NamedTuple):
    """Rows of one entity that all exist in Redis, or are all new."""

    names: list[bytes]
    before: list[bytes | None]
    patches: Patches


class BatchResult(NamedTuple):
    """What a batch changes, and the rows it was computed from."""

    changes: Changes
    rows: dict[bytes, tuple[int, bytes | None]]
    """Key of each row to its place in the changes and the row before."""

    def row_after(self, name: bytes) -> bytes:
        """The row under this key once the changes are written. Raises: KeyError when the batch does not touch it."""
        return self.changes.patches.row_after(*self.rows[name])


def decode_batch(catalogue: Catalogue, entries: Sequence[Entry], impressions: Literal["explicit", "implied"]) -> Batch:
    """Decode records and look their posts up in the catalogue."""
    decoded = decode(entries)
    events = counted_events(catalogue, decoded.events, decoded.returned, impressions)
    return Batch(entries, events, decoded.bad, catalogue)


def counted_events(
    catalogue: Catalogue,
    events: np.ndarray,
    returned: Sequence[Returned],
    impressions: Literal["explicit", "implied"],
) -> CountedEvents:
    """The events that counters count.

    Args:
        events: of `records.EVENT_TYPE`.
        impressions: `explicit` counts impression events and ignores returned records; `implied` counts every returned
            post as an impression and ignores impression events. An impression is never counted twice.
    """
    if impressions == "implied":
        events = events[events["action"] != IMPRESSION]
        shown_user = [np.full(len(record.post_id), record.user_id) for record in returned]
        shown_post = [record.post_id for record in returned]
        shown_time = [np.full(len(record.post_id), record.now) for record in returned]
    else:
        shown_user, shown_post, shown_time = [], [], []
    action = events["action"].astype(np.int32)
    time = np.minimum(events["event_time"], events["ingest_time"])
    n_shown = sum(map(len, shown_user))
    post_id = np.concatenate([events["post_id"], *shown_post])
    post_row = catalogue.post_rows(post_id)
    author_row = _values_at(catalogue.author, post_row)
    return CountedEvents(
        action=np.concatenate([action, np.full(n_shown, IMPRESSION, np.int32)]),
        time=np.concatenate([time, *shown_time]),
        user_id=np.concatenate([events["user_id"], *shown_user]),
        post_id=post_id,
        post_row=post_row,
        author_id=_values_at(catalogue.author_id, author_row),
        has_author=author_row >= 0,
        topic_key=keys.topic_keys(catalogue)[_values_at(catalogue.likely_topic, post_row) + 1],
    )


def rows_to_change(batch: Batch, erased: Erased, generation: keys.Generation) -> BatchRows:
    """The rows that a batch touches, without the events of erased people."""
    allowed = batch.events.where(~erased.covers(batch.events.user_id, batch.events.time))
    groups = group_by_row(allowed)
    return BatchRows(allowed, groups, [generation.rows(group.entity.name, group.ids) for group in groups])


def apply_batch(
    batch: Batch,
    touched: BatchRows,
    rows: Mapping[bytes, bytes | None],
    generation: keys.Generation,
    origin: int,
    clicks_kept: int,
) -> BatchResult:
    """Count a batch into these rows.

    Args:
        rows: value of every key in `touched`; None where there is none.
        origin: moment at which a click adds 1 to a trending score, microseconds.
        clicks_kept: clicked posts to keep per user.
    Raises: DataError naming a row that is not valid.
    """
    found: list[_StoredRows] = []
    new: list[_StoredRows] = []
    for group, names in zip(touched.groups, touched.names, strict=True):
        # 1. Rows that exist come first, because the write checks both kinds apart.
        absent = np.fromiter((rows[name] is None for name in names), bool, len(names))
        order, n_found = np.argsort(absent, kind="stable"), int((~absent).sum())
        names = [names[place] for place in order.tolist()]
        before = [rows[name] for name in names]
        group = group.reordered(order)
        # 2. Count the events.
        if group.entity is USER:
            patches = advance_users(names, before, group.events, group.place, clicks_kept)
        else:
            patches = advance_counters(names, before, group)
        found.append(_StoredRows(names[:n_found], before[:n_found], patches.part(0, n_found)))
        new.append(_StoredRows(names[n_found:], before[n_found:], patches.part(n_found, len(names))))
    # 3. All found rows, then all new ones; trending and dead letters beside them.
    names = [name for some in found + new for name in some.names]
    before = [row for some in found + new for row in some.before]
    changes = Changes(
        names=names,
        found=sum(len(some.names) for some in found),
        patches=Patches.joined([some.patches for some in found + new]),
        trending=_trending_gains(batch.catalogue, generation, touched.events, origin),
        dead_letters=[_letter(entry, reason) for entry, reason in batch.bad],
    )
    return BatchResult(changes, dict(zip(names, enumerate(before), strict=True)))


def dead_letter(entry: Entry, reason: str) -> Changes:
    """The changes for a record that cannot be applied: it is kept with the reason, and counts nowhere."""
    return Changes([], 0, Patches.joined([]), [], [_letter(entry, reason)])


def _letter(entry: Entry, reason: str) -> tuple[str, bytes, bytes, str]:
    return entry.id, entry.kind, entry.payload, reason


def _trending_gains(
    catalogue: Catalogue, generation: keys.Generation, events: CountedEvents, origin: int
) -> list[tuple[bytes, bytes]]:
    """Key of each trending set and what its clicked posts gain: all languages, then each language that was clicked."""
    clicks = events.where(events.action == CLICK)
    gain = trending.weight(clicks.time, origin)
    language = np.where(clicks.post_row >= 0, catalogue.language[clicks.post_row], -1)
    sets = [(generation.trending(None), np.ones(len(clicks), bool))]
    for row in np.unique(language[language >= 0]):
        sets.append((generation.trending(catalogue.languages[row]), language == row))
    return [(name, trending.gains(clicks.post_id[some], gain[some])) for name, some in sets if some.any()]


def _values_at(values: np.ndarray, rows: Rows) -> np.ndarray:
    """Values at these rows, -1 for row -1."""
    if not len(values):
        return np.full(len(rows), -1, values.dtype)
    return np.where(rows >= 0, values[rows], -1)
