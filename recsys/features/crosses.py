"""Cross features of users and posts, from follow lists and click histories.

Takes follow lists or histories and (user, post) pairs, of one request or a million exposures; gives columns for
`assemble`. It does not know whose lists they are.
"""

from __future__ import annotations

import numpy as np

from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.schemas import MEDIA_TYPES
from recsys.types import Floats, Ids, Mask, Rows


def follow_crosses(
    catalogue: Catalogue, follows_start: Ids, follows: Rows, user: Rows, post_row: Rows
) -> tuple[Mask, Floats]:
    """Whether the user follows the post's author; and the share of followed authors who mostly write on its topic.

    Args:
        follows_start, follows: user u follows the author rows `follows[follows_start[u]:follows_start[u + 1]]`,
            ascending.
        user: place of each pair's user in `follows_start`, -1 for a user who follows nobody, (C,).
        post_row: -1 for a post the catalogue does not know, (C,).
    Returns: flags (C,), and shares in [0, 1] (C,) that are NaN if the user follows nobody or the post has no likely
        topic.
    """
    n_authors, n_topics = np.int64(catalogue.n_authors + 1), np.int64(len(catalogue.topics) + 1)
    n_followed = np.append(np.diff(follows_start), 0)  # (U + 1,); the last place is for user -1
    # 1. Every (user, followed author) as one number: ascending, so that `lookup` can search it, (follows,).
    follower = np.repeat(np.arange(len(n_followed), dtype=np.int64), n_followed)
    pair = follower * n_authors + follows
    author, topic = (np.where(post_row >= 0, c[post_row], -1) for c in (catalogue.author, catalogue.likely_topic))
    follows_author = (lookup(pair, user * n_authors + author) >= 0) & (author >= 0)
    # 2. How many authors each user follows per topic, and each post's share of them.
    of_topic, n_of_topic = np.unique(follower * n_topics + catalogue.author_topic[follows] + 1, return_counts=True)
    place = lookup(of_topic, user * n_topics + topic + 1)  # (C,)
    share = np.where((topic >= 0) & (n_followed[user] > 0), np.float32(0), np.float32(np.nan))
    found = (place >= 0) & (topic >= 0)
    share[found] = n_of_topic[place[found]] / n_followed[user[found]]
    return follows_author, share


def history_shares(catalogue: Catalogue, history: Rows, request: Rows, post_row: Rows) -> tuple[Floats, Floats]:
    """Shares of a user's click history in each post's language and in its medium.

    A share is (clicks of the kind + 1) / (clicks + kinds), which is near 1 / kinds for a short history. It is NaN if
    the history has no click of a known kind, or the post's kind is unknown.

    Args:
        history: clicked posts of R requests, -1 padded, (R, L).
        request: place of each candidate's request in `history`, (C,).
        post_row: -1 for a post the catalogue does not know, (C,).
    Returns: language shares (C,), media shares (C,).
    """
    return (
        _share(history, catalogue.language, max(len(catalogue.languages), 1), request, post_row),
        _share(history, catalogue.media, len(MEDIA_TYPES), request, post_row),
    )


def _share(history: Rows, kind_of_post: Rows, n_kinds: int, request: Rows, post_row: Rows) -> Floats:
    """Smoothed share of each candidate's kind in its request's history, (C,)."""
    kind = np.where(history >= 0, kind_of_post[history], -1)  # (R, L)
    # Clicks per request and kind, (R, n_kinds + 1); column 0 collects clicks without a kind and is then dropped.
    at = np.arange(len(history))[:, None] * (n_kinds + 1) + kind + 1
    counts = np.bincount(at.ravel(), minlength=len(history) * (n_kinds + 1)).reshape(len(history), n_kinds + 1)
    counts[:, 0] = 0
    clicks = counts.sum(axis=1, keepdims=True)
    shares = np.where(clicks > 0, (counts + 1.0) / (clicks + n_kinds), np.nan)
    shares[:, 0] = np.nan
    wanted = np.where(post_row >= 0, kind_of_post[post_row], -1)
    chosen: Floats = shares[request, wanted + 1].astype(np.float32)
    return chosen
