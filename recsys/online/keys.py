"""Names of everything kept in Redis.

Rows of counters live under a generation (`recsys:g:<number>:`), because a batch load replaces all of them at once. What
a user was already sent, the stream, its deduplication marks and the clock do not: no batch load can rebuild them. It
does not know what the values hold.

Keys are made of outside ids, never of dense rows: rows change with every catalogue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.offline.catalogue import Catalogue
from recsys.types import Ids

CURRENT = b"recsys:current"
"""Number of the generation that is read and written now."""
NEWEST = b"recsys:newest"
"""Last generation number handed out."""
STREAM = b"recsys:stream"
TRIMMED = b"recsys:stream:trimmed"
"""Records up to this stream id may be gone."""
DEAD_LETTERS = b"recsys:dead_letters"
LAKE_LOCK = b"recsys:lake_lock"
CLOCK = b"recsys:clock"

GENERATIONS = b"recsys:g:"
EVERYTHING = b"recsys:*"


def returned(user_id: int) -> bytes:
    """Sorted set: what this user was sent, scored by time."""
    return b"recsys:returned:%d" % user_id


def seen_event(event_id: int) -> bytes:
    return b"recsys:event:%d" % event_id


def seen_request(request_id: int) -> bytes:
    return b"recsys:request:%d" % request_id


def topic_keys(catalogue: Catalogue) -> Ids:
    """What a topic's counters are kept under, by topic row plus one; 0 stands for a missing topic, (T + 1,)."""
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
        """Keys of post, author, topic or user rows."""
        prefix = b"%b%b:" % (self.prefix, entity.encode())
        return [b"%b%d" % (prefix, number) for number in ids.tolist()]

    def trending(self, language: str | None) -> bytes:
        """Sorted set of one language's clicked posts; None: of all."""
        return self.prefix + (b"trending" if language is None else b"trending:" + language.encode())
