"""Stable hashes: the same input gives the same number in every process and on every machine.

Takes text or integers, gives 64-bit integers. These hashes are not for secrets; signatures use `hmac`.

Source of the mixer: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014 (splitmix64).
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from recsys.types import Ids

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
"""Step of splitmix64's counter: 2^64 divided by the golden ratio."""
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31 = np.uint64(30), np.uint64(27), np.uint64(31)


def hash_text(text: str) -> int:
    """Hash a text to a number from 0 to 2**63 - 1."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1


def mix64(x: Any) -> Any:
    """Mix the bits of uint64 numbers, a scalar or an array, one to one (splitmix64's finaliser).

    Compiled code can call it too, after `numba.extending.register_jitable`.
    """
    x = (x ^ (x >> _30)) * _MIX_1
    x = (x ^ (x >> _27)) * _MIX_2
    return x ^ (x >> _31)


def hash_rows(*columns: Ids | int) -> Ids:
    """Hash each row of these int64 columns, (N,) each, to 0 .. 2**63 - 1; a single number stands for a whole column."""
    x = np.zeros(1, np.uint64)
    for column in columns:
        x = mix64((x ^ np.atleast_1d(np.asarray(column, np.int64)).view(np.uint64)) + GOLDEN_GAMMA)
    positive: Ids = (x >> np.uint64(1)).view(np.int64)
    return positive
