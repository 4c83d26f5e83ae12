"""Packed rows: the bytes of one Redis value to arrays and back, many rows at a time.

Takes and gives `features.decay.States`; knows nothing of Redis. Everything is little-endian and eight bytes wide, so a
row is an array of words. Every row begins with `features.spec.fingerprint()`: a reader never guesses at rows written
under another definition.

    post, author, topic   fingerprint | t | v (A*H)
    user                  fingerprint | t | v (A*H) | n topics | n authors | n clicks
                          | topics:  key, t, v (A*H), by key
                          | authors: key, t, v (A*H), by key
                          | clicks:  post_id, time, newest first

A user is one value, so that one GET brings everything known about a user and one SET replaces it whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from recsys.errors import DataError
from recsys.features.decay import States
from recsys.features.spec import ENTITIES, USER, USER_AUTHOR, USER_TOPIC, Entity, fingerprint
from recsys.online.rows.validate import rows_are_sound, users_are_sound
from recsys.online.stream.records import LATEST
from recsys.types import DAY, Ids, Times

FORGOTTEN = 40 * max(max(entity.half_lives) for entity in ENTITIES)
"""Microseconds after which a row or an entry counts as gone, 40 weeks: of a count 2^-40 is left, a millionth of a
millionth, which no tolerance between batch and stream can see."""

REFRESHED = DAY
"""Microseconds: a row's lifetime begins anew with its first event of a day. With every event it would be one more
command each time."""

WORD = 8
FINGERPRINT = fingerprint()

Names = Sequence[bytes] | Callable[[], Sequence[bytes]]
"""Keys of rows, which only an error names; a function where making them costs time."""

COUNTS = 2 + USER.shape[0] * USER.shape[1]
"""Word of a user row where its three numbers of entries begin."""
HEADER = COUNTS + 3
"""Words of a user row before its entries."""


@dataclass(frozen=True)
class Entries:
    """Counters inside user rows, user after user, ascending by key within each."""

    count: Ids
    """Entries of each user, (U,)."""
    key: Ids
    """Topic key or author id, (M,)."""
    states: States
    """(M,)."""


@dataclass(frozen=True)
class ClickColumns:
    """Clicked posts inside user rows, user after user, newest first within each."""

    count: Ids
    """(U,)."""
    post_id: Ids
    """(M,)."""
    time: Times
    """Microseconds, (M,)."""


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
            _entries_part(self.topics, start, stop),
            _entries_part(self.authors, start, stop),
            ClickColumns(
                self.clicks.count[start:stop],
                self.clicks.post_id[_span(self.clicks.count, start, stop)],
                self.clicks.time[_span(self.clicks.count, start, stop)],
            ),
        )


def pack(entity: Entity, states: States) -> list[bytes]:
    """One value per row of `states`."""
    words = pack_words(entity, states)
    buffer, size = words.tobytes(), WORD * words.shape[1]
    return [buffer[at : at + size] for at in range(0, len(buffer), size)]


def pack_words(entity: Entity, states: States) -> Ids:
    """The words of `pack`, a row of the array each, (n, `entry_width`)."""
    words = np.empty((len(states.t), entry_width(entity)), np.int64)
    words[:, 0] = FINGERPRINT
    _put(words[:, 1:], states)
    return words


def unpack(entity: Entity, keys: Names, values: Sequence[bytes | None]) -> States:
    """Counters of these values, zeros where there is none, (len(values),).

    Raises: DataError naming the key whose fingerprint, length, time or counts are not as they must be.
    """
    blank = _blank(entity)
    buffer = b"".join([blank if value is None else value for value in values])
    # Lengths that are wrong but add up are caught too: a shifted row has no fingerprint where one is looked for.
    if len(buffer) != len(blank) * len(values):
        raise _complaint(keys, values, partial(_row_fault, entity))
    words = np.frombuffer(buffer, np.int64)
    if not rows_are_sound(words, words.view(np.float64), entry_width(entity), FINGERPRINT, float(LATEST)):
        raise _complaint(keys, values, partial(_row_fault, entity))
    return _get(entity, words.reshape(len(values), entry_width(entity))[:, 1:])


def pack_users(users: UserColumns) -> list[bytes]:
    """One value per user."""
    counts = [users.topics.count, users.authors.count, users.clicks.count]
    starts, size = _starts(counts)
    words = np.empty(int(size.sum()), np.int64)
    words[starts[0]] = FINGERPRINT
    head = np.empty((len(size), HEADER - 1), np.int64)
    _put(head[:, : COUNTS - 1], users.states)
    head[:, COUNTS - 1 :] = np.stack(counts, axis=1)
    words[starts[0][:, None] + np.arange(1, HEADER)] = head
    for entity, start, entries in ((USER_TOPIC, starts[1], users.topics), (USER_AUTHOR, starts[2], users.authors)):
        body = np.empty((len(entries.key), entry_width(entity)), np.int64)
        body[:, 0] = entries.key
        _put(body[:, 1:], entries.states)
        words[_places(start, entries.count, entry_width(entity))] = body
    words[_places(starts[3], users.clicks.count, 2)] = np.stack([users.clicks.post_id, users.clicks.time], axis=1)
    buffer, ends = words.tobytes(), WORD * np.cumsum(size)
    return [buffer[end - WORD * n : end] for end, n in zip(ends.tolist(), size.tolist(), strict=True)]


def unpack_users(keys: Names, values: Sequence[bytes | None]) -> UserColumns:
    """Users of these values, empty ones where there is none.

    Raises: DataError naming the key whose fingerprint, length or content is not as it must be.
    """
    blank = _blank_user()
    filled = [blank if value is None else value for value in values]
    length = np.array([len(value) for value in filled], np.int64)
    if (length % WORD != 0).any():
        raise _complaint(keys, values, _user_fault)
    words = np.frombuffer(b"".join(filled), np.int64)
    last = np.cumsum(length) // WORD
    widths = (COUNTS, entry_width(USER_TOPIC), entry_width(USER_AUTHOR))
    if not users_are_sound(words, words.view(np.float64), last, *widths, FINGERPRINT, float(LATEST)):
        raise _complaint(keys, values, _user_fault)
    if len(values) == 1:
        return _one_user(words)
    head = words[(last - length // WORD)[:, None] + np.arange(HEADER)]
    counts = [head[:, COUNTS + i] for i in range(3)]
    starts, _ = _starts(counts)
    entries: list[Entries] = []
    for entity, start, count in ((USER_TOPIC, starts[1], counts[0]), (USER_AUTHOR, starts[2], counts[1])):
        body = words[_places(start, count, entry_width(entity))]
        entries.append(Entries(count, body[:, 0], _get(entity, body[:, 1:])))
    clicked = words[_places(starts[3], counts[2], 2)]
    topics, authors = entries
    return UserColumns(
        _get(USER, head[:, 1:COUNTS]), topics, authors, ClickColumns(counts[2], clicked[:, 0], clicked[:, 1])
    )


def _one_user(words: Ids) -> UserColumns:
    """What `unpack_users` makes of one row, in a third of the time: nothing has to be gathered."""
    counts = words[COUNTS:HEADER]
    widths = (entry_width(USER_TOPIC), entry_width(USER_AUTHOR), 2)
    ends = np.cumsum([HEADER, *(counts * widths)])
    topics, authors, clicks = (
        words[start:stop].reshape(-1, width) for start, stop, width in zip(ends[:-1], ends[1:], widths, strict=True)
    )
    return UserColumns(
        _get(USER, words[None, 1:COUNTS]),
        Entries(counts[:1], topics[:, 0], _get(USER_TOPIC, topics[:, 1:])),
        Entries(counts[1:2], authors[:, 0], _get(USER_AUTHOR, authors[:, 1:])),
        ClickColumns(counts[2:], clicks[:, 0], clicks[:, 1]),
    )


def user_words(keys: Names, values: Sequence[bytes | None]) -> tuple[Ids, Ids, Ids]:
    """Rows of users as they are, for whoever changes a part of them.

    Returns: the words of all, the word where each row begins, and its bytes, 0 where there is none: such a user has the
    words of nobody.
    Raises: as `unpack_users`.
    """
    size = np.array([0 if value is None else len(value) for value in values], np.int64)
    present = np.flatnonzero([value is not None for value in values])
    buffer = b"".join([value for value in values if value is not None])
    if (size % WORD != 0).any():
        raise _complaint(keys, values, _user_fault)
    words = np.concatenate([np.frombuffer(buffer, np.int64), np.zeros(HEADER, np.int64)])
    last = np.cumsum(size) // WORD
    widths = (COUNTS, entry_width(USER_TOPIC), entry_width(USER_AUTHOR))
    if not users_are_sound(words, words.view(np.float64), last[present], *widths, FINGERPRINT, float(LATEST)):
        raise _complaint(keys, values, _user_fault)
    start = np.full(len(size), len(words) - HEADER)
    start[present] = (last - size // WORD)[present]
    return words, start, size


def newest_clicks(owner: Ids, post_id: Ids, time: Times, n_users: int, limit: int) -> ClickColumns:
    """Each user's newest clicks, at most `limit`, newest first (ties: smaller post id first).

    What is kept is the top of a fixed order, so neither the order of delivery nor earlier truncation changes it.
    """
    order = np.lexsort((post_id, -time, owner))
    count = np.bincount(owner, minlength=n_users)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    kept = order[rank < limit]
    return ClickColumns(np.minimum(count, limit), post_id[kept], time[kept])


def entry_width(entity: Entity) -> int:
    """Words of one plain row, or of one entry of a user row: the fingerprint or key, t, v."""
    return 2 + entity.shape[0] * entity.shape[1]


def _put(words: np.ndarray, states: States) -> None:
    floats = words.view(np.float64)
    floats[:, 0] = states.t
    floats[:, 1:] = states.v.reshape(len(words), words.shape[1] - 1)


def _get(entity: Entity, words: np.ndarray) -> States:
    # Copies: the kernels are compiled for arrays that are contiguous and writable.
    floats = words.view(np.float64)
    v = np.array(floats[:, 1:], order="C").reshape(len(words), *entity.shape)
    return States(np.array(floats[:, 0], order="C"), v)


def _starts(counts: list[Ids]) -> tuple[list[Ids], Ids]:
    """Word where each user's header, topics, authors and clicks begin, and each user's words."""
    topics, authors, clicks = counts
    parts = np.stack(
        [
            np.full_like(topics, HEADER),
            topics * entry_width(USER_TOPIC),
            authors * entry_width(USER_AUTHOR),
            clicks * 2,
        ],
        axis=1,
    )
    ends = np.cumsum(parts.ravel()).reshape(parts.shape)
    return list((ends - parts).T), parts.sum(axis=1)


def _places(start: Ids, count: Ids, width: int) -> Ids:
    """Word of each field of each entry, when user u's entries begin at `start[u]`, (sum(count), width)."""
    earlier = np.cumsum(count) - count
    first = np.repeat(start - width * earlier, count) + width * np.arange(int(count.sum()))
    return np.asarray(first[:, None] + np.arange(width))


