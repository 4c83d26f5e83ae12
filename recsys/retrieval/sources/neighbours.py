"""Covisitation: the posts most often clicked by the same users, from clicks alone.

Takes pairs of user and post, gives each post's nearest neighbours with their similarity. It does not know content, time
or vectors.

    similarity(i, j) = sum over users of both of 1 / log2(1 + clicks of the user)
                       / (sqrt(users of i * users of j) + shrinkage)

A user with many clicks counts less for each pair. The shrinkage lowers similarities of rare posts that rest on one or
two users.

Source: Sarwar et al., "Item-Based Collaborative Filtering Recommendation Algorithms", WWW 2001, section 3.1.1 (cosine);
Breese et al., "Empirical Analysis of Predictive Algorithms for Collaborative Filtering", UAI 1998, section 2.2.2
(inverse user frequency).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import sparse

from recsys.config import CovisitationConfig
from recsys.types import Floats, Ids, Rows

_PAIRS_AT_ONCE = 20_000_000
"""Limit on the pairs of clicks in a block of posts; it bounds the memory to some 400 MB."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The most similar posts of each post (CSR)."""

    start: Ids
    """Position of each post's first neighbour, (N + 1,)."""
    post: Rows
    """Neighbours, best first within each post; ties by the lower row."""
    similarity: Floats
    """> 0, one per entry of `post`."""

    @property
    def n_posts(self) -> int:
        return len(self.start) - 1

    def matrix(self) -> sparse.csr_matrix:
        """The similarities as a sparse matrix, (N, N)."""
        return sparse.csr_matrix((self.similarity, self.post, self.start), (self.n_posts, self.n_posts))


def neighbours(user: Rows, post: Rows, n_users: int, n_posts: int, config: CovisitationConfig) -> Neighbours:
    """Compute each post's neighbours; the order of the clicks does not matter.

    Args:
        user, post: of each click, (M,); a repeated pair counts once.
    """
    # Users x posts, a 1 per clicked pair; `weighted` scales each user's row by 1 / log2(1 + clicks).
    shape = (n_users, n_posts)
    clicked = sparse.csr_matrix((np.ones(len(user), np.float32), (user, post)), shape)
    clicked.data[:] = 1
    n_of_user = np.diff(clicked.indptr)
    weighted = sparse.diags_array(1 / np.log2(1 + np.maximum(n_of_user, 1)).astype(np.float32)) @ clicked
    by_post = clicked.T.tocsr()
    root = np.sqrt(np.diff(by_post.indptr)).astype(np.float32)
    # Cumulative number of click pairs per post, (N,): each user of a post adds as many pairs as the user has clicks.
    # Blocks of posts are cut so that each has at most `_PAIRS_AT_ONCE` pairs.
    pairs = np.cumsum(by_post @ n_of_user.astype(np.float64))
    blocks = np.searchsorted(pairs, np.arange(0, pairs.max(initial=0), _PAIRS_AT_ONCE))
    edges = pairwise(np.unique([0, *blocks, n_posts]).tolist())
    parts = [_block(by_post[low:high] @ weighted, low, root, config) for low, high in edges]
    length = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
    return Neighbours(
        np.concatenate([[0], np.cumsum(length)]).astype(np.int64),
        np.concatenate([np.empty(0, np.int32), *(part[1] for part in parts)]),
        np.concatenate([np.empty(0, np.float32), *(part[2] for part in parts)]),
    )


def _block(both: sparse.csr_matrix, low: int, root: Floats, config: CovisitationConfig) -> tuple[Ids, Rows, Floats]:
    """Neighbours of a block of posts: the number of each post, (block,), then rows and similarities.

    Args:
        both: summed user weights of each pair, (block, N).
        low: row of the block's first post.
    """
    both = both.tocoo()
    row, other = both.row.astype(np.int64), both.col.astype(np.int32)
    similarity = (both.data / (root[low + row] * root[other] + np.float32(config.shrinkage))).astype(np.float32)
    # Drop each post's pair with itself, sort by post, similarity and row, keep the first `n_neighbours` of each.
    kept = np.flatnonzero(low + row != other)
    order = kept[np.lexsort((other[kept], -similarity[kept], row[kept]))]
    count = np.bincount(row[order], minlength=both.shape[0])
    nth = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    best = order[nth < config.n_neighbours]
    return np.minimum(count, config.n_neighbours), other[best], similarity[best]
