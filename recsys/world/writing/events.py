"""From what happened to what was sent: rows of impressions and actions with their times of event and of arrival.

Takes a block of requests, gives columns in order of request and position, redelivered rows last. Delivery is as it is:
a second late, sometimes hours, sometimes twice. Each request has random numbers of its own. It does not know tables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.config import WorldConfig
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.types import HOUR, SECOND, Floats, Ids, Times
from recsys.world.behaviour.random_numbers import below, exponential, restart, uniform
from recsys.world.behaviour.sessions import CLICKED, HIDDEN, LIKED, RESENT, SHARED, Block, bits_of
from recsys.world.jit import JIT

EVENTS_PER_POSITION = 8
"""Event ids are request id, position and kind packed together; 0 is the impression."""
TAB_LEFT_OPEN = 20 * 60 * SECOND
"""Mean delay of a delayed click."""
CLICK, LIKE, SHARE, HIDE, DWELL = (ACTION_TYPES.index(name) for name in ("click", "like", "share", "hide", "dwell"))
_STREAM = 1 << 61
"""Sets the random numbers of delivery apart from those of the sessions."""


class Requests(NamedTuple):
    """Of each request of a block, (R,)."""

    id: Ids
    user_id: Ids
    now: Times


class ReturnedRows(NamedTuple):
    """One row per returned post."""

    request_id: Ids
    user_id: Ids
    post_id: Ids
    position: np.ndarray
    now: Times


class ImpressionRows(NamedTuple):
    """One row per impression; rows sent again come last."""

    event_id: Ids
    request_id: Ids
    user_id: Ids
    post_id: Ids
    position: np.ndarray
    event_time: Times
    ingest_time: Times


class ActionRows(NamedTuple):
    """One row per action; each one sent again follows itself."""

    event_id: Ids
    request_id: Ids
    user_id: Ids
    post_id: Ids
    type: np.ndarray
    """Row of ACTION_TYPES."""
    value: Floats
    """NaN for anything but a dwell."""
    event_time: Times
    ingest_time: Times


def events_of(
    block: Block, requests: Requests, n_returned: int, n_shown: int, post_id: Ids, config: WorldConfig
) -> tuple[ReturnedRows, ImpressionRows, ActionRows]:
    """The rows of a block.

    Args:
        n_returned, n_shown: rows of the block that are filled.
        post_id: ids by post row, (N,).
    """
    bits = block.actions[:n_shown]
    resent = bits_of(bits, RESENT)
    n_acts = np.zeros(n_shown, np.int32)
    for bit in (CLICKED, CLICKED, LIKED, SHARED, HIDDEN):  # a click also dwells
        n_acts += bits_of(bits, bit)
    n_acts[resent] *= 2
    returned = ReturnedRows(*_columns(ReturnedRows, n_returned, np.int64, position=np.int16))
    shown = ImpressionRows(*_columns(ImpressionRows, n_shown + int(resent.sum()), np.int64, position=np.int16))
    acts = ActionRows(*_columns(ActionRows, int(n_acts.sum()), np.int64, type=np.int8, value=np.float32))
    rates, state = (config.late_share, config.delayed_share), np.empty(1, np.uint64)
    _emit(block, requests, post_id, config.policy.slate_size, config.seed, rates, n_shown, state, returned, shown, acts)
    return returned, shown, acts


def _columns(of: type, n: int, default: type, **types: type) -> list[np.ndarray]:
    return [np.empty(n, types.get(name, default)) for name in of._fields]  # type: ignore[attr-defined]


@JIT
def _arrival(event_time, late_share, state):  # type: ignore[no-untyped-def]
    """When an event reaches the store: about a second later, a few minutes to hours late."""
    delay = 0.2 * SECOND + SECOND * exponential(state)
    if uniform(state) < late_share:
        delay += HOUR * exponential(state)
    return event_time + int(delay)


@JIT
def _emit(block, requests, post_id, slate_size, seed, rates, n_shown, state, returned, shown, acts):  # type: ignore[no-untyped-def]
    late_share = rates[0]
    i, j, again, a = 0, 0, n_shown, 0
    for r in range(requests.id.shape[0]):
        request, user, now = requests.id[r], requests.user_id[r], requests.now[r]
        restart(state, seed, _STREAM + request)
        for position in range(block.n_returned[r]):
            post = post_id[block.returned[i]]
            returned.request_id[i], returned.user_id[i], returned.post_id[i] = request, user, post
            returned.position[i], returned.now[i] = position, now
            i += 1
            if position >= block.depth[r]:
                continue
            event, bits, at = (
                (request * slate_size + position) * EVENTS_PER_POSITION,
                block.actions[j],
                block.shown_at[j],
            )
            arrival = _arrival(at, late_share, state)
            shown.event_id[j], shown.request_id[j], shown.user_id[j], shown.post_id[j] = event, request, user, post
            shown.position[j], shown.event_time[j], shown.ingest_time[j] = position, at, arrival
            resent = 0
            if bits & RESENT:
                resent = SECOND + below(state, 600 * SECOND)
                shown.event_id[again], shown.request_id[again] = event, request
                shown.user_id[again], shown.post_id[again], shown.position[again] = user, post, position
                shown.event_time[again], shown.ingest_time[again] = at, arrival + resent
                again += 1
            if bits & (CLICKED | HIDDEN):
                a = _act_rows(acts, a, bits, event, request, user, post, at, block.dwelt[j], resent, rates, state)
            j += 1


@JIT
def first_delay(delayed_share, state):  # type: ignore[no-untyped-def]
    """Microseconds from seeing a post to doing something with it: seconds, or much longer for some."""
    delay = SECOND + int(3 * SECOND * exponential(state))
    if uniform(state) < delayed_share:
        delay += int(TAB_LEFT_OPEN * exponential(state))
    return delay


@JIT
def _follows(kind, bits, delay, dwelt):  # type: ignore[no-untyped-def]
    """Whether an action of this kind was done, and how long after the post came on screen."""
    if kind == CLICK:
        return bits & CLICKED, delay
    if kind == LIKE:
        return bits & LIKED, 2 * delay
    if kind == SHARE:
        return bits & SHARED, 3 * delay
    if kind == HIDE:
        return bits & HIDDEN, delay
    return bits & CLICKED, delay + int(dwelt * SECOND)


def followed_by(bits: int, delay: int, dwelt: float) -> list[tuple[int, int]]:
    """The actions behind the bits: (row of ACTION_TYPES, microseconds after the post came on screen)."""
    kinds = ((kind, *_follows(kind, bits, delay, dwelt)) for kind in range(DWELL + 1))
    return [(kind, after) for kind, done, after in kinds if done]


@JIT
def _act_rows(acts, a, bits, event, request, user, post, shown_at, dwelt, resent, rates, state):  # type: ignore[no-untyped-def]
    """Write what was done to one post from row a on; gives the next free row."""
    late_share, delayed_share = rates
    delay = first_delay(delayed_share, state)
    for kind in range(DWELL + 1):
        done, after = _follows(kind, bits, delay, dwelt)
        if not done:
            continue
        at = shown_at + after
        arrival = _arrival(at, late_share, state)
        for turn in range(2 if resent else 1):
            acts.event_id[a], acts.request_id[a] = event + 1 + kind, request
            acts.user_id[a], acts.post_id[a], acts.type[a] = user, post, kind
            acts.value[a] = dwelt if kind == DWELL else np.nan
            acts.event_time[a], acts.ingest_time[a] = at, arrival + turn * resent
            a += 1
    return a
