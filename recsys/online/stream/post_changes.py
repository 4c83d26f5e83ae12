"""The stream of added, changed and deleted posts. Every worker follows it by its own position.

Takes a post's id with its vector and language, or with no vector when it is deleted; gives changes in order with their
positions. There is no consumer group, because that would split changes among workers and each worker needs all. This
module does not know who searches the vectors.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import redis

from recsys.errors import DataError
from recsys.online.connection.commands import send
from recsys.online.keys import POST_CHANGES
from recsys.online.stream.log import position
from recsys.types import Floats

log = logging.getLogger(__name__)

START = "0-0"
"""The position before every change."""
NO_POST = -1
"""Pads answers; also the post of a change that cannot be read."""


class PostChange(NamedTuple):
    """The state of a post from this position on."""

    position: str
    post_id: int
    vector: Floats | None
    """(D,) float32; None: the post is deleted."""
    language: int = -1
    """Row of the language in the catalogue, -1 unknown."""

    def check(self, size: int) -> None:
        """Raises: DataError when an index of vectors with `size` dimensions cannot hold it."""
        for name, value, bits in (("id", self.post_id, 64), ("language", self.language, 32)):
            if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
                raise DataError(f"the {name} of a post must be a number of {bits} bits, got {value}; send it again")
        if self.vector is None:
            return
        if self.post_id == NO_POST:
            raise DataError(f"the id of a post must not be {NO_POST}, which stands for no post; give it another id")
        if self.vector.shape != (size,):
            raise DataError(
                f"post {self.post_id} must have a vector of {size} dimensions, got shape {self.vector.shape}; "
                "use the post tower of the release that serves"
            )
        with np.errstate(over="ignore"):
            numbers = self.vector.astype(np.float32)
        if len(bad := numbers[~np.isfinite(numbers)]):
            raise DataError(f"post {self.post_id} must have a finite vector, got {bad[0]} in it; send it again")


class PostChanges:
    """A Redis stream, as durable as the event stream."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def append(self, post_id: int, vector: Floats | None, language: int = -1) -> str:
        """Append a change; gives its position.

        Raises: DependencyError when Redis fails, DataError when its key holds another type.
        """
        words: list[Any] = [b"post_id", post_id, b"language", language]
        if vector is not None:
            words += [b"vector", np.ascontiguousarray(vector, np.float32).tobytes()]
        position: bytes = send(self._client, "XADD", POST_CHANGES, "*", *words)
        return position.decode()

    def read(self, after: str, count: int = 1000, block_ms: int = 0) -> list[PostChange]:
        """The next changes after a position, at most `count`; waits up to `block_ms` when there is none.

        A change that cannot be read comes as a change of `NO_POST`, so that readers get past it; the log says why.
        """
        if block_ms:
            # XREAD only waits; XRANGE reads, here and everywhere.
            send(self._client, "XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", POST_CHANGES, after)
        entries = send(self._client, "XRANGE", POST_CHANGES, f"({after}", "+", "COUNT", count)
        return [_decoded(name, fields) for name, fields in entries]

    def trim(self, before: str) -> int:
        """Drop changes before a position that every segment in use has passed; gives how many."""
        return int(send(self._client, "XTRIM", POST_CHANGES, "MINID", before))


def _decoded(name: bytes, fields: dict[bytes, bytes]) -> PostChange:
    try:
        vector = fields.get(b"vector")
        numbers = None if vector is None else np.frombuffer(vector, np.float32)
        return PostChange(name.decode(), int(fields[b"post_id"]), numbers, int(fields[b"language"]))
    except (KeyError, ValueError) as error:
        log.warning(
            "change %s of %s must have post_id, language and, unless it deletes the post, a float32 vector, got %s "
            "(%s); it is skipped",
            name.decode(), POST_CHANGES.decode(), sorted(key.decode(errors="replace") for key in fields), error,
        )  # fmt: skip
        return PostChange(name.decode(), NO_POST, None)


def is_after(one: str, other: str) -> bool:
    """Whether a position comes later in the stream than another."""
    return position(one) > position(other)
