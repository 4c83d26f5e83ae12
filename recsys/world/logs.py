"""Outcomes as rows of the lake's tables, with delivery as it is: delayed, sometimes late by hours, sometimes twice.

Takes what happened in a chunk of sessions, gives Arrow tables by name, `truth` among them. It does not know where they
are written.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.config import WorldConfig
from recsys.offline.schemas import ACTION_TYPES
from recsys.types import HOUR, SECOND, Ids, Mask, Times
from recsys.world.choice import Truth, examination
from recsys.world.policies import POLICIES
from recsys.world.population import Population
from recsys.world.sessions import CLICKED, HIDDEN, LIKED, SHARED, Outcome, Sessions

_TIME = pa.timestamp("us", "UTC")
FIRST_REQUEST_ID = 1 << 50
"""Clients of a server over this world number their own requests and events from 1; the world's ids lie far above."""
_EVENTS_PER_POSITION = 8
"""Event ids are request id, position and kind packed together; 0 is the impression."""


def log_tables(
    population: Population, truth: Truth, sessions: Sessions, outcome: Outcome, first_request: int,
    config: WorldConfig, rng: np.random.Generator,
) -> dict[str, pa.Table]:  # fmt: skip
    """Tables `requests`, `returned`, `impressions`, `actions` and `truth` of one chunk.

    Args:
        first_request: requests written before; request ids continue from there, starting above `FIRST_REQUEST_ID`.
    """
    n, slate_size = outcome.post.shape
    request_id = FIRST_REQUEST_ID + first_request + 1 + np.arange(n, dtype=np.int64)
    user_id = population.user_id[np.repeat(sessions.user, np.diff(sessions.first))]
    row, position = np.nonzero(outcome.post >= 0)
    post_id = population.post_id[outcome.post[row, position]]
    returned = pa.table(
        {
            "request_id": request_id[row],
            "user_id": user_id[row],
            "post_id": post_id,
            "position": position.astype(np.int16),
            "now": pa.array(sessions.now[row], _TIME),
            "propensity": outcome.propensity[row, position],
        }
    )
    shown = position < outcome.depth[row]
    event_base = (request_id[row] * slate_size + position) * _EVENTS_PER_POSITION
    # The first post is on screen after a second, each further one two seconds later, give or take.
    shown_at = sessions.now[row] + SECOND + position * 2 * SECOND + rng.integers(0, SECOND, len(row))
    impressions = pa.table(
        {
            "event_id": event_base,
            "request_id": request_id[row],
            "user_id": user_id[row],
            "post_id": post_id,
            "position": position.astype(np.int16),
            "event_time": pa.array(shown_at, _TIME),
            "ingest_time": pa.array(_arrival(shown_at, config, rng), _TIME),
        }
    ).filter(pa.array(shown))
    examined = examination(position, truth.position_bias)
    relevant = outcome.relevance[row, position]
    truths = pa.table(
        {
            "request_id": request_id[row],
            "position": position.astype(np.int16),
            "post_id": post_id,
            "n_same_topic": outcome.n_same_topic[row, position].astype(np.int16),
            "relevance": relevant,
            "examination": examined.astype(np.float32),
            "click_probability": (relevant * examined).astype(np.float32),
        }
    ).filter(pa.array(shown))
    return {
        "requests": _requests(population, sessions, outcome, request_id, user_id),
        "returned": returned,
        "impressions": impressions,
        "actions": _actions(outcome, row, position, request_id, user_id, post_id, event_base, shown_at, config, rng),
        "truth": truths,
    }


def _requests(population: Population, sessions: Sessions, outcome: Outcome, request_id: Ids, user_id: Ids) -> pa.Table:
    filled = outcome.candidates >= 0
    offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
    candidates = pa.ListArray.from_arrays(pa.array(offsets), pa.array(population.post_id[outcome.candidates[filled]]))
    policy = pa.DictionaryArray.from_arrays(pa.array(outcome.policy), pa.array(POLICIES)).cast(pa.string())
    return pa.table(
        {
            "request_id": request_id,
            "user_id": user_id,
            "now": pa.array(sessions.now, _TIME),
            "policy": policy,
            "candidates": candidates,
        }
    )


def _actions(
    outcome: Outcome, row: np.ndarray, position: np.ndarray, request_id: Ids, user_id: Ids, post_id: Ids,
    event_base: Ids, shown_at: Times, config: WorldConfig, rng: np.random.Generator,
) -> pa.Table:  # fmt: skip
    bits, dwell = outcome.actions[row, position], outcome.dwell[row, position]
    delay = SECOND + (3 * SECOND * rng.exponential(size=len(row))).astype(np.int64)
    clicked = (bits & CLICKED) > 0
    kinds: tuple[tuple[str, Mask, Times], ...] = (
        ("click", clicked, delay),
        ("like", (bits & LIKED) > 0, 2 * delay),
        ("share", (bits & SHARED) > 0, 3 * delay),
        ("hide", (bits & HIDDEN) > 0, delay),
        ("dwell", clicked, delay + (dwell * SECOND).astype(np.int64)),
    )
    parts = []
    for name, happened, after in kinds:
        chosen = np.flatnonzero(happened)
        at = shown_at[chosen] + after[chosen]
        part = pa.table(
            {
                "event_id": event_base[chosen] + 1 + ACTION_TYPES.index(name),
                "request_id": request_id[row[chosen]],
                "user_id": user_id[row[chosen]],
                "post_id": post_id[chosen],
                "type": pa.repeat(name, len(chosen)),
                "value": pa.array(dwell[chosen], mask=np.full(len(chosen), name != "dwell")),
                "event_time": pa.array(at, _TIME),
                "ingest_time": pa.array(_arrival(at, config, rng), _TIME),
            }
        )
        again = part.filter(pa.array(rng.random(len(chosen)) < config.redelivered_share))
        later = again["ingest_time"].cast(pa.int64()).to_numpy() + rng.integers(SECOND, 600 * SECOND, len(again))
        parts += [part, again.set_column(7, "ingest_time", pa.array(later, _TIME))]
    return pa.concat_tables(parts)


def _arrival(event_time: Times, config: WorldConfig, rng: np.random.Generator) -> Times:
    """When events reach the store: about a second later, a few minutes to hours late."""
    delay = 0.2 * SECOND + rng.exponential(SECOND, len(event_time))
    late = rng.random(len(event_time)) < config.late_share
    delay[late] += rng.exponential(HOUR, int(late.sum()))
    return event_time + delay.astype(np.int64)
