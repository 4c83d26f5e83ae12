"""Turn blocks of requests into rows of the lake's tables, plus the truth about every impression.

Takes what happened, gives Arrow tables by name, `truth` among them, without copying the columns. It does not know where
they are written.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from recsys.config import WorldConfig
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.types import Ids
from recsys.world.behaviour.policies import POLICIES
from recsys.world.behaviour.sessions import Block, Filled, Sessions
from recsys.world.population.population import Population
from recsys.world.writing.events import ActionRows, ImpressionRows, Requests, ReturnedRows, events_of

_TIME = pa.timestamp("us", "UTC")
FIRST_REQUEST_ID = 1 << 50
"""The world's ids lie far above those of live clients, who number their requests and events from 1."""
LOG_TABLES = ("requests", "returned", "impressions", "actions")


def log_tables(
    population: Population, sessions: Sessions, block: Block, filled: Filled, first_request: int, config: WorldConfig
) -> dict[str, pa.Table]:
    """Tables `requests`, `returned`, `impressions`, `actions` and `truth` of a block of sessions.

    Args:
        first_request: requests written before; request ids continue from there, starting above `FIRST_REQUEST_ID`.
    """
    n_requests = np.diff(sessions.first)  # of each session, (S,)
    requests = Requests(
        id=FIRST_REQUEST_ID + first_request + 1 + np.arange(filled.requests, dtype=np.int64),
        user_id=population.users.id[np.repeat(sessions.user, n_requests)],
        now=sessions.now,
    )
    session_id = FIRST_REQUEST_ID + 1 + np.repeat(sessions.number, n_requests)
    rows = events_of(block, requests, filled, population.posts.id, config)
    return {
        "requests": _requests(requests, session_id, block, population.posts.id, filled.candidates),
        "returned": _returned(rows.returned, block),
        "impressions": _impressions(rows.impressions),
        "actions": _actions(rows.actions),
        "truth": _truth(rows.impressions, block, filled.shown),
    }


def _times(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.int64()).cast(_TIME)


def _requests(requests: Requests, session_id: Ids, block: Block, post_id: Ids, n_candidates: int) -> pa.Table:
    offsets = np.concatenate([[0], np.cumsum(block.n_candidates)]).astype(np.int32)
    candidates = pa.ListArray.from_arrays(pa.array(offsets), pa.array(post_id[block.candidates[:n_candidates]]))
    policy = pa.DictionaryArray.from_arrays(pa.array(block.policy), pa.array(POLICIES)).cast(pa.string())
    return pa.table(
        {
            "request_id": requests.id,
            "user_id": requests.user_id,
            "now": _times(requests.now),
            "policy": policy,
            "candidates": candidates,
            "session_id": session_id,
        }
    )


def _returned(returned: ReturnedRows, block: Block) -> pa.Table:
    columns = returned._asdict() | {"now": _times(returned.now)}
    return pa.table(columns | {"propensity": block.propensity[: len(returned.now)]})


def _impressions(shown: ImpressionRows) -> pa.Table:
    times = {name: _times(getattr(shown, name)) for name in ("event_time", "ingest_time")}
    return pa.table(shown._asdict() | times)


def _actions(actions: ActionRows) -> pa.Table:
    times = {name: _times(getattr(actions, name)) for name in ("event_time", "ingest_time")}
    kind = pa.DictionaryArray.from_arrays(pa.array(actions.type), pa.array(ACTION_TYPES)).cast(pa.string())
    value = pa.array(actions.value, mask=np.isnan(actions.value))
    return pa.table(actions._asdict() | times | {"type": kind, "value": value})


def _truth(shown: ImpressionRows, block: Block, n: int) -> pa.Table:
    """P(action | on screen) of the first n impressions; `dwell_s` is the mean after a click."""
    examined, relevant = block.examination[:n], block.relevance[:n]
    clicked = examined * relevant
    return pa.table(
        {
            "request_id": shown.request_id[:n],
            "position": shown.position[:n],
            "post_id": shown.post_id[:n],
            "n_same_topic": block.n_same_topic[:n],
            "examination": examined,
            "relevance": relevant,
            "click_probability": clicked,
            "like_probability": clicked * block.like[:n],
            "share_probability": clicked * block.share[:n],
            "hide_probability": examined * (1 - relevant) * block.hide[:n],
            "dwell_s": block.dwell[:n],
        }
    )
