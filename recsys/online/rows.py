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
from functools import cache

import numpy as np

from recsys.errors import DataError
from recsys.features.decay import States
from recsys.features.spec import USER, USER_AUTHOR, USER_TOPIC, Entity, fingerprint
from recsys.types import Ids, Times

WORD = 8
FINGERPRINT = fingerprint()

_COUNTS = 2 + USER.shape[0] * USER.shape[1]
"""Word of a user row where its three numbers of entries begin."""
_HEADER = _COUNTS + 3


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
class Clicks:
    """Clicked posts inside user rows, user after user, newest first within each."""

    count: Ids
    """(U,)."""
    post_id: Ids
    """(M,)."""
    time: Times
    """Microseconds, (M,)."""


@dataclass(frozen=True)
class Users:
    """User rows as columns, U users."""

    states: States
    """The user's own counters, (U,)."""
    topics: Entries
    authors: Entries
    clicks: Clicks

    def part(self, start: int, stop: int) -> Users:
        """Users from `start` up to `stop`."""
        return Users(
            States(self.states.t[start:stop], self.states.v[start:stop]),
            _entries_part(self.topics, start, stop),
            _entries_part(self.authors, start, stop),
            Clicks(
                self.clicks.count[start:stop],
                self.clicks.post_id[_span(self.clicks.count, start, stop)],
                self.clicks.time[_span(self.clicks.count, start, stop)],
            ),
        )


def pack(entity: Entity, states: States) -> list[bytes]:
    """One value per row of `states`."""
    words = np.empty((len(states.t), _width(entity)), np.int64)
    words[:, 0] = FINGERPRINT
    _put(words[:, 1:], states)
    buffer, size = words.tobytes(), WORD * words.shape[1]
    return [buffer[at : at + size] for at in range(0, len(buffer), size)]


def unpack(entity: Entity, keys: Sequence[bytes], values: Sequence[bytes | None]) -> States:
    """Counters of these values, zeros where there is none, (len(values),).

    Raises: DataError naming the key whose fingerprint or length is not the expected one.
    """
    blank = _blank(entity)
    buffer = b"".join([blank if value is None else value for value in values])
    # Lengths that are wrong but add up are caught too: a shifted row has no fingerprint where one is looked for.
    if len(buffer) != len(blank) * len(values):
        raise _complaint(keys, values, lambda _: len(blank))
    words = np.frombuffer(buffer, np.int64).reshape(len(values), _width(entity))
    if (words[:, 0] != FINGERPRINT).any():
        raise _complaint(keys, values, lambda _: len(blank))
    return _get(entity, words[:, 1:])


def pack_users(users: Users) -> list[bytes]:
    """One value per user."""
    counts = [users.topics.count, users.authors.count, users.clicks.count]
    starts, size = _starts(counts)
    words = np.empty(int(size.sum()), np.int64)
    words[starts[0]] = FINGERPRINT
    head = np.empty((len(size), _HEADER - 1), np.int64)
    _put(head[:, : _COUNTS - 1], users.states)
    head[:, _COUNTS - 1 :] = np.stack(counts, axis=1)
    words[starts[0][:, None] + np.arange(1, _HEADER)] = head
    for entity, start, entries in ((USER_TOPIC, starts[1], users.topics), (USER_AUTHOR, starts[2], users.authors)):
        body = np.empty((len(entries.key), _width(entity)), np.int64)
        body[:, 0] = entries.key
        _put(body[:, 1:], entries.states)
        words[_places(start, entries.count, _width(entity))] = body
    words[_places(starts[3], users.clicks.count, 2)] = np.stack([users.clicks.post_id, users.clicks.time], axis=1)
    buffer, ends = words.tobytes(), WORD * np.cumsum(size)
    return [buffer[end - WORD * n : end] for end, n in zip(ends.tolist(), size.tolist(), strict=True)]


def unpack_users(keys: Sequence[bytes], values: Sequence[bytes | None]) -> Users:
    """Users of these values; one without a value has no counts and no clicks.

    Raises: DataError naming the key whose fingerprint or length is not the expected one.
    """
    filled = [_blank_user() if value is None else value for value in values]
    length = np.array([len(value) for value in filled], np.int64)
    if (length < WORD * _HEADER).any() or (length % WORD).any():
        raise _complaint(keys, values, _user_length)
    words = np.frombuffer(b"".join(filled), np.int64)
    first = (np.cumsum(length) - length) // WORD
    head = words[first[:, None] + np.arange(_HEADER)]
    counts = [head[:, _COUNTS + i] for i in range(3)]
    starts, size = _starts(counts)
    if (head[:, 0] != FINGERPRINT).any() or (head[:, _COUNTS:] < 0).any() or (WORD * size != length).any():
        raise _complaint(keys, values, _user_length)
    entries: list[Entries] = []
    for entity, start, count in ((USER_TOPIC, starts[1], counts[0]), (USER_AUTHOR, starts[2], counts[1])):
        body = words[_places(start, count, _width(entity))]
        entries.append(Entries(count, body[:, 0], _get(entity, body[:, 1:])))
    clicked = words[_places(starts[3], counts[2], 2)]
    topics, authors = entries
    return Users(_get(USER, head[:, 1:_COUNTS]), topics, authors, Clicks(counts[2], clicked[:, 0], clicked[:, 1]))


def newest_clicks(owner: Ids, post_id: Ids, time: Times, n_users: int, limit: int) -> Clicks:
    """Each user's newest clicks, at most `limit`, newest first (ties: smaller post id first).

    What is kept is the top of a fixed order, so neither the order of delivery nor earlier truncation changes it.
    """
    order = np.lexsort((post_id, -time, owner))
    count = np.bincount(owner, minlength=n_users)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    kept = order[rank < limit]
    return Clicks(np.minimum(count, limit), post_id[kept], time[kept])


def _width(entity: Entity) -> int:
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
        [np.full_like(topics, _HEADER), topics * _width(USER_TOPIC), authors * _width(USER_AUTHOR), clicks * 2], axis=1
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
    return np.array([FINGERPRINT, *[0] * (_HEADER - 1)], np.int64).tobytes()


def _user_length(value: bytes) -> int | None:
    """Bytes a user row with this header must have, None when the header itself is cut off."""
    if len(value) < WORD * _HEADER:
        return None
    counts = np.frombuffer(value, np.int64, 3, WORD * _COUNTS)
    widths = [_width(USER_TOPIC), _width(USER_AUTHOR), 2]
    return WORD * (_HEADER + sum(int(n) * width for n, width in zip(counts, widths, strict=True)))


def _complaint(
    keys: Sequence[bytes], values: Sequence[bytes | None], length: Callable[[bytes], int | None]
) -> DataError:
    """The error for the first row that is not as it must be."""
    remedy = "run `recsys train` to load the online store anew"
    for key, value in zip(keys, values, strict=True):
        if value is None:
            continue
        found = int.from_bytes(value[:WORD], "little", signed=True)
        if len(value) >= WORD and found != FINGERPRINT:
            return DataError(
                f"online row {key.decode()} must have the feature fingerprint {FINGERPRINT}, found {found}; {remedy}"
            )
        expected = length(value)
        if expected != len(value):
            wanted = f"at least {WORD * _HEADER}" if expected is None else expected
            return DataError(f"online row {key.decode()} must have {wanted} bytes, found {len(value)}; {remedy}")
    raise AssertionError("no row breaks a rule")
