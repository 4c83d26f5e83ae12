"""Inputs of the feature matrix, made by one function for training, evaluation and serving.

Takes users, their candidates and the counters read for them; gives the `Inputs` of `assemble`. Serving has one user;
training has a batch with the users of thousands of requests.
"""

from __future__ import annotations

from recsys.features.assemble import Inputs
from recsys.features.crosses import follow_crosses, history_shares
from recsys.features.users import UserBatch
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.types import Doubles, Floats, Rows


def make_inputs(
    catalogue: Catalogue, users: UserBatch, counts: dict[str, Doubles], request: Rows, post_row: Rows,
    tower_score: Floats,
) -> Inputs:  # fmt: skip
    """Inputs for C candidates of R requests.

    Args:
        users: the user of each request, R of them.
        counts: entity name to counts decayed to the request's `now`, (C or 1, A, H).
        request: each candidate's request, 0..R-1, (C,).
        post_row: -1 for a post the catalogue does not know, (C,).
        tower_score: two-tower similarity, (C,).
    """
    follows_author, topic_share = follow_crosses(catalogue, users.follows_start, users.follows, request, post_row)
    language_share, media_share = history_shares(catalogue, users.history, request, post_row)
    one = len(users) == 1  # then a single value stands for all candidates
    return Inputs(
        counts=counts,
        post_row=post_row,
        user_language=users.language if one else users.language[request],
        follows_author=follows_author,
        follows_topic_share=topic_share,
        history_language_share=language_share,
        history_media_share=media_share,
        tower_score=tower_score,
        now=users.now if one else users.now[request],
    )
