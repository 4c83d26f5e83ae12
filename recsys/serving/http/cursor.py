"""The cursor: what earlier pages of a feed showed, carried by the client, signed by the server.

Takes and gives `types.Shown`. A cursor is bytes in base64url: an HMAC-SHA256 over the rest, then user, expiry and the
shown posts, authors and topics, compressed. Nothing of it is kept on the server and nothing of it belongs to a release:
it survives a restart, another worker and a change of release. It does not know what a post is, or which posts exist.
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

KEPT = 500
"""Shown posts a cursor remembers, the newest; authors and topics likewise."""

KEY_BYTES = 32
MAX_CHARACTERS = 32_768
"""Longest cursor that is looked at; 500 posts and authors of a 100,000-post world take about 3,000."""

Name = TypeVar("Name", int, str)

_VERSION = 1
_SIGNATURE = hashlib.sha256().digest_size
_HEAD = struct.Struct("<Bqqhhh")
"""Version, user id, expiry, then how many posts, authors and topics follow."""

_ADVICE = "ask for the first page again, without a cursor"


class Cursors:
    """Writes and reads cursors with one key."""

    def __init__(self, key: bytes, ttl_s: int) -> None:
        self._key = key
        self._ttl = ttl_s * SECOND

    def write(self, user_id: int, shown: Shown, now: int) -> str:
        """A cursor that is valid for `ttl_s` seconds from `now`."""
        body = _pack(user_id, now + self._ttl, shown)
        return base64.urlsafe_b64encode(self._sign(body) + body).rstrip(b"=").decode()

    def read(self, text: str, user_id: int, now: int) -> Shown:
        """What the cursor says was shown.

        Raises: RequestError when it is not one of ours, was altered, has expired or belongs to another user.
        """
        if len(text) > MAX_CHARACTERS:
            raise RequestError(f"cursor must have at most {MAX_CHARACTERS} characters, got {len(text)}; {_ADVICE}")
        try:
            data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise RequestError(
                f"cursor must be base64url as the server wrote it, got {text[:20]!r}; {_ADVICE}"
            ) from None
        signature, body = data[:_SIGNATURE], data[_SIGNATURE:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise RequestError(
                f"cursor must be unchanged as the server wrote it, its signature does not fit; {_ADVICE}"
            )
        owner, expiry, shown = _unpack(body)
        if owner != user_id:
            raise RequestError(f"cursor must belong to the user that sends it, it was written for another; {_ADVICE}")
        if now >= expiry:
            late = (now - expiry) // SECOND
            raise RequestError(
                f"cursor must be used within {self._ttl // SECOND} s, it expired {late} s ago; {_ADVICE}"
            )
        return shown

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")


def grow(shown: Shown, post_ids: list[int], authors: list[int], topics: list[str]) -> Shown:
    """What was shown after one more page; only the newest `KEPT` posts, authors and topics stay.

    Args:
        post_ids: posts of the page, in order of position.
        authors: their author ids, one per post whose author is known.
        topics: their topics, one per post whose topic is known.
    """
    return Shown(
        post_ids=(*shown.post_ids, *post_ids)[-KEPT:],
        authors=_count(shown.authors, authors),
        topics=_count(shown.topics, topics),
    )


def read_key(path: Path) -> bytes:
    """The signing key in this file, made on first use; every worker on the folder gets the same one.

    Raises: DataError when the file is not a key.
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
            pass  # another worker was first; its key counts
        finally:
            temporary.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise DataError(f"{path} must hold {KEY_BYTES} bytes, got {len(key)}; delete it, which ends the cursors in use")
    return key


def _count(counts: dict[Name, int], more: list[Name]) -> dict[Name, int]:
    counted = dict(counts)
    for name in more:
        counted[name] = counted.pop(name, 0) + 1
    return dict(list(counted.items())[-KEPT:])


def _pack(user_id: int, expiry: int, shown: Shown) -> bytes:
    posts = shown.post_ids[-KEPT:]
    authors = list(shown.authors.items())[-KEPT:]
    topics = list(shown.topics.items())[-KEPT:]
    head = _HEAD.pack(_VERSION, user_id, expiry, len(posts), len(authors), len(topics))
    numbers = np.array([*posts, *(a for a, _ in authors), *(n for _, n in authors), *(n for _, n in topics)], "<i8")
    # Bytes of equal weight side by side: ids that are close to each other then compress to little.
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
