"""Signed cursors: the client carries what earlier pages of its feed showed.

Takes and returns `types.Shown`. A cursor is base64url text of an HMAC-SHA256 signature, followed by the signed body:
user, expiry and the shown posts, authors and topics, compressed. The server stores nothing, and a cursor contains
nothing of a release. So it stays valid across restarts, workers and releases. This module treats ids as plain numbers.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import struct
import zlib
from pathlib import Path
from typing import TypeVar

import numpy as np
import orjson

from recsys.errors import DataError, RequestError
from recsys.types import SECOND, Shown

MAX_REMEMBERED = 500
"""A cursor holds the newest posts up to this number; the same limit applies to authors and to topics."""

KEY_BYTES = 32
MAX_CHARACTERS = 32_768
"""Longest cursor accepted. 500 posts and authors of a 100,000-post world take about 3,000 characters."""

Name = TypeVar("Name", int, str)

_VERSION = 1
_SIGNATURE = hashlib.sha256().digest_size
_HEAD = struct.Struct("<Bqqhhh")
"""Version, user id, expiry, number of posts, number of authors, number of topics."""

_ADVICE = "ask for the first page again, without a cursor"


class Cursors:
    """Writes and reads cursors with one key."""

    def __init__(self, key: bytes, ttl_s: int) -> None:
        self._key = key
        self._ttl = ttl_s * SECOND

    def write(self, user_id: int, shown: Shown, now: int) -> str:
        """Write a cursor that is valid for `ttl_s` seconds from `now` (microseconds)."""
        body = _pack(user_id, now + self._ttl, shown)
        return base64.urlsafe_b64encode(self._sign(body) + body).rstrip(b"=").decode()

    def read(self, text: str, user_id: int, now: int) -> Shown:
        """The shown posts, authors and topics that a cursor carries.

        Raises: RequestError when the cursor is malformed, was altered, has expired or belongs to another user.
        """
        if len(text) > MAX_CHARACTERS:
            raise RequestError(f"cursor must have at most {MAX_CHARACTERS} characters, got {len(text)}; {_ADVICE}")
        try:
            data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(f"cursor must be base64url text from the server, got {text[:20]!r}; {_ADVICE}") from None
        signature, body = data[:_SIGNATURE], data[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise RequestError(f"cursor must be unchanged, but its signature does not match; {_ADVICE}")
        owner, expiry, shown = _unpack(body)
        if owner != user_id:
            raise RequestError(
                f"cursor must belong to the user that sends it, but it was written for another; {_ADVICE}"
            )
        if now >= expiry:
            late = (now - expiry) // SECOND
            raise RequestError(
                f"cursor must be used within {self._ttl // SECOND} s, but it expired {late} s ago; {_ADVICE}"
            )
        return shown

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def add_page(shown: Shown, post_ids: list[int], authors: list[int], topics: list[str]) -> Shown:
    """Add one page to what was shown. Only the newest `MAX_REMEMBERED` posts, authors and topics are kept.

    Args:
        post_ids: ids of the page's posts, in order of position.
        authors: author ids, one per post with a known author.
        topics: topic names, one per post with a known topic.
    """
    return Shown(
        post_ids=(*shown.post_ids, *post_ids)[-MAX_REMEMBERED:],
        authors=_add_counts(shown.authors, authors),
        topics=_add_counts(shown.topics, topics),
    )


def read_key(path: Path) -> bytes:
    """Read the signing key from this file; create it on first use. All workers of the folder share one key.

    Raises: DataError when the file does not hold a key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)
        except FileExistsError:
            pass  # another worker was faster; use its key
        finally:
            temporary.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise DataError(
            f"{path} must hold {KEY_BYTES} bytes, got {len(key)}; delete it (all open cursors become invalid)"
        )
    return key


def _add_counts(counts: dict[Name, int], more: list[Name]) -> dict[Name, int]:
    counted = dict(counts)
    for name in more:
        counted[name] = counted.pop(name, 0) + 1
    return dict(list(counted.items())[-MAX_REMEMBERED:])


def _pack(user_id: int, expiry: int, shown: Shown) -> bytes:
    posts = shown.post_ids[-MAX_REMEMBERED:]
    authors = list(shown.authors.items())[-MAX_REMEMBERED:]
    topics = list(shown.topics.items())[-MAX_REMEMBERED:]
    head = _HEAD.pack(_VERSION, user_id, expiry, len(posts), len(authors), len(topics))
    numbers = np.array([*posts, *(a for a, _ in authors), *(n for _, n in authors), *(n for _, n in topics)], "<i8")
    # Transpose the bytes, [n, 8] -> [8, n]: bytes of equal significance lie together, so close ids compress well.
    planes = numbers.view(np.uint8).reshape(-1, 8).T.tobytes()
    return zlib.compress(head + planes + orjson.dumps([name for name, _ in topics]))


def _unpack(body: bytes) -> tuple[int, int, Shown]:
    raw = zlib.decompress(body)
    version, user_id, expiry, n_posts, n_authors, n_topics = _HEAD.unpack_from(raw)
    if version != _VERSION:
        raise RequestError(f"cursor must have format {_VERSION}, got {version}; {_ADVICE}")
    n_numbers = n_posts + 2 * n_authors + n_topics
    planes = np.frombuffer(raw, np.uint8, 8 * n_numbers, _HEAD.size).reshape(8, n_numbers)
    numbers = np.ascontiguousarray(planes.T).view("<i8").ravel().tolist()
    names = orjson.loads(raw[_HEAD.size + 8 * n_numbers :])
    posts, numbers = tuple(numbers[:n_posts]), numbers[n_posts:]
    authors = dict(zip(numbers[:n_authors], numbers[n_authors : 2 * n_authors], strict=True))
    topics = dict(zip(names, numbers[2 * n_authors :], strict=True))
    return user_id, expiry, Shown(posts, authors, topics)
