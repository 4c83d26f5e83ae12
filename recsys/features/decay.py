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

_JIT = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")


class States(NamedTuple):
    """Decayed counts of n things of one entity; things without an event have t = 0 and v = 0."""

    t: Doubles
    """Time each row's counts refer to, microseconds, (n,)."""
    v: Doubles
    """Counts, (n, A, H)."""

    @classmethod
    def zeros(cls, n: int, entity: Entity) -> States:
        return cls(np.zeros(n), np.zeros((n, *entity.shape)))


@_JIT
def _step(t, v, row, s, kept, half_life_us):  # type: ignore[no-untyped-def]
    if s >= t[row]:
        for h in range(half_life_us.shape[0]):
            factor = 2.0 ** (-(s - t[row]) / half_life_us[h])
            for a in range(v.shape[1]):
                v[row, a, h] *= factor
            v[row, kept, h] += 1.0
        t[row] = s
    else:
        for h in range(half_life_us.shape[0]):
            v[row, kept, h] += 2.0 ** (-(t[row] - s) / half_life_us[h])


@_JIT
def _advance(t, v, rows, times, actions, action_rows, half_life_us):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        kept = action_rows[actions[i]]
        if rows[i] >= 0 and kept >= 0:
            _step(t, v, rows[i], float(times[i]), kept, half_life_us)


@_JIT
def _read(t, v, row, now, half_life_us, out, place):  # type: ignore[no-untyped-def]
    for h in range(half_life_us.shape[0]):
        factor = 2.0 ** (-(now - t[row]) / half_life_us[h])
        for a in range(v.shape[1]):
            out[place, a, h] = v[row, a, h] * factor


@_JIT
def _read_many(t, v, rows, now, half_life_us, out):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        if rows[i] >= 0:
            _read(t, v, rows[i], now, half_life_us, out, i)


@_JIT
def _replay(  # type: ignore[no-untyped-def]
    t, v, rows, times, arrivals, actions, action_rows, half_life_us, query_rows, query_now, out
):
    event = 0
    for q in range(query_rows.shape[0]):
        now = query_now[q]
        while event < rows.shape[0] and arrivals[event] < now:
            kept = action_rows[actions[event]]
            if rows[event] >= 0 and kept >= 0:
                _step(t, v, rows[event], float(times[event]), kept, half_life_us)
            event += 1
        if query_rows[q] >= 0:
            _read(t, v, query_rows[q], float(now), half_life_us, out, q)


def advance(states: States, entity: Entity, rows: Rows | Ids, times: Times, actions: Rows) -> None:
    """Count events into `states`, in place.

    Args:
        rows: row of each event in `states`, -1 for none, (M,).
        times: moment each event decays from, microseconds, (M,).
        actions: codes in `ACTIONS`; those the entity does not keep are passed over, (M,).
    """
    _advance(
        states.t, states.v, rows.astype(np.int64), times.astype(np.int64), actions.astype(np.int32),
        entity.action_rows, entity.half_life_us,
    )  # fmt: skip


def read(states: States, entity: Entity, rows: Rows | Ids, now: int) -> Doubles:
    """Counts of `rows` (C,) decayed to `now` (microseconds), (C, A, H); zeros for row -1."""
    out = np.zeros((len(rows), *entity.shape))
    _read_many(states.t, states.v, rows.astype(np.int64), float(now), entity.half_life_us, out)
    return out


def replay(
    states: States, entity: Entity,
    rows: Rows | Ids, times: Times, arrivals: Times, actions: Rows,
    query_rows: Rows | Ids, query_now: Times,
) -> Doubles:  # fmt: skip
    """Counts as each query saw them: one merge of events in order of arrival with queries in order of time.

    An event is visible to a query when it arrived strictly before it. `states` ends with the events before the last
    query only.

    Args:
        rows, query_rows: rows in `states`, -1 for none, (M,) and (Q,).
        times: moments that events decay from, microseconds, (M,).
        arrivals: when events could first be read, microseconds, ascending, (M,).
        actions: codes in `ACTIONS`, (M,).
        query_now: microseconds, ascending, (Q,).
    Returns: counts decayed to the query's time, (Q, A, H); zeros for row -1.
    Raises: ValueError when arrivals or queries are out of order: a query would see its future.
    """
    if (np.diff(arrivals) < 0).any() or (np.diff(query_now) < 0).any():
        raise ValueError("replay needs arrivals and query_now in ascending order; sort both by time first")
    out = np.zeros((len(query_rows), *entity.shape))
    _replay(
        states.t, states.v, rows.astype(np.int64), times.astype(np.int64), arrivals.astype(np.int64),
        actions.astype(np.int32), entity.action_rows, entity.half_life_us,
        query_rows.astype(np.int64), query_now.astype(np.int64), out,
    )  # fmt: skip
    return out
