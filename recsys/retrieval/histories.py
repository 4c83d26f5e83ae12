"""Click histories as they stood at a moment: the same function for training the towers, for training rankers and for
evaluation.

Takes a log of clicks and queries of (user, moment), gives post rows. A query sees clicks strictly before its moment, so
a click never sees itself. It does not know which clock the caller's times are on (arrival times give what a server
could have known).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.types import Rows, Times


@dataclass(frozen=True, slots=True)
class Clicks:
    """Clicks in order of time; every array has length M."""

    user_row: Rows
    post_row: Rows
    time: Times

    def __len__(self) -> int:
        return len(self.user_row)


def histories_at(
    click_user: Rows, click_post: Rows, click_time: Times, query_user: Rows, query_now: Times, size: int
) -> Rows:
    """Each query's last clicks before its moment, newest first, -1 padded, (Q, size).

    Args:
        click_user, click_post, click_time: the log, in any order, (M,). Clicks of one user at one time come in order of
        post row.
        query_user: user rows, -1 for a user without a past, (Q,).
        query_now: a click counts when its time is below this, (Q,).
    """
    known = np.flatnonzero(click_user >= 0)
    user, post, time = click_user[known].astype(np.int64), click_post[known], click_time[known]
    moments = np.unique(time)
    n_keys = np.int64(len(moments) + 1)
    # One integer orders clicks by user, then time; ties fall so that the lowest post row is the newest.
    key = user * n_keys + np.searchsorted(moments, time)
    order = np.lexsort((-post, key))
    key, post = key[order], post[order]
    asked = query_user.astype(np.int64)
    first = np.searchsorted(key, asked * n_keys)
    end = np.searchsorted(key, asked * n_keys + np.searchsorted(moments, query_now))
    place = end[:, None] - 1 - np.arange(size)  # (Q, size)
    seen = place >= first[:, None]  # (an unknown user's key lies before all clicks)
    if not len(post):
        return np.full((len(asked), size), -1, np.int32)
    return np.where(seen, post[np.where(seen, place, 0)], -1).astype(np.int32)
