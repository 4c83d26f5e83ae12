"""Ids: strings on the wire, int64 in the lake and in Redis.

A string that is a decimal int64 becomes that number. Any other string becomes a stable negative hash. So every process
can number a new id at once, without a table, and the number written out is an id for the same number. It does not know
which ids exist.
"""

from __future__ import annotations

import re

from recsys.errors import RequestError
from recsys.hashing import hash_text

MAX_ID_CHARACTERS = 200

_DECIMAL = re.compile(r"0|-?[1-9][0-9]{0,18}")


def to_int64(text: str) -> int:
    """Convert an id to int64: a decimal number to itself, any other text to a negative hash.

    Raises: RequestError when the id is empty or longer than 200 characters.
    """
    if not text or len(text) > MAX_ID_CHARACTERS:
        raise RequestError(f"an id must have 1 to {MAX_ID_CHARACTERS} characters, got {len(text)}")
    if _DECIMAL.fullmatch(text) and -(2**63) <= int(text) < 2**63:
        return int(text)
    return -1 - hash_text(text)
