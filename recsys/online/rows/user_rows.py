"""Count a batch of events into users' rows, as patches of the rows before. Here a click becomes a counter.

Takes packed rows and the events that change them, gives `Patches`. A row has kilobytes; an event changes its header,
an entry or two and a click. Only those are unpacked, advanced by `features.decay.advance` and packed again; the rest
stays where it is. An entry is dropped when its last event is more than `FORGOTTEN` older than the row's newest, so rows
stay bounded. This module does not know where rows are read and written.

Letters: U users, M events, P entries that the batch changes, W words of all rows, A actions, H half-lives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.features import decay
from recsys.features.decay import JIT, States
from recsys.features.spec import USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.offline.logs.events import CLICK
from recsys.online.rows.byte_patches import Patches
from recsys.online.rows.counter_layout import FINGERPRINT, FORGOTTEN, REFRESHED, WORD, entry_width
from recsys.online.rows.events import CountedEvents
from recsys.online.rows.user_layout import CLICK_WIDTH, COUNTS, HEADER, user_words
from recsys.online.rows.user_merge import (
    ClickChanges,
    EntryChanges,
    MergeConstants,
    MergeOutput,
    OldRows,
    OwnCounters,
    merge_into_patches,
)
from recsys.types import Doubles, Ids, Mask


def advance_users(
    names: Sequence[bytes],
    rows: Sequence[bytes | None],
    events: CountedEvents,
    owner: Ids,
    clicks_kept: int,
) -> Patches:
    """Patches that bring these rows to their state after the events.

    Args:
        names: keys of the U rows, for error messages.
        rows: their values, None where there is none.
        owner: place in `names` of each event's user, (M,).
        clicks_kept: clicked posts to keep per user.
    Raises: DataError naming the row that is not valid.
    """
    # 1. All rows as words, (W,), and their headers, (U, HEADER).
    words, start, size = user_words(names, rows)
    old = OldRows(words, words.view(np.float64), start, size)
    head = words[start[:, None] + np.arange(HEADER)]
    # 2. The users' own counters: t (U,), v (U, A, H). Count all M events.
    t_before = old.floats[start + 1]
    v = np.ascontiguousarray(head[:, 2:COUNTS]).view(np.float64).reshape(len(size), *USER.shape)
    states = States(t_before.copy(), v)
    decay.advance(states, USER, owner, events.time, events.action)
    own = OwnCounters(t_before, states.t, _flat(states.v))
    # 3. Word where topics, authors and clicks of each row begin, (U,) each.
    # Contiguous also for many users: for another memory layout numba would compile again, and events would wait.
    n_topics, n_authors, n_clicks = np.ascontiguousarray(head[:, COUNTS:HEADER].T)
    topics_begin = start + HEADER
    authors_begin = topics_begin + n_topics * entry_width(USER_TOPIC)
    clicks_begin = authors_begin + n_authors * entry_width(USER_AUTHOR)
    # 4. Entries per (user, topic) and (user, author) that the batch changes.
    always = np.ones(len(events), bool)
    topics = _advance_entries(USER_TOPIC, words, topics_begin, n_topics, owner, events, events.topic_key, always)
    authors = _advance_entries(
        USER_AUTHOR, words, authors_begin, n_authors, owner, events, events.author_id, events.has_author
    )
    # 5. The batch's clicks, by user, newest first (ties: smaller post id first).
    clicked = np.flatnonzero(events.action == CLICK)
    clicked = clicked[np.lexsort((events.post_id[clicked], -events.time[clicked], owner[clicked]))]
    first = np.searchsorted(owner[clicked], np.arange(len(size) + 1))
    clicks = ClickChanges(clicks_begin, n_clicks, first, events.post_id[clicked], events.time[clicked])
    # 6. Room for the longest outcome: every row whole, every changed entry new, one word in front of every patch.
    room = int(
        size.sum() // WORD
        + len(size) * (HEADER + 1)
        + len(topics.key) * (entry_width(USER_TOPIC) + 1)
        + len(authors.key) * (entry_width(USER_AUTHOR) + 1)
        + len(clicked) * (CLICK_WIDTH + 1)
    )
    out_words = np.empty(room, np.int64)
    out = MergeOutput(
        out_words, out_words.view(np.float64), np.empty((len(size), 3), np.uint32), np.empty(len(size) + 1, np.int64)
    )
    # 7. Merge old rows and changes into patches.
    constants = MergeConstants(FINGERPRINT, COUNTS, FORGOTTEN, REFRESHED, clicks_kept)
    merge_into_patches(old, own, topics, authors, clicks, constants, out)
    return Patches(out.heads, out.words[: out.begin[-1]].tobytes(), WORD * out.begin)


def _flat(v: Doubles) -> Doubles:
    """Counts (n, A, H) as (n, A*H)."""
    return v.reshape(len(v), v.shape[1] * v.shape[2])


def _advance_entries(
    entity: Entity,
    words: Ids,
    begin: Ids,
    count: Ids,
    owner: Ids,
    events: CountedEvents,
    key: Ids,
    has_key: Mask,
) -> EntryChanges:
    """The entries of one kind that the batch changes, with their counters after it.

    Args:
        words: of all old rows, (W,).
        begin, count: word where each user's entries begin, and how many there are, (U,).
        owner, key, has_key: user place, key, and whether there is a key, of each event, (M,).
    """
    # 1. Events that this entity counts; sorted by user and key, each run of equal pairs is one entry: P in all.
    some = np.flatnonzero((entity.action_rows[events.action] >= 0) & has_key)
    owner, key = owner[some], key[some]
    order = np.lexsort((key, owner))
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(owner[order]) != 0) | (np.diff(key[order]) != 0)
    slot = np.empty(len(order), np.int64)  # of each event among the P entries
    slot[order] = np.cumsum(is_first) - 1
    kept = order[is_first]
    owner, key = owner[kept], key[kept]  # (P,)
    # 2. Find each entry in its old row, and take its counters over: t (P,), v (P, A, H); zeros where it is new.
    place, known = np.empty(len(key), np.int64), np.empty(len(key), bool)
    _find(words, begin, count, entry_width(entity), owner, key, place, known)
    states = States.zeros(len(key), entity)
    at = (begin[owner] + place * entry_width(entity))[known]
    body = words[at[:, None] + np.arange(1, entry_width(entity))].view(np.float64)
    states.t[known] = body[:, 0]
    states.v[known] = body[:, 1:].reshape(len(at), *entity.shape)
    # 3. Count the events into them.
    decay.advance(states, entity, slot, events.time[some], events.action[some])
    first = np.searchsorted(owner, np.arange(len(count) + 1))
    return EntryChanges(begin, count, first, place, known, key, states.t, _flat(states.v))


@JIT
def _find(words, begin, count, width, owner, key, place, known):  # type: ignore[no-untyped-def]
    """Binary search of each key among the old entries of its owner; fills `place` and `known`, (P,)."""
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
        known[p] = low < count[owner[p]] and words[first + low * width] == key[p]
