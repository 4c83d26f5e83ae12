"""The keys of everything kept in Redis.

Rows of counters live under a generation (`recsys:g:<number>:`), because a batch load replaces all of them at once. What
a user was already sent, the stream, its deduplication marks and the clock live outside: no batch load can rebuild them.
This module does not know what the values hold.

Keys contain outside ids, never dense rows, because rows change with every catalogue. Keys of rows have a fixed width:
one array operation makes hundreds of them, and people can still read them: `recsys:g:3:post:000000000000006b`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.types import Ids

CURRENT = b"recsys:current"
"""Number of the generation that is read and written now."""
NEWEST = b"recsys:newest"
"""Last generation number handed out."""
STREAM = b"recsys:stream"
TRIMMED = b"recsys:stream:trimmed"
"""Records up to this stream id may be gone."""
DEAD_LETTERS = b"recsys:dead_letters"
DEAD_LETTERS_EVER = b"recsys:dead_letters:ever"
"""How many dead letters there ever were; the stream keeps the newest."""
HOLDS = b"recsys:stream:holds"
"""Sorted set of stream positions that must not be trimmed: `<name> <stream id>`, scored by when the hold ends, ms."""
POST_CHANGES = b"recsys:post_changes"
"""Stream of posts that were added, changed or deleted."""
LAKE_LOCK = b"recsys:lake_lock"
LAKE_REACHED = b"recsys:lake_reached"
"""Last stream id in the lake, as the consumer last saw it; for measuring the lag without access to the lake."""
CLOCK = b"recsys:clock"
ERASED = b"recsys:erased"
"""Hash: decimal user id to the moment of erasure, decimal microseconds of the service's clock."""
ERASED_VERSION = b"recsys:erased:version"
"""Counter of erasures, raised after the hash is written and before anything is removed."""

GENERATIONS = b"recsys:g:"
EVERYTHING = b"recsys:*"

_DIGITS = 16
_HEX = np.frombuffer(b"".join(b"%02x" % byte for byte in range(256)), np.uint16)
"""Both digits of each byte, (256,)."""


def returned(user_id: int) -> bytes:
    """Sorted set: the posts this user was sent, scored by time."""
    return b"recsys:returned:%d" % user_id


def seen_event(event_id: int) -> bytes:
    return b"recsys:event:%d" % event_id


def seen_request(request_id: int) -> bytes:
    return b"recsys:request:%d" % request_id


def topic_keys(catalogue: Catalogue) -> Ids:
    """Key of each topic's counters, by topic row plus one; 0 stands for a missing topic, (T + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), catalogue.topic_keys])


class Generation(NamedTuple):
    """Keys of one generation."""

    number: int

    @property
    def prefix(self) -> bytes:
        return b"%b%d:" % (GENERATIONS, self.number)

    @property
    def applied(self) -> bytes:
        """Last stream id these rows reflect."""
        return self.prefix + b"applied"

    @property
    def origin(self) -> bytes:
        """Moment at which a click adds 1 to a trending score, microseconds."""
        return self.prefix + b"origin"

    def rows(self, entity: str, ids: Ids) -> list[bytes]:
        """Keys of post, author, topic or user rows, all of one length: the id is 16 hexadecimal digits."""
        prefix = self._prefix_of(entity)
        names = _numbered(prefix, ids, b"")
        return np.frombuffer(names, f"S{len(prefix) + _DIGITS}").tolist() if names else []

    def packed_rows(self, entity: str, ids: Ids) -> bytes:
        """The keys of `rows`, packed as by `packed`.

        Equal lengths allow one array operation: 1,000 keys cost 0.03 ms; formatting and packing each costs 0.3 ms.
        """
        prefix = self._prefix_of(entity)
        return bytes(_numbered(b"$%d\r\n%b" % (len(prefix) + _DIGITS, prefix), ids, b"\r\n"))

    def trending(self, language: str | None) -> bytes:
        """Sorted set of one language's clicked posts; None: of all languages."""
        return self.prefix + (b"trending" if language is None else b"trending:" + language.encode())

    def _prefix_of(self, entity: str) -> bytes:
        return b"%b%b:" % (self.prefix, entity.encode())


def packed(words: Sequence[bytes]) -> bytes:
    """Words of a command in Redis' protocol: each with its length before it and a line end behind it."""
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def _numbered(before: bytes, ids: Ids, after: bytes) -> bytearray:
    """`before`, id, `after`, once per id. A negative id is written as its two's complement."""
    start, length = len(before), len(before) + _DIGITS + len(after)
    text = bytearray((before + bytes(_DIGITS) + after) * len(ids))
    digits = _HEX.take(ids.astype(">i8").view(np.uint8)).view(np.uint8)
    np.frombuffer(text, np.uint8).reshape(-1, length)[:, start : start + _DIGITS] = digits.reshape(-1, _DIGITS)
    return text
