"""The bytes of a user's row: counters, entries per topic and author, clicks; pack and unpack many users at once.

Takes and gives columns (`UserColumns`); knows nothing of Redis. Words are as in `counter_layout`.

    user   fingerprint | t | v (A*H) | n topics | n authors | n clicks
           | topics:  key, t, v (A*H), by key
           | authors: key, t, v (A*H), by key
           | clicks:  post_id, time, newest first

A user is one value, so one GET reads everything about a user and one SET replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from recsys.features.decay import States
from recsys.features.spec import USER, USER_AUTHOR, USER_TOPIC
from recsys.online.rows.counter_layout import (
    FINGERPRINT,
    WORD,
    Names,
    counts_fault,
    entry_width,
    fingerprint_fault,
    get_states,
    put_states,
    row_error,
)
from recsys.online.rows.validate import user_rows_are_valid
from recsys.online.stream.records import LATEST
from recsys.types import Ids, Times

COUNTS = 2 + USER.shape[0] * USER.shape[1]
"""Word of a user row that holds the number of topics; those of authors and clicks follow."""
HEADER = COUNTS + 3
"""Words of a user row before its entries."""
CLICK_WIDTH = 2
"""Words of a click: post id, time."""


@dataclass(frozen=True)
class Entries:
    """Counters inside user rows, user after user, ascending by key within each; M entries in all."""

    count: Ids
    """Entries of each user, (U,)."""
    key: Ids
    """Topic key or author id, (M,)."""
    states: States
    """(M,)."""

    def part(self, start: int, stop: int) -> Entries:
        """The entries of users from `start` up to `stop`."""
        span = _span(self.count, start, stop)
        return Entries(self.count[start:stop], self.key[span], States(self.states.t[span], self.states.v[span]))


@dataclass(frozen=True)
class ClickColumns:
    """Clicked posts inside user rows, user after user, newest first within each; M clicks in all."""

    count: Ids
    """Clicks of each user, (U,)."""
    post_id: Ids
    """(M,)."""
    time: Times
    """Microseconds, (M,)."""

    def part(self, start: int, stop: int) -> ClickColumns:
        """The clicks of users from `start` up to `stop`."""
        span = _span(self.count, start, stop)
        return ClickColumns(self.count[start:stop], self.post_id[span], self.time[span])


@dataclass(frozen=True)
class UserColumns:
    """User rows as columns, U users."""

    states: States
    """The user's own counters, (U,)."""
    topics: Entries
    authors: Entries
    clicks: ClickColumns

    def part(self, start: int, stop: int) -> UserColumns:
        """Users from `start` up to `stop`."""
        return UserColumns(
            States(self.states.t[start:stop], self.states.v[start:stop]),
            self.topics.part(start, stop),
            self.authors.part(start, stop),
            self.clicks.part(start, stop),
        )


def pack_users(users: UserColumns) -> list[bytes]:
    """One value per user."""
    # 1. Where each part of each row begins: four arrays (U,) into one buffer of W words.
    counts = [users.topics.count, users.authors.count, users.clicks.count]
    (header, topics, authors, clicks), size = _part_starts(counts)
    words = np.empty(int(size.sum()), np.int64)
    # 2. Headers, (U, HEADER): fingerprint, own counters, three counts.
    words[header] = FINGERPRINT
    head = np.empty((len(size), HEADER - 1), np.int64)
    put_states(head[:, : COUNTS - 1], users.states)
    head[:, COUNTS - 1 :] = np.stack(counts, axis=1)
    words[header[:, None] + np.arange(1, HEADER)] = head
    # 3. Entries of all users, (M, width): key, t, v.
    for entity, start, entries in ((USER_TOPIC, topics, users.topics), (USER_AUTHOR, authors, users.authors)):
        body = np.empty((len(entries.key), entry_width(entity)), np.int64)
        body[:, 0] = entries.key
        put_states(body[:, 1:], entries.states)
        words[_entry_words(start, entries.count, entry_width(entity))] = body
    # 4. Clicks of all users, (M, 2): post id, time.
    clicked = np.stack([users.clicks.post_id, users.clicks.time], axis=1)
    words[_entry_words(clicks, users.clicks.count, CLICK_WIDTH)] = clicked
    # 5. Cut the buffer into U values.
    buffer, ends = words.tobytes(), WORD * np.cumsum(size)
    return [buffer[end - WORD * n : end] for end, n in zip(ends.tolist(), size.tolist(), strict=True)]


