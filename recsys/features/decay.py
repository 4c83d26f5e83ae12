"""Exponentially decayed counts: the update step that batch and stream share.

The state is float64 `(t, v)`: the time of the newest event in microseconds and the counts as of then. An event at `s`
updates a count of half-life `h` like this:

    s >= t:  v = v * 2^(-(s - t) / h) + 1,  t = s
    s <  t:  v = v + 2^(-(t - s) / h)

Events may come in any order: the result differs by less than 1e-12 relative. One `t` serves all counts of a key; `v` is
(A, H), actions by half-lives.

Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems",
ICDE 2009.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from recsys.features.spec import Entity
from recsys.types import Doubles, Ids, Rows, Times

JIT = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")

_BLOCK = 256
"""Operations per block of `run`, few enough to stay in the cache."""


class States(NamedTuple):
    """Decayed counts of n keys of one entity; a key without events has t = 0 and v = 0."""

    t: Doubles
    """Time of each key's counts, microseconds, (n,)."""
    v: Doubles
    """Counts, (n, A, H)."""

    @classmethod
    def zeros(cls, n: int, entity: Entity) -> States:
        return cls(np.zeros(n), np.zeros((n, *entity.shape)))


@JIT
def run(t, v, row, moment, what, half_life_us, out):  # type: ignore[no-untyped-def]
    """Run M operations in the order given: count an event, or read counts. Batch and stream both use this function.

    Most of the time goes into powers of two, which depend on times only, not on counts. So they are computed first, a
    block at a time, which the processor does side by side; interleaved with the counting, the whole took twice as long.

    Args:
        t, v: states, (n,) and (n, A, H), changed in place.
        row: row of each operation in the states; -1 is skipped, (M,).
        moment: time of the event, or the `now` of the read, microseconds, (M,).
        what: place of the event's action; or `-1 - i` to read the row's counts into `out[i]`, (M,).
        out: results of the reads, (Q, A, H). A read with `now` before `t` gives the counts as they are, not grown.
    """
    n_half_lives = half_life_us.shape[0]
    factor = np.zeros((_BLOCK, n_half_lives))
    late = np.zeros(_BLOCK, np.bool_)
    for start in range(0, row.shape[0], _BLOCK):
        n = min(_BLOCK, row.shape[0] - start)
        # 1. Exponent of each operation and half-life, (n, H); an event on time moves the clock of its row.
        for i in range(n):
            if row[start + i] < 0:
                continue
            r = np.uint64(row[start + i])
            ahead = float(moment[start + i]) - t[r]
            late[i] = ahead < 0.0
            if what[start + i] < 0:
                ahead = max(ahead, 0.0)
            elif ahead >= 0.0:
                t[r] = moment[start + i]
            for h in range(n_half_lives):
                factor[i, h] = abs(ahead) / half_life_us[h]
        # 2. All powers of two of the block, (n, H).
        for i in range(n):
            for h in range(n_half_lives):
                factor[i, h] = 2.0 ** -factor[i, h]
        # 3. In order: read into `out`, add a late event, or decay the row and add an event.
        for i in range(n):
            if row[start + i] < 0:
                continue
            r = np.uint64(row[start + i])
            action = what[start + i]
            if action < 0:
                place = np.uint64(-1 - action)
                for a in range(v.shape[1]):
                    for h in range(n_half_lives):
                        out[place, a, h] = v[r, a, h] * factor[i, h]
            elif late[i]:
                for h in range(n_half_lives):
                    v[r, action, h] += factor[i, h]
            else:
                for a in range(v.shape[1]):
                    for h in range(n_half_lives):
                        v[r, a, h] *= factor[i, h]
                for h in range(n_half_lives):
                    v[r, action, h] += 1.0


def advance(states: States, entity: Entity, rows: Rows | Ids, times: Times, actions: Rows) -> None:
    """Count events into `states`, in place.

    Args:
        rows: row of each event in `states`, -1 for none, (M,).
        times: moment each event decays from, microseconds, (M,).
        actions: codes in `ACTIONS`; those the entity does not keep are skipped, (M,).
    """
    kept = entity.action_rows[actions].astype(np.int64)
    counted = np.where(kept >= 0, rows, -1).astype(np.int64)
    run(states.t, states.v, counted, times.astype(np.int64), kept, entity.half_life_us, np.zeros((0, *entity.shape)))


def read(states: States, entity: Entity, rows: Rows | Ids, now: int) -> Doubles:
    """Counts of `rows` (C,) decayed to `now` (microseconds), (C, A, H); zeros for row -1."""
    out = np.zeros((len(rows), *entity.shape))
    asked = -1 - np.arange(len(rows))
    run(states.t, states.v, rows.astype(np.int64), np.full(len(rows), now), asked, entity.half_life_us, out)
    return out
