"""Blocks of requests as rows of the lake's tables, and beside them the truth about every impression.

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
from recsys.world.behaviour.sessions import Block, Sessions
from recsys.world.population.population import Population
from recsys.world.writing.events import ActionRows, ImpressionRows, Requests, ReturnedRows, events_of

_TIME = pa.timestamp("us", "UTC")
FIRST_REQUEST_ID = 1 << 50
"""Clients of a server over this world number their own requests and events from 1; the world's ids lie far above."""
LOG_TABLES = ("requests", "returned", "impressions", "actions")


def log_tables(
    population: Population, sessions: Sessions, begin: int, end: int, block: Block,
    filled: tuple[int, int, int, int], first_request: int, config: WorldConfig,
) -> dict[str, pa.Table]:  # fmt: skip
    """Tables `requests`, `returned`, `impressions`, `actions` and `truth` of sessions begin .. end - 1.

    Args:
        filled: requests, candidates, returned and shown posts of the block.
        first_request: requests written before; request ids continue from there, starting above `FIRST_REQUEST_ID`.
    """
    n, n_candidates, n_returned, n_shown = filled
    of_request = slice(int(sessions.first[begin]), int(sessions.first[end]))
    turns = np.diff(sessions.first[begin : end + 1])
    requests = Requests(
        id=FIRST_REQUEST_ID + first_request + 1 + np.arange(n, dtype=np.int64),
        user_id=population.users.id[np.repeat(sessions.user[begin:end], turns)],
        now=sessions.now[of_request],
    )
    session_id = FIRST_REQUEST_ID + 1 + np.repeat(sessions.number[begin:end], turns)
    returned, shown, acts = events_of(block, requests, n_returned, n_shown, population.posts.id, config)
    return {
        "requests": _requests(requests, session_id, block, population.posts.id, n_candidates),
        "returned": _returned(returned, block),
        "impressions": _impressions(shown),
        "actions": _actions(acts),
        "truth": _truth(shown, block, n_shown),
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


def _actions(acts: ActionRows) -> pa.Table:
    times = {name: _times(getattr(acts, name)) for name in ("event_time", "ingest_time")}
    kind = pa.DictionaryArray.from_arrays(pa.array(acts.type), pa.array(ACTION_TYPES)).cast(pa.string())
    value = pa.array(acts.value, mask=np.isnan(acts.value))
    return pa.table(acts._asdict() | times | {"type": kind, "value": value})


def _truth(shown: ImpressionRows, block: Block, n: int) -> pa.Table:
    """Probabilities of what the user did, examination included; `dwell_s` is the mean after a click."""
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
