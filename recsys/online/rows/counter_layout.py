"""The bytes of a row of counters (post, author, topic): pack and unpack many rows at once.

Takes and gives `features.decay.States`; knows nothing of Redis. Everything is little-endian and eight bytes wide, so a
row is an array of words. A row begins with `features.spec.fingerprint()`, so that a reader refuses rows that were
written under another feature definition.

    post, author, topic   fingerprint | t | v (A*H)

`user_layout` builds the rows of users from the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

import numpy as np

from recsys.errors import DataError
from recsys.features.decay import States
from recsys.features.spec import ENTITIES, Entity, fingerprint
from recsys.online.rows.validate import counter_rows_are_valid
from recsys.online.stream.records import LATEST
from recsys.types import DAY, Ids

FORGOTTEN = 40 * max(max(entity.half_lives) for entity in ENTITIES)
"""Microseconds after which a row or an entry is dropped: 40 weeks. By then 2^-40 of a count is left, about 1e-12, too
little for any tolerance between batch and stream to see."""

REFRESHED = DAY
"""Microseconds: the first event of a day renews a row's time to live in Redis. Renewing at every event would cost one
more command each time."""

WORD = 8
"""Bytes."""
FINGERPRINT = fingerprint()

Names = Sequence[bytes] | Callable[[], Sequence[bytes]]
"""Keys of rows, needed only for error messages; a function where making them costs time."""


def entry_width(entity: Entity) -> int:
    """Words of one row of counters, or of one entry in a user row: fingerprint or key, t, v."""
    return 2 + entity.shape[0] * entity.shape[1]


def pack(entity: Entity, states: States) -> list[bytes]:
    """One value per row of `states`."""
    words = pack_words(entity, states)
    buffer, size = words.tobytes(), WORD * words.shape[1]
    return [buffer[at : at + size] for at in range(0, len(buffer), size)]


def pack_words(entity: Entity, states: States) -> Ids:
    """The words of `pack`, one row of the array per value, (n, `entry_width`)."""
    words = np.empty((len(states.t), entry_width(entity)), np.int64)
    words[:, 0] = FINGERPRINT
    put_states(words[:, 1:], states)
    return words


def unpack(entity: Entity, keys: Names, values: Sequence[bytes | None]) -> States:
    """Counters of R values, zeros where a value is None: t (R,), v (R, A, H).

    Raises: DataError naming the key whose fingerprint, length, time or counts break a rule.
    """
    # 1. One buffer of R equal rows; an absent row is a row of zeros.
    blank, width = _blank(entity), entry_width(entity)
    buffer = b"".join([blank if value is None else value for value in values])
    # Wrong lengths that add up to the right sum are caught below: a shifted row has no fingerprint at its start.
    if len(buffer) != len(blank) * len(values):
        raise row_error(keys, values, partial(_row_fault, entity))
    # 2. Validate all rows in one pass over the words, (R * width,).
    words = np.frombuffer(buffer, np.int64)
    if not counter_rows_are_valid(words, words.view(np.float64), width, FINGERPRINT, float(LATEST)):
        raise row_error(keys, values, partial(_row_fault, entity))
    # 3. Split t (R,) and v (R, A, H).
    return get_states(entity, words.reshape(len(values), width)[:, 1:])


def put_states(words: np.ndarray, states: States) -> None:
    """Write t and v into words of shape (n, 1 + A*H)."""
    floats = words.view(np.float64)
    floats[:, 0] = states.t
    floats[:, 1:] = states.v.reshape(len(words), words.shape[1] - 1)


def get_states(entity: Entity, words: np.ndarray) -> States:
    """Read t and v from words of shape (n, 1 + A*H)."""
    # Copies: the kernels are compiled for arrays that are contiguous and writable.
    floats = words.view(np.float64)
    v = np.array(floats[:, 1:], order="C").reshape(len(words), *entity.shape)
    return States(np.array(floats[:, 0], order="C"), v)


def row_error(keys: Names, values: Sequence[bytes | None], fault: Callable[[bytes], str | None]) -> DataError:
    """The error for the first row that breaks a rule; `fault` gives the broken rule of a row, or None."""
    for key, value in zip(keys() if callable(keys) else keys, values, strict=True):
        if value is not None and (broken := fault(value)) is not None:
            return DataError(f"online row {key.decode()} {broken}; run `recsys train` to load the online store anew")
    raise AssertionError("no row breaks a rule")


def fingerprint_fault(value: bytes) -> str | None:
    found = int.from_bytes(value[:WORD], "little", signed=True)
    if len(value) < WORD or found == FINGERPRINT:
        return None
    return f"must have the feature fingerprint {FINGERPRINT}, found {found}"


def counts_fault(owner: str, lines: np.ndarray) -> str | None:
    """`lines`: t and the counts, (n, 1 + A*H)."""
    t, v = lines[:, 0], lines[:, 1:]
    if not (good := (t >= 0) & (t <= LATEST)).all():
        return f"must have {owner} time between 1970 and 2169, found {t[~good][0]} microseconds"
    if not (good := (v >= 0) & (v < np.inf)).all():
        return f"must have {owner} counts finite and >= 0, found {v[~good][0]}"
    return None


@cache
def _blank(entity: Entity) -> bytes:
    return pack(entity, States.zeros(1, entity))[0]


def _row_fault(entity: Entity, value: bytes) -> str | None:
    """The rule that this row of a post, author or topic breaks, None when it is valid."""
    size = WORD * entry_width(entity)
    if (fault := fingerprint_fault(value)) is not None:
        return fault
    if len(value) != size:
        return f"must have {size} bytes, found {len(value)}"
    return counts_fault("its", np.frombuffer(value, np.float64, offset=WORD)[None])
