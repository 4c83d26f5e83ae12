"""Negatives for logs that hold only clicks: posts that could have been shown, drawn uniformly.

Takes clicks and the posts that existed, gives (click, post) pairs. Each draw is a hash of the click's id, the place and
the attempt. So the same click over the same catalogue gets the same draws in every process, whatever other clicks
there are. It does not know about exposures.
"""

from __future__ import annotations

import numpy as np

from recsys.hashing import GOLDEN_GAMMA, mix64
from recsys.types import Ids, Mask, Rows, Times

_ATTEMPTS = 30
"""Draws per place before it stays empty: a user who clicked nearly everything gets fewer negatives."""
_CHUNK = 1_000_000
"""Clicks processed at a time; bounds memory."""


def draw_negatives(
    click_id: Ids, user: Ids, post_row: Rows, now: Times, created_at: Times, visible: Mask, n: int
) -> tuple[Ids, Rows]:
    """Draw up to `n` different posts per click: visible, created by `now`, and not clicked by the user by then.

    Posts that the user clicks later may be drawn: excluding them would leak the future.

    Args:
        click_id: event ids, which seed the draws, (M,).
        user: user ids, (M,).
        post_row: clicked posts, -1 for a post outside the catalogue, (M,).
        now: microseconds, (M,).
        created_at, visible: of the catalogue, (N,).
    Returns: places of clicks, ascending, and drawn post rows, both (Q,), Q <= n * M.
    """
    # 1. Visible posts by creation time: a click at `now` may draw from the first `n_available` of them.
    posts = np.flatnonzero(visible).astype(np.int32)
    posts = posts[np.argsort(created_at[posts], kind="stable")]
    n_available = np.searchsorted(created_at[posts], now, side="right").astype(np.int64)  # (M,)
    # 2. One key per (user, post), and when the user first clicked that post.
    n_posts = np.int64(len(created_at) + 1)
    user_base = np.unique(user, return_inverse=True)[1].astype(np.int64) * n_posts  # (M,)
    order = np.lexsort((now, user_base + post_row))
    clicked, first = np.unique((user_base + post_row)[order], return_index=True)
    clicked_at = now[order][first]
    # 3. Draw, a chunk of clicks at a time.
    drawn = [np.empty((0, n), np.int32)]
    for start in range(0, len(click_id), _CHUNK):
        part = slice(start, start + _CHUNK)
        drawn.append(
            _draw(click_id[part], user_base[part], now[part], n_available[part], posts, clicked, clicked_at, n)
        )
    rows = np.concatenate(drawn)  # (M, n)
    click, place = np.nonzero(rows >= 0)
    return click, rows[click, place]


def _draw(
    click_id: Ids, user_base: Ids, now: Times, n_available: Ids, posts: Rows, clicked: Ids, clicked_at: Times, n: int
) -> Rows:  # fmt: skip
    """Drawn post rows, -1 where none was found, (M, n).

    Args:
        user_base: added to a post row it makes the key of (user, post), (M,).
        n_available: how many of `posts` existed by `now`, (M,).
        posts: visible posts by creation time, (V,).
        clicked, clicked_at: keys of all clicks, ascending, and when each was first clicked, (K,).
    """
    chosen = np.full((len(click_id), n), -1, np.int32)
    for place in range(n):
        open_rows = np.flatnonzero(n_available > 0)
        for attempt in range(_ATTEMPTS):
            if not len(open_rows):
                break
            seed = mix64(click_id[open_rows].astype(np.uint64) + GOLDEN_GAMMA)
            number = mix64(seed + np.uint64(place * _ATTEMPTS + attempt))
            post = posts[(number % n_available[open_rows].astype(np.uint64)).astype(np.int64)]
            # Accept a post that the user had not clicked by then and that is not drawn yet; retry the others.
            key = user_base[open_rows] + post
            at = np.minimum(np.searchsorted(clicked, key), len(clicked) - 1)
            clicked_before = (clicked[at] == key) & (clicked_at[at] <= now[open_rows])
            accept = ~clicked_before & (chosen[open_rows, :place] != post[:, None]).all(axis=1)
            chosen[open_rows[accept], place] = post[accept]
            open_rows = open_rows[~accept]
    return chosen