def unpack_users(keys: Names, values: Sequence[bytes | None]) -> UserColumns:
    """The users of U values, empty ones where a value is None.

    Raises: DataError naming the key whose fingerprint, length or content breaks a rule.
    """
    # 1. All rows behind each other as words, (W,); `last` is the word behind each row, (U,).
    blank = _blank_user()
    filled = [blank if value is None else value for value in values]
    length = np.array([len(value) for value in filled], np.int64)
    if (length % WORD != 0).any():
        raise row_error(keys, values, _user_fault)
    words = np.frombuffer(b"".join(filled), np.int64)
    last = np.cumsum(length) // WORD
    # 2. Validate, in one pass.
    if not _are_valid(words, last):
        raise row_error(keys, values, _user_fault)
    if len(values) == 1:
        return _unpack_one_user(words)
    # 3. Headers, (U, HEADER), and from their counts where each part begins.
    head = words[(last - length // WORD)[:, None] + np.arange(HEADER)]
    counts = [head[:, COUNTS + i] for i in range(3)]
    (_, *starts, clicks), _ = _part_starts(counts)
    # 4. Gather entries, (M, width), and clicks, (M, 2).
    entries: list[Entries] = []
    for entity, start, count in zip((USER_TOPIC, USER_AUTHOR), starts, counts[:2], strict=True):
        body = words[_entry_words(start, count, entry_width(entity))]
        entries.append(Entries(count, body[:, 0], get_states(entity, body[:, 1:])))
    clicked = words[_entry_words(clicks, counts[2], CLICK_WIDTH)]
    topics, authors = entries
    return UserColumns(
        get_states(USER, head[:, 1:COUNTS]), topics, authors, ClickColumns(counts[2], clicked[:, 0], clicked[:, 1])
    )


def _unpack_one_user(words: Ids) -> UserColumns:
    """`unpack_users` of one row, in a third of the time: slices instead of gathers."""
    counts = words[COUNTS:HEADER]
    widths = (entry_width(USER_TOPIC), entry_width(USER_AUTHOR), CLICK_WIDTH)
    ends = np.cumsum([HEADER, *(counts * widths)])
    topics, authors, clicks = (
        words[start:stop].reshape(-1, width) for start, stop, width in zip(ends[:-1], ends[1:], widths, strict=True)
    )
    return UserColumns(
        get_states(USER, words[None, 1:COUNTS]),
        Entries(counts[:1], topics[:, 0], get_states(USER_TOPIC, topics[:, 1:])),
        Entries(counts[1:2], authors[:, 0], get_states(USER_AUTHOR, authors[:, 1:])),
        ClickColumns(counts[2:], clicks[:, 0], clicks[:, 1]),
    )


def user_words(keys: Names, values: Sequence[bytes | None]) -> tuple[Ids, Ids, Ids]:
    """Validated user rows as words, for callers that change parts of them.

    Returns: the words of all rows, (W,); the word where each row begins, (U,); its size in bytes, (U,). An absent row
    has size 0 and points at `HEADER` zeros behind all rows.
    Raises: as `unpack_users`.
    """
    size = np.array([0 if value is None else len(value) for value in values], np.int64)
    present = np.flatnonzero([value is not None for value in values])
    buffer = b"".join([value for value in values if value is not None])
    if (size % WORD != 0).any():
        raise row_error(keys, values, _user_fault)
    words = np.concatenate([np.frombuffer(buffer, np.int64), np.zeros(HEADER, np.int64)])
    last = np.cumsum(size) // WORD
    if not _are_valid(words, last[present]):
        raise row_error(keys, values, _user_fault)
    start = np.full(len(size), len(words) - HEADER)
    start[present] = (last - size // WORD)[present]
    return words, start, size


def newest_clicks(owner: Ids, post_id: Ids, time: Times, n_users: int, limit: int) -> ClickColumns:
    """Each user's newest clicks, at most `limit`, newest first (ties: smaller post id first).

    The top of a fixed order is kept, so neither the order of delivery nor earlier truncation changes the result.
    """
    order = np.lexsort((post_id, -time, owner))
    count = np.bincount(owner, minlength=n_users)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    kept = order[rank < limit]
    return ClickColumns(np.minimum(count, limit), post_id[kept], time[kept])


def _are_valid(words: Ids, last: Ids) -> bool:
    widths = (entry_width(USER_TOPIC), entry_width(USER_AUTHOR))
    return bool(user_rows_are_valid(words, words.view(np.float64), last, COUNTS, *widths, FINGERPRINT, float(LATEST)))


def _part_starts(counts: list[Ids]) -> tuple[list[Ids], Ids]:
    """Word where each user's header, topics, authors and clicks begin, four times (U,); and each user's words, (U,)."""
    topics, authors, clicks = counts
    parts = np.stack(
        [
            np.full_like(topics, HEADER),
            topics * entry_width(USER_TOPIC),
            authors * entry_width(USER_AUTHOR),
            clicks * CLICK_WIDTH,
        ],
        axis=1,
    )
    ends = np.cumsum(parts.ravel()).reshape(parts.shape)
    return list((ends - parts).T), parts.sum(axis=1)


def _entry_words(start: Ids, count: Ids, width: int) -> Ids:
    """Words of all entries, when the entries of user u begin at `start[u]`, (sum(count), width)."""
    earlier = np.cumsum(count) - count
    first = np.repeat(start - width * earlier, count) + width * np.arange(int(count.sum()))
    return np.asarray(first[:, None] + np.arange(width))


def _span(count: Ids, start: int, stop: int) -> slice:
    """Entries of users from `start` up to `stop`."""
    return slice(int(count[:start].sum()), int(count[:stop].sum()))


@cache
def _blank_user() -> bytes:
    return np.array([FINGERPRINT, *[0] * (HEADER - 1)], np.int64).tobytes()


def _user_fault(value: bytes) -> str | None:
    """The rule that this row of a user breaks, None when it is valid."""
    if (fault := fingerprint_fault(value)) is not None:
        return fault
    if len(value) < WORD * HEADER:
        return f"must have at least {WORD * HEADER} bytes, found {len(value)}"
    counts = [int(n) for n in np.frombuffer(value, np.int64, 3, WORD * COUNTS)]
    widths = (entry_width(USER_TOPIC), entry_width(USER_AUTHOR), CLICK_WIDTH)
    size = WORD * (HEADER + sum(n * width for n, width in zip(counts, widths, strict=True)))
    if min(counts) < 0 or len(value) != size:
        stated = "{} topics, {} authors and {} clicks".format(*counts)
        return f"must have {size} bytes for the {stated} in its header, found {len(value)}"
    words = np.frombuffer(value, np.int64)
    if (fault := counts_fault("its own", words[None, 1:COUNTS].view(np.float64))) is not None:
        return fault
    at = HEADER
    for name, n, width in zip(("topic", "author"), counts, widths, strict=False):
        entries = words[at : at + n * width].reshape(n, width)
        at += n * width
        if (fault := counts_fault(f"its {name}s'", entries[:, 1:].view(np.float64))) is not None:
            return fault
        if (np.diff(entries[:, 0]) <= 0).any():
            return f"must list each {name} once, by rising key, found {name}s out of order"
    time = words[at:].reshape(-1, CLICK_WIDTH)[:, 1]
    if ((time < 0) | (time > LATEST)).any():
        wrong = time[(time < 0) | (time > LATEST)][0]
        return f"must hold clicks between 1970 and 2169, found one at {wrong} microseconds"
    if (np.diff(time) > 0).any():
        return "must list clicks newest first, found a newer one behind an older one"
    return None
