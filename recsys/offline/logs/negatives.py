"""Negatives for logs that only say what was clicked: posts that could have been shown, drawn uniformly.

Takes clicks and the posts that existed, gives (click, post) pairs. Each draw is a hash of the click's id, the place and
the attempt, so that over one catalogue the same click gets the same draws in every process, whatever other clicks there
are. It does not know what a click is an exposure of.
"""

from __future__ import annotations

import numpy as np

from recsys.hashing import GOLDEN_GAMMA, mix64
from recsys.types import Ids, Mask, Rows, Times

_ATTEMPTS = 30
"""Draws until a place stays empty: a user who clicked nearly everything gets fewer negatives."""
_AT_ONCE = 1_000_000
"""Clicks worked on at once, which bounds the memory."""


def draw_negatives(
    click_id: Ids, user: Ids, post_row: Rows, now: Times, created_at: Times, visible: Mask, n: int
) -> tuple[Ids, Rows]:
    """Up to `n` different posts per click, each visible, created by `now` and not clicked by the same user by then.

    What a user clicks later may be drawn: to leave it out would tell what is still to come.

    Args:
        click_id: what the draws depend on, (M,).
        user: ids, (M,).
        post_row: clicked posts, -1 for one the catalogue does not know, (M,).
        now: microseconds, (M,).
        created_at, visible: of the catalogue, (N,).
    Returns: places of clicks, ascending, and post rows, both (Q,), Q <= n * M.
    """
    offered = np.flatnonzero(visible).astype(np.int32)
    offered = offered[np.argsort(created_at[offered], kind="stable")]
    n_offered = np.searchsorted(created_at[offered], now, side="right").astype(np.int64)
    n_posts = np.int64(len(created_at) + 1)
    person = np.unique(user, return_inverse=True)[1].astype(np.int64) * n_posts
    order = np.lexsort((now, person + post_row))
    clicked, first = np.unique((person + post_row)[order], return_index=True)
    clicked_at = now[order][first]
    found = [np.empty((0, n), np.int32)]
    for start in range(0, len(click_id), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found.append(_draw(click_id[part], person[part], now[part], n_offered[part], offered, clicked, clicked_at, n))
    rows = np.concatenate(found)
    click, place = np.nonzero(rows >= 0)
    return click, rows[click, place]


def _draw(
    click_id: Ids, person: Ids, now: Times, n_offered: Ids, offered: Rows, clicked: Ids, clicked_at: Times, n: int
) -> Rows:  # fmt: skip
    """Post rows, -1 where none was found, (M, n).

    Args:
        clicked, clicked_at: person and post of every click, ascending, and when it was first made.
    """
    chosen = np.full((len(click_id), n), -1, np.int32)
    for place in range(n):
        open_rows = np.flatnonzero(n_offered > 0)
        for attempt in range(_ATTEMPTS):
            if not len(open_rows):
                break
            seed = mix64(click_id[open_rows].astype(np.uint64) + GOLDEN_GAMMA)
            number = mix64(seed + np.uint64(place * _ATTEMPTS + attempt))
            post = offered[(number % n_offered[open_rows].astype(np.uint64)).astype(np.int64)]
            key = person[open_rows] + post
            at = np.minimum(np.searchsorted(clicked, key), len(clicked) - 1)
            by_then = (clicked[at] == key) & (clicked_at[at] <= now[open_rows])
            good = ~by_then & (chosen[open_rows, :place] != post[:, None]).all(axis=1)
            chosen[open_rows[good], place] = post[good]
            open_rows = open_rows[~good]
    return chosen
