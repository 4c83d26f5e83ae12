"""Merge users' old rows with the changes of a batch into patches: compiled, one pass over the rows.

Takes arrays, fills arrays. Counters are computed before (`user_rows`); here rows are only put together.

Letters: U users, P changed entries or clicks, W words of all rows, A actions, H half-lives.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.features.decay import JIT
from recsys.types import Doubles, Ids, Mask, Times

_GAP = 4
"""Two patches at most this many unchanged words apart become one: a command to Redis costs more than writing these
words again. Gaps of 16 and 64 words gained nothing, because every byte goes into the append-only file too."""


class OldRows(NamedTuple):
    """The rows before the batch."""

    words: Ids
    """All rows, one behind another, (W,)."""
    floats: Doubles
    """The same bytes as float64, (W,)."""
    start: Ids
    """Word where each row begins, (U,)."""
    size: Ids
    """Bytes of each row, 0 where there is none, (U,)."""


class OwnCounters(NamedTuple):
    """The users' own counters after the batch."""

    t_before: Doubles
    """Time of the counters before the batch, (U,)."""
    t: Doubles
    """(U,)."""
    v: Doubles
    """(U, A*H)."""


class EntryChanges(NamedTuple):
    """Entries (topics or authors) in the old rows, and those that the batch changes, by user and then by key."""

    begin: Ids
    """Word where each user's old entries begin, (U,)."""
    n_old: Ids
    """Old entries of each user, (U,)."""
    first: Ids
    """Where each user's changed entries begin in the arrays below, and the end, (U + 1,)."""
    place: Ids
    """Index of the old entry with this key or, if it is new, of the one it goes in front of, (P,)."""
    known: Mask
    """Whether the old row has the key, (P,)."""
    key: Ids
    """(P,)."""
    t: Doubles
    """After the batch, (P,)."""
    v: Doubles
    """After the batch, (P, A*H)."""


class ClickChanges(NamedTuple):
    """Clicks in the old rows, and those of the batch, by user and then newest first."""

    begin: Ids
    """Word where each user's old clicks begin, (U,)."""
    n_old: Ids
    """Old clicks of each user, (U,)."""
    first: Ids
    """Where each user's new clicks begin in the arrays below, and the end, (U + 1,)."""
    post_id: Ids
    """(P,)."""
    time: Times
    """(P,)."""


class MergeConstants(NamedTuple):
    """Passed in, because a compiled kernel on disk would keep the values of an older feature definition."""

    fingerprint: int
    counts: int
    """Word of a row that holds the number of topics."""
    forgotten: int
    """Microseconds."""
    refreshed: int
    """Microseconds."""
    clicks_kept: int


class MergeOutput(NamedTuple):
    """What becomes `Patches`."""

    words: Ids
    """Patches, each behind a word of first byte and number of bytes; long enough for all."""
    floats: Doubles
    """The same bytes as float64."""
    heads: np.ndarray
    """(U, 3) uint32."""
    begin: Ids
    """Word where each row's patches begin, and the end, (U + 1,)."""


# The merge writes a new row from its first word to its last, but stores only what differs from the old row. Where it
# stands is an array of seven numbers, the cursor:
_NEXT = 0
"""Next free word of the output."""
_PATCH = 1
"""Word of the output that heads the patch being written, -1 when the new row agrees with the old one here."""
_LENGTH = 2
"""Words of the new row so far."""
_N_PATCHES = 3
"""Patches of the row so far."""
_WHOLE = 4
"""1 when the row is written whole."""
_LAST_PATCH = 5
"""Word of the output that heads the patch before, -1 without one."""
_LAST_END = 6
"""Word of the row where that patch ends."""


@JIT
def _reserve(words, start, out, cursor, n):  # type: ignore[no-untyped-def]
    """Make room for the next n words of the new row, which the old row does not have in this place.

    Gives the word of the output where the caller writes them.
    """
    if cursor[_PATCH] < 0:
        gap = cursor[_LENGTH] - cursor[_LAST_END]
        if cursor[_LAST_PATCH] >= 0 and gap <= _GAP:
            # Close the gap to the patch before: copy the unchanged words into it.
            cursor[_PATCH] = cursor[_LAST_PATCH]
            out[cursor[_PATCH]] += (8 * gap) << 32
            for i in range(gap):
                out[cursor[_NEXT] + i] = words[start + cursor[_LAST_END] + i]
            cursor[_NEXT] += gap
        else:
            # Begin a patch: its head is the first byte and, in the upper half, the number of bytes.
            cursor[_PATCH] = cursor[_NEXT]
            out[cursor[_NEXT]] = 8 * cursor[_LENGTH]
            cursor[_NEXT] += 1
            cursor[_N_PATCHES] += 1
    out[cursor[_PATCH]] += (8 * n) << 32
    cursor[_NEXT] += n
    cursor[_LENGTH] += n
    return cursor[_NEXT] - n


