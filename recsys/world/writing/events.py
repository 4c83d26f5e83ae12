"""Turn what happened into what was sent: rows of impressions and actions with times of event and of arrival.

Takes a block of requests, gives columns in order of request and position; impressions sent again come last. Most events
arrive after about a second, a few hours late, a few twice. Each request has its own random stream. It does not know
tables.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.config import WorldConfig
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.types import HOUR, SECOND, Floats, Ids, Times
from recsys.world.behaviour.random_numbers import below, exponential, restart, uniform
from recsys.world.behaviour.sessions import CLICKED, HIDDEN, LIKED, RESENT, SHARED, Block, Filled, has_bit
from recsys.world.jit import JIT

EVENTS_PER_POSITION = 8
"""An event id is (request id x slate size + position) x 8 + kind; kind 0 is the impression, 1 + k action type k."""
LONG_DELAY = 20 * 60 * SECOND
"""Mean delay of a delayed click."""
CLICK, LIKE, SHARE, HIDE, DWELL = (ACTION_TYPES.index(name) for name in ("click", "like", "share", "hide", "dwell"))
_STREAM = 1 << 61
"""Added to the request id: separates the random streams of delivery from those of the sessions."""


class Requests(NamedTuple):
    """The requests of a block, (R,) each."""

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
    """One row per action; an action sent again follows its first row."""

    event_id: Ids
    request_id: Ids
    user_id: Ids
    post_id: Ids
    type: np.ndarray
    """Row of ACTION_TYPES."""
    value: Floats
    """Seconds of a dwell, NaN for other actions."""
    event_time: Times
    ingest_time: Times


class EventRows(NamedTuple):
    """All rows of a block."""

    returned: ReturnedRows
    impressions: ImpressionRows
    actions: ActionRows


class Delivery(NamedTuple):
    """How events are numbered and sent."""

    seed: int
    slate_size: int
    late_share: float
    """Share of events that arrive an hour late on average."""
    delayed_share: float
    """Share of clicks that come `LONG_DELAY` later on average."""


class ShownPost(NamedTuple):
    """One post on screen: the keys that its action rows share, and what was done to it."""

    event_id: int
    request_id: int
    user_id: int
    post_id: int
    at: int
    """When it came on screen, microseconds."""
    bits: int
    """What was done, as in `Block.actions`."""
    dwelt: float
    resent: int
    """Microseconds after which its events were sent again; 0: sent once."""


def events_of(block: Block, requests: Requests, filled: Filled, post_id: Ids, config: WorldConfig) -> EventRows:
    """The rows of a block.

    Args:
        post_id: ids by post row, (N,).
    """
    # Count the rows first, so that the kernel fills arrays of exactly the right length.
    bits = block.actions[: filled.shown]
    resent = has_bit(bits, RESENT)
    n_actions = np.zeros(filled.shown, np.int32)
    for bit in (CLICKED, CLICKED, LIKED, SHARED, HIDDEN):  # a click counts twice: click and dwell
        n_actions += has_bit(bits, bit)
    n_actions[resent] *= 2
    n_impressions = filled.shown + int(resent.sum())
    rows = EventRows(
        ReturnedRows(*_columns(ReturnedRows, filled.returned, np.int64, position=np.int16)),
        ImpressionRows(*_columns(ImpressionRows, n_impressions, np.int64, position=np.int16)),
        ActionRows(*_columns(ActionRows, int(n_actions.sum()), np.int64, type=np.int8, value=np.float32)),
    )
    delivery = Delivery(config.seed, config.policy.slate_size, config.late_share, config.delayed_share)
    _fill_rows(block, requests, post_id, filled.shown, delivery, np.empty(1, np.uint64), rows)
    return rows


def _columns(row_type: type, n: int, default: type, **types: type) -> list[np.ndarray]:
    """One empty column per field of a named tuple, (n,) each, of the default type unless named."""
    return [np.empty(n, types.get(name, default)) for name in row_type._fields]  # type: ignore[attr-defined]


@JIT
def _arrival(event_time, late_share, state):  # type: ignore[no-untyped-def]
    """When an event reaches the store: after about a second, or an hour later on average for a share of them."""
    delay = 0.2 * SECOND + SECOND * exponential(state)
    if uniform(state) < late_share:
        delay += HOUR * exponential(state)
    return event_time + int(delay)


@JIT
def _fill_rows(block, requests, post_id, n_shown, delivery, state, rows):  # type: ignore[no-untyped-def]
    """Fill the columns of `rows` from a block of R requests."""
    returned, shown = rows.returned, rows.impressions
    # Next free row of: returned posts (and of block.returned), impressions (and of the block's columns of posts on
    # screen), impressions sent again, actions.
    i, j, again, a = 0, 0, n_shown, 0
    for r in range(requests.id.shape[0]):
        request, user, now = requests.id[r], requests.user_id[r], requests.now[r]
        restart(state, delivery.seed, _STREAM + request)
        for position in range(block.n_returned[r]):
            # 1. A returned post.
            post = post_id[block.returned[i]]
            returned.request_id[i], returned.user_id[i], returned.post_id[i] = request, user, post
            returned.position[i], returned.now[i] = position, now
            i += 1
            if position >= block.depth[r]:
                continue
            # 2. Its impression.
            event = (request * delivery.slate_size + position) * EVENTS_PER_POSITION
            bits, at = block.actions[j], block.shown_at[j]
            arrival = _arrival(at, delivery.late_share, state)
            shown.event_id[j], shown.request_id[j], shown.user_id[j], shown.post_id[j] = event, request, user, post
            shown.position[j], shown.event_time[j], shown.ingest_time[j] = position, at, arrival
            # 3. The same impression again, up to ten minutes later.
            resent = 0
            if bits & RESENT:
                resent = SECOND + below(state, 600 * SECOND)
                shown.event_id[again], shown.request_id[again] = event, request
                shown.user_id[again], shown.post_id[again], shown.position[again] = user, post, position
                shown.event_time[again], shown.ingest_time[again] = at, arrival + resent
                again += 1
            # 4. What was done to it.
            if bits & (CLICKED | HIDDEN):
                impression = ShownPost(event, request, user, post, at, bits, block.dwelt[j], resent)
                a = _fill_actions(impression, delivery, state, rows.actions, a)
            j += 1


@JIT
def first_delay(delayed_share, state):  # type: ignore[no-untyped-def]
    """Microseconds from a post on screen to its first action: about four seconds, for a share of them much longer."""
    delay = SECOND + int(3 * SECOND * exponential(state))
    if uniform(state) < delayed_share:
        delay += int(LONG_DELAY * exponential(state))
    return delay


@JIT
def _action_of(kind, bits, delay, dwelt):  # type: ignore[no-untyped-def]
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


def actions_of(bits: int, delay: int, dwelt: float) -> list[tuple[int, int]]:
    """The actions behind the bits: (row of ACTION_TYPES, microseconds after the post came on screen)."""
    kinds = ((kind, *_action_of(kind, bits, delay, dwelt)) for kind in range(DWELL + 1))
    return [(kind, after) for kind, done, after in kinds if done]


@JIT
def _fill_actions(shown, delivery, state, actions, a):  # type: ignore[no-untyped-def]
    """Write what was done to one post (`ShownPost`) from row a on; gives the next free row."""
    delay = first_delay(delivery.delayed_share, state)
    for kind in range(DWELL + 1):
        done, after = _action_of(kind, shown.bits, delay, shown.dwelt)
        if not done:
            continue
        at = shown.at + after
        arrival = _arrival(at, delivery.late_share, state)
        for turn in range(2 if shown.resent else 1):
            actions.event_id[a], actions.request_id[a] = shown.event_id + 1 + kind, shown.request_id
            actions.user_id[a], actions.post_id[a], actions.type[a] = shown.user_id, shown.post_id, kind
            actions.value[a] = shown.dwelt if kind == DWELL else np.nan
            actions.event_time[a], actions.ingest_time[a] = at, arrival + turn * shown.resent
            a += 1
    return a
