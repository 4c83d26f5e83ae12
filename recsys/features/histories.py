"""Click histories as a request read them: the same function for training the towers, for rankers and for evaluation.

Takes a log of clicks and queries, gives post rows. Which clicks a query sees goes by their order of arrival, which of
those come first by the time of the click: a click that arrives late takes its place among the older ones, as it does
in the online store. It does not know which clock the caller's times are on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.features.decay import JIT
from recsys.types import Rows, Times

KEPT = 2
"""Clicks kept per user, in history sizes: posts that a reader does not know are dropped, the rest still suffices."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """Clicks of a log; every array has length M."""

    user_row: Rows
    """-1 for a user the catalogue does not know: nobody's history."""
    post_row: Rows
    """-1 for a post it does not know: takes a place among the clicks kept and none in a history."""
    time: Times

    def __len__(self) -> int:
        return len(self.user_row)


def histories_at(clicks: Clicks, order: Times, user_row: Rows, query_order: Times, size: int) -> Rows:
    """Each query's newest clicks, -1 padded, (Q, size).

    Of the clicks it sees, the newest `KEPT * size` are kept (ties: smaller post row first); of these the first `size`
    with a known post are its history.

    Args:
        order, query_order: a click is seen when its order is lower than the query's, (M,) and (Q,).
        user_row: -1 for a user without a past, (Q,).
    """
    histories = np.full((len(user_row), size), -1, np.int32)
    known = np.flatnonzero(clicks.user_row >= 0)
    clicked = known[np.lexsort((order[known], clicks.user_row[known]))]
    asked = np.lexsort((query_order, user_row))
    _walk(
        clicks.user_row[clicked].astype(np.int64), clicks.post_row[clicked].astype(np.int64), clicks.time[clicked],
        order[clicked], user_row.astype(np.int64), query_order.astype(np.int64), asked, KEPT * size, histories,
    )  # fmt: skip
    return histories


@JIT
def _walk(user, post, time, order, query_user, query_order, asked, n_kept, histories):  # type: ignore[no-untyped-def]
    """One pass over clicks and queries, both by user and order; the user's clicks kept so far stand oldest first."""
    kept_time = np.empty(n_kept + 1, np.int64)
    kept_post = np.empty(n_kept + 1, np.int64)
    n = 0
    i = 0
    of_user = np.int64(-1)
    for q in asked:
        if query_user[q] < 0:
            continue
        if query_user[q] != of_user:
            of_user, n = query_user[q], 0
            while i < user.shape[0] and user[i] < of_user:
                i += 1
        while i < user.shape[0] and user[i] == of_user and order[i] < query_order[q]:
            at = n
            while at > 0 and (
                kept_time[at - 1] > time[i] or (kept_time[at - 1] == time[i] and kept_post[at - 1] < post[i])
            ):
                kept_time[at], kept_post[at] = kept_time[at - 1], kept_post[at - 1]
                at -= 1
            kept_time[at], kept_post[at] = time[i], post[i]
            n += 1
            if n > n_kept:
                n = n_kept
                kept_time[:n], kept_post[:n] = kept_time[1:].copy(), kept_post[1:].copy()
            i += 1
        place = 0
        for at in range(n - 1, -1, -1):
            if kept_post[at] >= 0 and place < histories.shape[1]:
                histories[q, place] = kept_post[at]
                place += 1
