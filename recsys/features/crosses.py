"""What follow lists and click histories say about a user and a post, for one request or a million exposures alike.

Takes follow lists and (user, post) pairs, gives columns for `assemble`. It does not know whose lists they are.
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
    """Whether the user follows the post's author, and the share of followed authors who mostly write on its topic.

    Args:
        follows_start, follows: user u follows `follows[follows_start[u]:follows_start[u + 1]]`, as author rows that
            ascend within a user.
        user: place of each pair's user in `follows_start`, -1 for one who follows nobody, (C,).
        post_row: -1 for a post the catalogue does not know, (C,).
    Returns: flags (C,) and shares in [0, 1] (C,); NaN for users who follow nobody and posts without a likely topic.
    """
    n_authors, n_topics = np.int64(catalogue.n_authors + 1), np.int64(len(catalogue.topics) + 1)
    n_followed = np.append(np.diff(follows_start), 0)  # the last place, -1, is of those who follow nobody
    follower = np.repeat(np.arange(len(n_followed), dtype=np.int64), n_followed)
    pair = follower * n_authors + follows
    author, topic = (np.where(post_row >= 0, c[post_row], -1) for c in (catalogue.author, catalogue.likely_topic))
    follows_author = (lookup(pair, user * n_authors + author) >= 0) & (author >= 0)
    of_topic, n_of_topic = np.unique(follower * n_topics + catalogue.author_topic[follows] + 1, return_counts=True)
    wanted = user * n_topics + topic + 1
    share = np.where((topic >= 0) & (n_followed[user] > 0), np.float32(0), np.float32(np.nan))
    found = (lookup(of_topic, wanted) >= 0) & (topic >= 0)
    share[found] = n_of_topic[np.searchsorted(of_topic, wanted[found])] / n_followed[user[found]]
    return follows_author, share


def history_shares(catalogue: Catalogue, history: Rows, request: Rows, post_row: Rows) -> tuple[Floats, Floats]:
    """How much of a user's click history is in each post's language, and on its medium.

    Shares are (clicks of the kind + 1) / (clicks + kinds), so that a short history says little; NaN where it says
    nothing: no click of a known kind, or the post's own kind is unknown.

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
    kind = np.where(history >= 0, kind_of_post[history], -1)
    # Column 0 collects what has no kind.
    at = np.arange(len(history))[:, None] * (n_kinds + 1) + kind + 1
    counts = np.bincount(at.ravel(), minlength=len(history) * (n_kinds + 1)).reshape(len(history), n_kinds + 1)
    counts[:, 0] = 0
    clicks = counts.sum(axis=1, keepdims=True)
    shares = np.where(clicks > 0, (counts + 1.0) / (clicks + n_kinds), np.nan)
    shares[:, 0] = np.nan
    wanted = np.where(post_row >= 0, kind_of_post[post_row], -1)
    chosen: Floats = shares[request, wanted + 1].astype(np.float32)
    return chosen
