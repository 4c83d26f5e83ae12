"""Exposures as rows a ranker learns from: features as the request saw them, labels, logged positions.

Takes logs, catalogue and towers, gives matrices. The same function serves training and evaluation; serving builds the
same columns from the online store (`pipeline`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.features.assemble import Inputs, assemble
from recsys.features.crosses import follow_crosses, history_shares
from recsys.features.histories import Clicks, histories_at
from recsys.features.point_in_time import point_in_time
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.labels import CLICK, Events, Exposures
from recsys.retrieval.towers.inference import Towers, tower_scores
from recsys.retrieval.towers.user_input import UserBatch
from recsys.types import Floats, Ids, Mask, Rows, Times

_REQUESTS_AT_ONCE = 65_536
"""Bounds the memory for user vectors."""


@dataclass(frozen=True)
class Examples:
    """E exposures in order of time."""

    features: Floats
    """(E, F)."""
    click: Mask
    position: Rows
    """0-based, -1 unknown, (E,)."""

    def __len__(self) -> int:
        return len(self.click)

    def where(self, mask: Mask) -> Examples:
        return Examples(self.features[mask], self.click[mask], self.position[mask])


def build_examples(
    catalogue: Catalogue,
    events: Events,
    exposures: Exposures,
    towers: Towers,
    post_vectors: Floats,
    history_size: int,
    n_threads: int,
) -> Examples:
    """Features of exposures (in order of time), each as its request could have read them.

    Args:
        post_vectors: of the whole catalogue, (N, D).
        history_size: clicks the online store remembers per user.
    """
    counts = point_in_time(
        catalogue, events, exposures.user_row, exposures.post_row, exposures.now, exposures.seen, n_threads
    )
    follows_author, topic_share = follow_crosses(
        catalogue, catalogue.follows_start, catalogue.follows, exposures.user_row, exposures.post_row
    )
    personal = _personal_columns(catalogue, events, exposures, towers, post_vectors, history_size)
    inputs = Inputs(
        counts=counts,
        post_row=exposures.post_row,
        user_language=np.where(exposures.user_row >= 0, catalogue.user_language[exposures.user_row], -1),
        follows_author=follows_author,
        follows_topic_share=topic_share,
        history_language_share=personal[0],
        history_media_share=personal[1],
        tower_score=personal[2],
        now=exposures.now,
    )
    return Examples(assemble(catalogue, inputs), exposures.click, exposures.position)


def user_batch(
    catalogue: Catalogue, events: Events, user_row: Rows, now: Times, seen: Ids, history_size: int
) -> UserBatch:
    """Users as a request at `now` knew them, having seen so many of the events, (B,)."""
    place = np.flatnonzero(events.action == CLICK)
    clicks = Clicks(events.user_row[place], events.post_row[place], events.time[place])
    history = histories_at(clicks, place, user_row, seen, history_size)
    return UserBatch.from_rows(catalogue, user_row, history, now)


def _personal_columns(
    catalogue: Catalogue, events: Events, exposures: Exposures, towers: Towers, post_vectors: Floats, history_size: int
) -> Floats:
    """What needs the user's history: its language share, its media share and the two-tower similarity, (3, E)."""
    columns = np.empty((3, len(exposures)), np.float32)
    # One history and one user vector per request: its exposures stand together, since they share `now`. Outside logs
    # may give one id to what several users asked for, or to a whole session.
    change = np.ones(len(exposures), bool)
    same = (exposures.request_id, exposures.user_row, exposures.now, exposures.history_seen)
    change[1:] = np.any([np.diff(column) != 0 for column in same], axis=0)
    first = np.flatnonzero(change)
    ends = np.append(first, len(exposures))
    for start in range(0, len(first), _REQUESTS_AT_ONCE):
        requests = first[start : start + _REQUESTS_AT_ONCE]
        size = np.diff(ends[start : start + len(requests) + 1])
        users, now = exposures.user_row[requests], exposures.now[requests]
        batch = user_batch(catalogue, events, users, now, exposures.history_seen[requests], history_size)
        rows = slice(requests[0], ends[start + len(requests)])
        posts, request = exposures.post_row[rows], np.repeat(np.arange(len(requests), dtype=np.int32), size)
        columns[:2, rows] = history_shares(catalogue, batch.history, request, posts)
        vectors = towers.user_vectors(catalogue, batch)
        columns[2, rows] = tower_scores(towers, catalogue, vectors[request], post_vectors, posts, exposures.now[rows])
    return columns
