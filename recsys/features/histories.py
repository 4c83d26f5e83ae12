"""Click histories as each request read them, for training towers, training rankers and evaluation.

Takes a log of clicks and queries; gives post rows. A query sees the clicks that arrived before it, newest click first.
So a click that arrives late is inserted among the older ones, as in the online store. It does not know which clock the
times come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.features.decay import JIT
from recsys.types import Ids, Rows, Times

KEPT = 2
"""Clicks kept per user, as a multiple of the history size. A reader drops the posts it does not know; the spare clicks
fill their places."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """Clicks of a log; every array has length M."""

    user_row: Rows
    """-1 for a user the catalogue does not know; the click is in no history."""
    post_row: Rows
    """-1 for a post the catalogue does not know; the click counts as kept but is left out of the history."""
    time: Times
    """Microseconds."""

    def __len__(self) -> int:
        return len(self.user_row)


def histories_at(clicks: Clicks, order: Times, user_row: Rows, query_order: Times, size: int) -> Rows:
    """The newest clicks each query sees, -1 padded, (Q, size).

    The newest `KEPT * size` clicks that the query sees are kept (ties: smaller post row first). The first `size` of
    them with a known post are the history.

    Args:
        order, query_order: a query sees the clicks of lower order, (M,) and (Q,).
        user_row: user of each query, -1 for a user without history, (Q,).
    """
    histories = np.full((len(user_row), size), -1, np.int32)
    # Clicks and queries, both by user and then by order, so that one pass over both suffices.
    known = np.flatnonzero(clicks.user_row >= 0)
    by_user = known[np.lexsort((order[known], clicks.user_row[known]))]
    log = _SortedClicks(
        user=clicks.user_row[by_user].astype(np.int64),
        post=clicks.post_row[by_user].astype(np.int64),
        time=clicks.time[by_user],
        order=order[by_user],
    )
    by_user = np.lexsort((query_order, user_row))
    queries = _SortedQueries(by_user, user_row[by_user].astype(np.int64), query_order[by_user].astype(np.int64))
    _walk(log, queries, KEPT * size, histories)
    return histories


class _SortedClicks(NamedTuple):
    """Clicks of known users, by user and then by order, (M,) each."""

    user: Ids
    post: Ids
    time: Times
    order: Times


class _SortedQueries(NamedTuple):
    """Queries by user and then by order, (Q,) each."""

    number: Ids
    """Row of the query in the result."""
    user: Ids
    order: Times


@JIT
def _walk(clicks, queries, n_kept, histories):  # type: ignore[no-untyped-def]
    """Fill `histories` (Q, size) in one pass. The current user's kept clicks are held oldest first."""
    kept_time = np.empty(n_kept + 1, np.int64)
    kept_post = np.empty(n_kept + 1, np.int64)
    n = 0  # clicks kept of the current user
    i = 0  # next click
    current = np.int64(-1)
    for q in range(queries.number.shape[0]):
        user = queries.user[q]
        if user < 0:
            continue
        # 1. A new user: start empty and skip the clicks of users in between.
        if user != current:
            current, n = user, 0
            while i < clicks.user.shape[0] and clicks.user[i] < user:
                i += 1
        # 2. Insert the clicks that the query sees, by time; drop the oldest if there are too many.
        while i < clicks.user.shape[0] and clicks.user[i] == user and clicks.order[i] < queries.order[q]:
            time, post = clicks.time[i], clicks.post[i]
            at = n
            while at > 0 and (kept_time[at - 1] > time or (kept_time[at - 1] == time and kept_post[at - 1] < post)):
                kept_time[at], kept_post[at] = kept_time[at - 1], kept_post[at - 1]
                at -= 1
            kept_time[at], kept_post[at] = time, post
            n += 1
            if n > n_kept:
                n = n_kept
                kept_time[:n], kept_post[:n] = kept_time[1:].copy(), kept_post[1:].copy()
            i += 1
        # 3. Copy the newest known posts into the query's row.
        place = 0
        for at in range(n - 1, -1, -1):
            if kept_post[at] >= 0 and place < histories.shape[1]:
                histories[queries.number[q], place] = kept_post[at]
                place += 1
