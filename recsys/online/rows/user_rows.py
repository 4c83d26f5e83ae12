"""Users' rows after a batch of events, as patches of the rows before.

Takes packed rows and the events that touch them, gives `Patches`. A row has kilobytes, an event changes its
header, an entry or two and a click: only those are unpacked, advanced by `features.decay.advance` and packed again;
what does not move stays where it lies. An entry whose last event is more than `rows.FORGOTTEN` older than the row's
newest is left out, so rows stay bounded. It does not know where rows come from or go to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.features import decay
from recsys.features.decay import JIT, States
from recsys.features.spec import USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.offline.logs.labels import CLICK
from recsys.online.consumer.changes import Counted
from recsys.online.rows.byte_patches import Patches
from recsys.online.rows.layout import COUNTS, FINGERPRINT, FORGOTTEN, HEADER, REFRESHED, WORD, entry_width, user_words
from recsys.types import Doubles, Ids, Mask

_GAP = 4
"""Words between two patches that are written over by what they are, to make one patch of both: a command to Redis costs
more than these. Gaps of 16 and 64 words gained nothing: every byte goes into the append-only file too."""


class _Pairs(NamedTuple):
    """Entries that the batch touches, P of them, by owner and then by key."""

    first: Ids
    """Where each user's begin, and the end, (U + 1,)."""
    place: Ids
    """Entry of the row that has the key or, where none has, before which it belongs, (P,)."""
    known: Mask
    """Whether the row has the key, (P,)."""
    key: Ids
    states: States


def advance_users(
    names: Sequence[bytes],
    rows: Sequence[bytes | None],
    events: Counted,
    owner: Ids,
    clicks_kept: int,
) -> Patches:
    """The rows after these events.

    Args:
        names: keys of the U rows, for complaints.
        owner: place in `names` of each event's user, (M,).
        clicks_kept: clicked posts to keep per user.
    Raises: DataError naming the row whose fingerprint or length is not the expected one.
    """
    words, start, size = user_words(names, rows)
    head = words[start[:, None] + np.arange(HEADER)]
    floats = words.view(np.float64)
    own = States(
        floats[start + 1].copy(),
        np.ascontiguousarray(head[:, 2:COUNTS]).view(np.float64).reshape(len(size), *USER.shape),
    )
    decay.advance(own, USER, owner, events.time, events.action)
    begin = start + HEADER
    # Contiguous also for many users: code for another layout is compiled at first, and nothing applied meanwhile.
    n_topics, n_authors, n_clicks = np.ascontiguousarray(head[:, COUNTS : COUNTS + 3].T)
    begins = (begin, begin + n_topics * entry_width(USER_TOPIC))
    clicks_begin = begins[1] + n_authors * entry_width(USER_AUTHOR)
    topics = _advance_entries(USER_TOPIC, words, begins[0], n_topics, owner, events.topic_key, events)
    authors = _advance_entries(
        USER_AUTHOR, words, begins[1], n_authors, owner, events.author_id, events, events.has_author
    )
    clicked = np.flatnonzero(events.action == CLICK)
    clicked = clicked[np.lexsort((events.post_id[clicked], -events.time[clicked], owner[clicked]))]
    first_click = np.searchsorted(owner[clicked], np.arange(len(size) + 1))
    # Every row whole, every entry that may be new, and a word before every patch.
    room = int(
        size.sum() // WORD
        + len(size) * (HEADER + 1)
        + len(topics.key) * (entry_width(USER_TOPIC) + 1)
        + len(authors.key) * (entry_width(USER_AUTHOR) + 1)
        + len(clicked) * (2 + 1)
    )
    out = np.empty(room, np.int64)
    heads = np.empty((len(size), 3), np.uint32)
    first = np.empty(len(size) + 1, np.int64)
    _patch(
        words, floats, start, size, floats[start + 1], REFRESHED, own.t, _flat(own.v), FORGOTTEN,
        begins[0], n_topics, topics.first, topics.place, topics.known, topics.key, topics.states.t,
        _flat(topics.states.v),
        begins[1], n_authors, authors.first, authors.place, authors.known, authors.key, authors.states.t,
        _flat(authors.states.v),
        clicks_begin, n_clicks, first_click, events.post_id[clicked], events.time[clicked], clicks_kept,
        FINGERPRINT, COUNTS, out, out.view(np.float64), heads, first,
    )  # fmt: skip
    return Patches(heads, out[: first[-1]].tobytes(), WORD * first)


def _flat(v: Doubles) -> Doubles:
    """Counts (n, A, H) as (n, A * H)."""
    return v.reshape(len(v), v.shape[1] * v.shape[2])


def _advance_entries(
    entity: Entity, words: Ids, begin: Ids, count: Ids, owner: Ids, key: Ids, events: Counted, known: Mask | None = None
) -> _Pairs:
    """The entries that these events touch, after them."""
    counts = entity.action_rows[events.action] >= 0
    some = np.flatnonzero(counts if known is None else counts & known)
    owner, key = owner[some], key[some]
    order = np.lexsort((key, owner))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(owner[order]) != 0) | (np.diff(key[order]) != 0)
    slot = np.empty(len(order), np.int64)
    slot[order] = np.cumsum(first) - 1
    kept = order[first]
    owner, key = owner[kept], key[kept]
    place, found = np.empty(len(key), np.int64), np.empty(len(key), bool)
    _find(words, begin, count, entry_width(entity), owner, key, place, found)
    states = States.zeros(len(key), entity)
    at = (begin[owner] + place * entry_width(entity))[found]
    body = words[at[:, None] + np.arange(1, entry_width(entity))].view(np.float64)
    states.t[found] = body[:, 0]
    states.v[found] = body[:, 1:].reshape(len(at), *entity.shape)
    decay.advance(states, entity, slot, events.time[some], events.action[some])
    return _Pairs(np.searchsorted(owner, np.arange(len(count) + 1)), place, found, key, states)


