"""Training examples for rankers: one row per exposure, with features as the request saw them, label and position.

Takes logs, catalogue and towers; gives matrices, for training and evaluation. Serving builds the same columns from the
online store (`pipeline`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.features.assemble import assemble
from recsys.features.histories import Clicks, histories_at
from recsys.features.inputs import make_inputs
from recsys.features.point_in_time import EventsSeen, point_in_time
from recsys.features.spec import NAMES
from recsys.features.users import UserBatch
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.events import CLICK, Events
from recsys.offline.logs.exposures import Exposures
from recsys.retrieval.towers.inference import Towers, tower_scores
from recsys.types import Floats, Ids, Mask, Rows, Times

_REQUESTS_AT_ONCE = 65_536
"""Requests per block, which bounds the memory for user vectors."""


@dataclass(frozen=True)
class Examples:
    """E exposures in order of time."""

    features: Floats
    """(E, F)."""
    click: Mask
    """The label, (E,)."""
    position: Rows
    """0-based, -1 unknown, (E,)."""

    def __len__(self) -> int:
        return len(self.click)

    def where(self, mask: Mask) -> Examples:
        """The rows where the mask is true."""
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
    """Features, labels and positions of exposures, each as its request could have read the features.

    Args:
        exposures: in order of time, (E,).
        post_vectors: of the whole catalogue, (N, D).
        history_size: clicks the online store keeps per user.
    """
    # 1. Counters as of each exposure: entity name to (E, A, H).
    counts = point_in_time(
        catalogue, events, exposures.user_row, exposures.post_row, exposures.now,
        EventsSeen(exposures.seen, exposures.history_seen), n_threads,
    )  # fmt: skip
    # 2. Find the requests. Exposures of one request are adjacent, since they share `now`; their user is built once.
    # Imported logs may give one request id to several users or to a whole session, so all four columns must agree.
    new_request = np.ones(len(exposures), bool)
    same = (exposures.request_id, exposures.user_row, exposures.now, exposures.history_seen)
    new_request[1:] = np.any([np.diff(column) != 0 for column in same], axis=0)
    first = np.flatnonzero(new_request)  # first exposure of each of R requests, (R,)
    ends = np.append(first, len(exposures))
    # 3. Block by block: users, tower scores, matrix.
    features = np.empty((len(exposures), len(NAMES)), np.float32)
    for start in range(0, len(first), _REQUESTS_AT_ONCE):
        requests = first[start : start + _REQUESTS_AT_ONCE]  # (r,)
        rows = slice(requests[0], ends[start + len(requests)])  # their exposures, C in all
        size = np.diff(ends[start : start + len(requests) + 1])  # exposures of each request, (r,)
        request = np.repeat(np.arange(len(requests), dtype=np.int32), size)  # (C,)
        post_row, now = exposures.post_row[rows], exposures.now[rows]
        users = user_batch(
            catalogue, events, exposures.user_row[requests], exposures.now[requests],
            exposures.history_seen[requests], history_size,
        )  # fmt: skip
        vectors = towers.user_vectors(catalogue, users)[request]  # (C, D)
        score = tower_scores(towers, catalogue, vectors, post_vectors, post_row, now)  # (C,)
        of_rows = {name: count[rows] for name, count in counts.items()}
        features[rows] = assemble(catalogue, make_inputs(catalogue, users, of_rows, request, post_row, score))
    return Examples(features, exposures.click, exposures.position)


def user_batch(
    catalogue: Catalogue, events: Events, user_row: Rows, now: Times, seen: Ids, history_size: int
) -> UserBatch:
    """B users at the moment of their requests.

    Args:
        events: in order of arrival.
        user_row: -1 unknown, (B,).
        now: microseconds, (B,).
        seen: how many of the events each request had seen, (B,).
        history_size: clicks in a history.
    """
    place = np.flatnonzero(events.action == CLICK)
    clicks = Clicks(events.user_row[place], events.post_row[place], events.time[place])
    history = histories_at(clicks, place, user_row, seen, history_size)
    return UserBatch.from_rows(catalogue, user_row, history, now)
