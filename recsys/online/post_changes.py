"""Posts that come, change and go, as a stream of their own that every worker follows by its own reading position.

Takes a post's id with its vector and language, or the word that it is gone; gives them back in order with their
positions. A consumer group would split changes among workers, and each of them must hear all. It does not know who
searches the vectors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import redis

from recsys.errors import DataError
from recsys.online.commands import send
from recsys.online.keys import POST_CHANGES
from recsys.online.stream import position
from recsys.types import Floats

START = "0-0"
"""The position before every change."""


class PostChange(NamedTuple):
    """A post as it is from this position on."""

    position: str
    post_id: int
    vector: Floats | None
    """(D,) float32; None: the post is gone."""
    language: int = -1
    """Row of the language in the catalogue, -1 unknown."""


class PostChanges:
    """A Redis stream, as durable as the event stream."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def append(self, post_id: int, vector: Floats | None, language: int = -1) -> str:
        """Tell everyone; gives the change's position.

        Raises: DependencyError when Redis fails, DataError when its key holds another type.
        """
        words: list[Any] = [b"post_id", post_id, b"language", language]
        if vector is not None:
            words += [b"vector", np.ascontiguousarray(vector, np.float32).tobytes()]
        told: bytes = send(self._client, "XADD", POST_CHANGES, "*", *words)
        return told.decode()

    def read(self, after: str, count: int = 1000, block_ms: int = 0) -> list[PostChange]:
        """The next changes after a position, at most `count`; waits up to `block_ms` when there is none."""
        if block_ms:
            # XREAD only waits here; reading by XRANGE alone keeps one way of reading.
            send(self._client, "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", POST_CHANGES, after)
        entries = send(self._client, "XRANGE", POST_CHANGES, f"({after}", "+", "COUNT", count)
        return [_decoded(name, fields) for name, fields in entries]

    def trim(self, before: str) -> int:
        """Forget changes before a position that every segment in use has passed; gives how many."""
        return int(send(self._client, "XTRIM", POST_CHANGES, "MINID", before))


def _decoded(name: bytes, fields: dict[bytes, bytes]) -> PostChange:
    try:
        vector = fields.get(b"vector")
        numbers = None if vector is None else np.frombuffer(vector, np.float32)
        return PostChange(name.decode(), int(fields[b"post_id"]), numbers, int(fields[b"language"]))
    except (KeyError, ValueError) as error:
        raise DataError(
            f"change {name.decode()} of {POST_CHANGES.decode()} must have post_id, language and, unless the post is "
            f"gone, a float32 vector, got {sorted(key.decode() for key in fields)} ({error}); remove it with XDEL"
        ) from None


def is_after(one: str, other: str) -> bool:
    """Whether a position comes later in the stream than another."""
    return position(one) > position(other)
