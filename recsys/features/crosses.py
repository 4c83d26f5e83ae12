"""What the follow graph says about a user and a post: the same lines for one request and for a million exposures.

Takes follow lists and (user, post) pairs, gives columns for `assemble`. It does not know whose lists they are.
"""

from __future__ import annotations

import numpy as np

from recsys.offline.catalogue import Catalogue
from recsys.types import Floats, Ids, Mask, Rows


def follow_crosses(
    catalogue: Catalogue, follows_start: Ids, follows: Rows, user: Rows, post_row: Rows
) -> tuple[Mask, Floats]:
    """Whether the user follows the post's author, and the share of followed authors who mostly write on its topic.

    Args:
        follows_start, follows: user u follows `follows[follows_start[u]:follows_start[u + 1]]`, ascending within a user.
        user: place of each pair's user in `follows_start`, (C,).
        post_row: (C,).
    """
    n_authors, n_topics = np.int64(catalogue.n_authors + 1), np.int64(len(catalogue.topics) + 1)
    n_followed = np.diff(follows_start)
    follower = np.repeat(np.arange(len(n_followed), dtype=np.int64), n_followed)
    pair = follower * n_authors + follows
    author, topic = catalogue.author[post_row], catalogue.likely_topic[post_row]
    follows_author = _contains(pair, user * n_authors + author) & (author >= 0)
    of_topic, n_of_topic = np.unique(follower * n_topics + catalogue.author_topic[follows] + 1, return_counts=True)
    wanted = user * n_topics + topic + 1
    known = _contains(of_topic, wanted) & (topic >= 0)
    share = np.zeros(len(post_row), np.float32)
    share[known] = n_of_topic[np.searchsorted(of_topic, wanted[known])] / n_followed[user[known]]
    return follows_author, share


def _contains(ascending: Ids, values: Ids) -> Mask:
    if not len(ascending):
        return np.zeros(len(values), bool)
    place = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    found: Mask = ascending[place] == values
    return found
