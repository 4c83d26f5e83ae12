"""Matrix factorisation, a baseline row of the retrieval report.

Takes the clicks before the test share; learns a vector per user and post with the loss and training loop of the two
towers; gives the posts it would retrieve. It does not know a post's content or age: posts without a click are never
retrieved, and users without a click get popular posts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from recsys.config import IdTowersConfig
from recsys.features.histories import Clicks
from recsys.progress import Report
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.towers.id_towers import IdTowers, Log
from recsys.types import Floats, Rows


@dataclass(frozen=True, slots=True)
class MatrixFactorisation:
    """Vectors of K clicked posts and all U users."""

    post_row: Rows
    """(K,)."""
    posts: Floats
    """(K, D + 1); the last dimension is the post's popularity."""
    users: Floats
    """(U, D + 1)."""

    @classmethod
    def learn(cls, clicks: Clicks, n_users: int, n_posts: int, config: IdTowersConfig, report: Report) -> Self:
        """Fit on clicks.

        Args:
            clicks: at least one click; users and posts must be known.
        """
        order = np.argsort(clicks.user_row, kind="stable")
        n_clicks = np.bincount(clicks.user_row, minlength=n_users)
        log = Log(np.concatenate([[0], np.cumsum(n_clicks)]), clicks.post_row[order], ordered=False)
        model = IdTowers(log, n_posts, config.model_copy(update={"history_size": 0, "user_ids": True}))
        model.fit(report)
        users = model.user_vectors(np.arange(n_users, dtype=np.int32), log)
        users[n_clicks == 0, :-1] = 0  # only the popularity dimension is left
        clicked = np.unique(clicks.post_row).astype(np.int32)
        return cls(clicked, model.post_vectors()[clicked], users)

    def best(self, user: int, allowed: Bitmap, k: int) -> Rows:
        """The k allowed posts of highest score, or fewer, unordered."""
        candidates = np.flatnonzero(allowed.has(self.post_row))
        score = (self.posts @ self.users[user])[candidates]
        if len(candidates) > k:
            candidates = candidates[np.argpartition(-score, k - 1)[:k]]
        return self.post_row[candidates]