@JIT
def _keep(words, start, first, n, out, cursor):  # type: ignore[no-untyped-def]
    """Continue the new row with n words of the old one, from its word `first` on."""
    if first == cursor[_LENGTH] and not cursor[_WHOLE]:
        # They stay where they are: nothing to write, and the patch before ends here.
        if n > 0 and cursor[_PATCH] >= 0:
            cursor[_PATCH], cursor[_LAST_PATCH], cursor[_LAST_END] = -1, cursor[_PATCH], cursor[_LENGTH]
        cursor[_LENGTH] += n
        return
    to = _reserve(words, start, out, cursor, n)
    for i in range(n):
        out[to + i] = words[start + first + i]


@JIT
def _merge_entries(old, u, changes, oldest, out, cursor):  # type: ignore[no-untyped-def]
    """Merge one user's old and changed entries by key; drop old ones before `oldest`. Gives how many remain."""
    # Plain arrays: every call with a tuple of arrays would count references to each of them.
    words, floats, start, out_words, out_floats = old.words, old.floats, old.start[u], out.words, out.floats
    place, known, key, t, v = changes.place, changes.known, changes.key, changes.t, changes.v
    width, begin, high = 2 + v.shape[1], changes.begin[u], changes.first[u + 1]
    kept, entry = 0, 0
    for p in range(changes.first[u], high + 1):
        # 1. Old entries in front of changed entry p; after the last changed entry, all that are left.
        until = place[p] if p < high else changes.n_old[u]
        while entry < until:
            if floats[begin + entry * width + 1] >= oldest:
                _keep(words, start, begin - start + entry * width, width, out_words, cursor)
                kept += 1
            entry += 1
        # 2. The changed entry itself, in place of the old one with its key.
        if p < high:
            to = _reserve(words, start, out_words, cursor, width)
            out_words[to] = key[p]
            out_floats[to + 1] = t[p]
            for i in range(v.shape[1]):
                out_floats[to + 2 + i] = v[p, i]
            kept += 1
            if known[p]:
                entry += 1
    return kept


@JIT
def _merge_clicks(old, u, changes, limit, out, cursor):  # type: ignore[no-untyped-def]
    """Merge one user's old and new clicks, newest first (ties: smaller post id first). Gives how many, <= `limit`."""
    words, start, out_words = old.words, old.start[u], out.words
    new, end, count = changes.first[u], changes.first[u + 1], changes.n_old[u]
    post, time = changes.post_id, changes.time
    taken, kept = 0, 0
    while kept < limit and (taken < count or new < end):
        at = changes.begin[u] + 2 * taken
        if new < end and (
            taken == count or time[new] > words[at + 1] or (time[new] == words[at + 1] and post[new] < words[at])
        ):
            to = _reserve(words, start, out_words, cursor, 2)
            out_words[to] = post[new]
            out_words[to + 1] = time[new]
            new += 1
        else:
            _keep(words, start, at - start, 2, out_words, cursor)
            taken += 1
        kept += 1
    return kept


@JIT
def merge_into_patches(old, own, topics, authors, clicks, constants, out):  # type: ignore[no-untyped-def]
    """Write the patches of U rows into `out`."""
    cursor = np.zeros(7, np.int64)
    counts = constants.counts
    for u in range(len(old.start)):
        first = cursor[_NEXT]
        out.begin[u] = first
        # A row that became shorter is written again, whole: SETRANGE overwrites and extends, but cuts nothing off.
        for whole in range(old.size[u] == 0, 2):
            # 1. Reset the cursor to the beginning of the row.
            cursor[_NEXT], cursor[_PATCH], cursor[_LENGTH], cursor[_N_PATCHES] = first, -1, 0, 0
            cursor[_WHOLE], cursor[_LAST_PATCH], cursor[_LAST_END] = whole, -1, 0
            # 2. Header: fingerprint, t, v (A*H); three counts follow from the merges below.
            head = _reserve(old.words, old.start[u], out.words, cursor, counts + 3)
            out.words[head] = constants.fingerprint
            out.floats[head + 1] = own.t[u]
            for i in range(own.v.shape[1]):
                out.floats[head + 2 + i] = own.v[u, i]
            # 3. Topics, authors, clicks.
            oldest = own.t[u] - constants.forgotten
            out.words[head + counts] = _merge_entries(old, u, topics, oldest, out, cursor)
            out.words[head + counts + 1] = _merge_entries(old, u, authors, oldest, out, cursor)
            out.words[head + counts + 2] = _merge_clicks(old, u, clicks, constants.clicks_kept, out, cursor)
            # 4. Head of the row's patches.
            refresh = own.t[u] // constants.refreshed != own.t_before[u] // constants.refreshed
            out.heads[u, 0], out.heads[u, 1], out.heads[u, 2] = cursor[_N_PATCHES], whole, refresh
            if 8 * cursor[_LENGTH] >= old.size[u]:
                break
    out.begin[len(old.start)] = cursor[_NEXT]