def _span(count: Ids, start: int, stop: int) -> slice:
    return slice(int(count[:start].sum()), int(count[:stop].sum()))


def _entries_part(entries: Entries, start: int, stop: int) -> Entries:
    span = _span(entries.count, start, stop)
    states = States(entries.states.t[span], entries.states.v[span])
    return Entries(entries.count[start:stop], entries.key[span], states)


@cache
def _blank(entity: Entity) -> bytes:
    return pack(entity, States.zeros(1, entity))[0]


@cache
def _blank_user() -> bytes:
    return np.array([FINGERPRINT, *[0] * (HEADER - 1)], np.int64).tobytes()


def _row_fault(entity: Entity, value: bytes) -> str | None:
    """The rule that this row of a post, author or topic breaks, None when it is sound."""
    size = WORD * entry_width(entity)
    if (fault := _fingerprint_fault(value)) is not None:
        return fault
    if len(value) != size:
        return f"must have {size} bytes, found {len(value)}"
    return _counts_fault("its", np.frombuffer(value, np.float64, offset=WORD)[None])


def _user_fault(value: bytes) -> str | None:
    """The rule that this row of a user breaks, None when it is sound."""
    if (fault := _fingerprint_fault(value)) is not None:
        return fault
    if len(value) < WORD * HEADER:
        return f"must have at least {WORD * HEADER} bytes, found {len(value)}"
    counts = [int(n) for n in np.frombuffer(value, np.int64, 3, WORD * COUNTS)]
    widths = (entry_width(USER_TOPIC), entry_width(USER_AUTHOR), 2)
    size = WORD * (HEADER + sum(n * width for n, width in zip(counts, widths, strict=True)))
    if min(counts) < 0 or len(value) != size:
        told = "{} topics, {} authors and {} clicks".format(*counts)
        return f"must have {size} bytes to hold the {told} it names, found {len(value)}"
    words = np.frombuffer(value, np.int64)
    if (fault := _counts_fault("its own", words[None, 1:COUNTS].view(np.float64))) is not None:
        return fault
    at = HEADER
    for name, n, width in zip(("topic", "author"), counts, widths, strict=False):
        entries = words[at : at + n * width].reshape(n, width)
        at += n * width
        if (fault := _counts_fault(f"its {name}s'", entries[:, 1:].view(np.float64))) is not None:
            return fault
        if (np.diff(entries[:, 0]) <= 0).any():
            return f"must list each {name} once, by rising key, found {name}s out of order"
    time = words[at:].reshape(-1, 2)[:, 1]
    if ((time < 0) | (time > LATEST)).any():
        wrong = time[(time < 0) | (time > LATEST)][0]
        return f"must hold clicks between 1970 and 2169, found one at {wrong} microseconds"
    if (np.diff(time) > 0).any():
        return "must list clicks newest first, found a newer one behind an older one"
    return None


def _fingerprint_fault(value: bytes) -> str | None:
    found = int.from_bytes(value[:WORD], "little", signed=True)
    if len(value) < WORD or found == FINGERPRINT:
        return None
    return f"must have the feature fingerprint {FINGERPRINT}, found {found}"


def _counts_fault(whose: str, lines: np.ndarray) -> str | None:
    """`lines`: t and the counts, (n, 1 + A*H)."""
    t, v = lines[:, 0], lines[:, 1:]
    if not (good := (t >= 0) & (t <= LATEST)).all():
        return f"must have {whose} time between 1970 and 2169, found {t[~good][0]} microseconds"
    if not (good := (v >= 0) & (v < np.inf)).all():
        return f"must have {whose} counts finite and >= 0, found {v[~good][0]}"
    return None


def _complaint(keys: Names, values: Sequence[bytes | None], fault: Callable[[bytes], str | None]) -> DataError:
    """The error for the first row that is not as it must be."""
    for key, value in zip(keys() if callable(keys) else keys, values, strict=True):
        if value is not None and (broken := fault(value)) is not None:
            return DataError(f"online row {key.decode()} {broken}; run `recsys train` to load the online store anew")
    raise AssertionError("no row breaks a rule")
