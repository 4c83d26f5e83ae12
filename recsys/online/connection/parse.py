"""Parse single values of Redis into numbers and stream ids; word the error for a key with an invalid value.

Takes a key and its bytes. This module does not read from Redis, and knows nothing of packed rows.
"""

from __future__ import annotations

import re

from recsys.errors import DataError
from recsys.online import keys

_NUMBER = re.compile(rb"-?\d{1,19}")
_STREAM_ID = re.compile(rb"\d{1,19}(-\d{1,19})?")


def parse_number(key: bytes, value: bytes) -> int:
    """A whole number of 64 bits. Raises: DataError naming the key."""
    if _NUMBER.fullmatch(value) is None or not -(2**63) <= (found := int(value)) < 2**63:
        raise invalid_value(key, "must hold a whole number", value)
    return found


def parse_stream_id(key: bytes, value: bytes | None) -> str:
    """A position on the stream. Raises: DataError naming the key."""
    if value is None or _STREAM_ID.fullmatch(value) is None:
        raise invalid_value(key, "must hold a stream id", value)
    return value.decode()


def invalid_value(key: bytes, rule: str, found: bytes | None) -> DataError:
    """The error for a key whose value breaks a rule."""
    shown = "nothing" if found is None else repr(found[:40])[1:]
    if key in (keys.ERASED, keys.ERASED_VERSION):
        # Never advise to remove tombstones: erased people would come back.
        remedy = "see what wrote it and correct it; keep all other tombstones"
    elif key == keys.CURRENT:
        remedy = _LOAD
    else:
        remedy = _remedy(key)
    return DataError(f"online key {key.decode(errors='replace')} {rule}, found {shown}; {remedy}")


def wrong_type(key: bytes, expected: str, found: str) -> DataError:
    """The error for a key of the wrong Redis type."""
    name = key.decode(errors="replace")
    return DataError(f"online key {name} must hold the Redis type {expected}, found {found}; {_remedy(key)}")


_LOAD = "run `recsys train`, which loads the online store anew"


def _remedy(key: bytes) -> str:
    name = key.decode(errors="replace")
    if key.startswith(keys.GENERATIONS):
        return _LOAD
    if key == keys.NEWEST:
        # If it were removed, the next load would get the number of the generation in use.
        return f"see what wrote it, then set it to the largest number of a {keys.GENERATIONS.decode()}<number>: key"
    if key == keys.TRIMMED:
        # If it were removed, an older load would not notice that records are gone.
        return f"see what wrote it, then set it to the first id of {keys.STREAM.decode()}"
    return f"see what wrote it, then remove it (`redis-cli DEL {name}`)"
