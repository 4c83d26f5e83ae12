"""Exponentially decayed counts: the one step that batch and stream share.

State is float64 `(t, v)` with `t` in microseconds. An event at `s` with weight 1: if `s >= t`,
`v = v * 2^(-(s - t) / h) + 1` and `t = s`; else `v = v + 2^(-(t - s) / h)`. The result does not depend on the order of
delivery beyond 1e-12 relative. One `t` serves all counts of an entity; `v` is (A, H), actions by half-lives.

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


class States(NamedTuple):
    """Decayed counts of n things of one entity; things without an event have t = 0 and v = 0."""

    t: Doubles
    """Time each row's counts refer to, microseconds, (n,)."""
    v: Doubles
    """Counts, (n, A, H)."""

    @classmethod
    def zeros(cls, n: int, entity: Entity) -> States:
        return cls(np.zeros(n), np.zeros((n, *entity.shape)))


@JIT
def run(t, v, row, moment, what, half_life_us, out):  # type: ignore[no-untyped-def]
    """Count events and read counts, in the order given: every counter, in batch and stream, goes through these lines.

    Powers of two are most of the work, and none of them depends on a count. So a block's are taken first, side by side;
    one after the other the whole took twice as long.

    Args:
        t, v: states, (n,) and (n, A, H), changed in place.
        row: row of each operation in the states; -1 does nothing, (M,).
        moment: of the event, or the reader's now, microseconds, (M,).
        what: of an event the place of its action; `-1 - i` writes the row's counts to `out[i]`, (M,).
        out: (Q, A, H). A reader whose clock is behind the last event's sees its counts as they are, not grown.
    """
    n_half_lives = half_life_us.shape[0]
    factor = np.zeros((_BLOCK, n_half_lives))
    late = np.zeros(_BLOCK, np.bool_)
    for start in range(0, row.shape[0], _BLOCK):
        n = min(_BLOCK, row.shape[0] - start)
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
        for i in range(n):
            for h in range(n_half_lives):
                factor[i, h] = 2.0 ** -factor[i, h]
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
        actions: codes in `ACTIONS`; those the entity does not keep are passed over, (M,).
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