@JIT
def _find(words, begin, count, width, owner, key, place, found):  # type: ignore[no-untyped-def]
    for p in range(len(key)):
        low, high = 0, count[owner[p]]
        first = begin[owner[p]]
        while low < high:
            middle = (low + high) // 2
            if words[first + middle * width] < key[p]:
                low = middle + 1
            else:
                high = middle
        place[p] = low
        found[p] = low < count[owner[p]] and words[first + low * width] == key[p]


@JIT
def _literal(words, start, out, now, n):  # type: ignore[no-untyped-def]
    """Where to put n words that the new row has next and the old one does not have there."""
    if now[1] < 0:
        gap = now[2] - now[6]
        if now[5] >= 0 and gap <= _GAP:
            now[1] = now[5]
            out[now[1]] += (8 * gap) << 32
            for i in range(gap):
                out[now[0] + i] = words[start + now[6] + i]
            now[0] += gap
        else:
            now[1] = now[0]
            out[now[0]] = 8 * now[2]
            now[0] += 1
            now[3] += 1
    out[now[1]] += (8 * n) << 32
    now[0] += n
    now[2] += n
    return now[0] - n


@JIT
def _copy(words, start, first, n, out, now):  # type: ignore[no-untyped-def]
    """The new row goes on with n words of the old one, from its word `first` on."""
    if first == now[2] and not now[4]:
        if n > 0 and now[1] >= 0:
            now[1], now[5], now[6] = -1, now[1], now[2]
        now[2] += n
        return
    to = _literal(words, start, out, now, n)
    for i in range(n):
        out[to + i] = words[start + first + i]


@JIT
def _entries(  # type: ignore[no-untyped-def]
    words, floats, start, begin, count, width, oldest, low, high, place, known, key, t, v, out, out_floats, now
):
    """One user's entries: the touched ones anew, those too old not at all, the others as they are. Gives how many."""
    kept, entry = 0, 0
    for p in range(low, high + 1):
        until = place[p] if p < high else count
        while entry < until:
            if floats[begin + entry * width + 1] >= oldest:
                _copy(words, start, begin - start + entry * width, width, out, now)
                kept += 1
            entry += 1
        if p < high:
            to = _literal(words, start, out, now, width)
            out[to] = key[p]
            out_floats[to + 1] = t[p]
            for i in range(v.shape[1]):
                out_floats[to + 2 + i] = v[p, i]
            kept += 1
            if known[p]:
                entry += 1
    return kept


@JIT
def _clicks(words, start, begin, count, new, end, post, time, limit, out, now):  # type: ignore[no-untyped-def]
    """One user's clicks, newest first (ties: smaller post id first), at most `limit`. Gives how many."""
    old, kept = 0, 0
    while kept < limit and (old < count or new < end):
        at = begin + 2 * old
        if new < end and (
            old == count or time[new] > words[at + 1] or (time[new] == words[at + 1] and post[new] < words[at])
        ):
            to = _literal(words, start, out, now, 2)
            out[to] = post[new]
            out[to + 1] = time[new]
            new += 1
        else:
            _copy(words, start, at - start, 2, out, now)
            old += 1
        kept += 1
    return kept


@JIT
def _patch(  # type: ignore[no-untyped-def]
    words, floats, start, size, before, refresh_us, t, v, forgotten,
    topics, n_topics, topic_first, topic_place, topic_known, topic_key, topic_t, topic_v,
    authors, n_authors, author_first, author_place, author_known, author_key, author_t, author_v,
    clicks, n_clicks, click_first, click_post, click_time, clicks_kept,
    fingerprint, counts, out, out_floats, heads, begin,
):  # fmt: skip
    """All users' patches into `out`, their heads into `heads`, their first words and the end into `begin`."""
    # Next free word of `out`; first word of the patch that is being written, -1 when none is; words of the new row so
    # far; patches so far; whether the row is written whole; first word of the patch before, -1 without; its end in the
    # row.
    now = np.zeros(7, np.int64)
    for u in range(len(start)):
        first = now[0]
        begin[u] = first
        # A row that became shorter is written again, whole: Redis writes over a value and behind it, but cuts nothing.
        for whole in range(size[u] == 0, 2):
            now[0], now[1], now[2], now[3], now[4], now[5], now[6] = first, -1, 0, 0, whole, -1, 0
            head = _literal(words, start[u], out, now, counts + 3)
            out[head] = fingerprint
            out_floats[head + 1] = t[u]
            for i in range(v.shape[1]):
                out_floats[head + 2 + i] = v[u, i]
            oldest = t[u] - forgotten
            out[head + counts] = _entries(
                words, floats, start[u], topics[u], n_topics[u], 2 + topic_v.shape[1], oldest, topic_first[u],
                topic_first[u + 1], topic_place, topic_known, topic_key, topic_t, topic_v, out, out_floats, now,
            )  # fmt: skip
            out[head + counts + 1] = _entries(
                words, floats, start[u], authors[u], n_authors[u], 2 + author_v.shape[1], oldest, author_first[u],
                author_first[u + 1], author_place, author_known, author_key, author_t, author_v, out, out_floats, now,
            )  # fmt: skip
            out[head + counts + 2] = _clicks(
                words, start[u], clicks[u], n_clicks[u], click_first[u], click_first[u + 1], click_post, click_time,
                clicks_kept, out, now,
            )  # fmt: skip
            refresh = t[u] // refresh_us != before[u] // refresh_us
            heads[u, 0], heads[u, 1], heads[u, 2] = now[3], whole, refresh
            if 8 * now[2] >= size[u]:
                break
    begin[len(start)] = now[0]
