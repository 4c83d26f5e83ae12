"""What of a text the post tower reads: hash buckets of its words, and of neighbouring pairs.

Takes the hashed words of posts (`offline.catalogue.text_hashes`), gives rows of the table of words. It does not know
their vectors.
"""

from __future__ import annotations

import numpy as np

from recsys.hashing import mix64
from recsys.types import Rows


def text_rows(tokens: Rows, n_buckets: int, ngrams: int) -> Rows:
    """Rows of a table of n_buckets + 1, in which row 0 stands for nothing.

    Args:
        tokens: hashes of each post's words in order, (N, T), T >= 1, -1 padded.
        ngrams: 1 for words, 2 for words and pairs of neighbours.
    Returns: (N, T), with pairs (N, 2 T - 1).
    """
    grams, there = tokens, tokens >= 0
    if ngrams == 2:
        first, second = tokens[:, :-1].astype(np.uint64), tokens[:, 1:].astype(np.uint64)
        pairs = (mix64(first << np.uint64(32) | second) >> np.uint64(33)).astype(np.int32)
        grams = np.concatenate([tokens, pairs], axis=1)
        there = np.concatenate([there, there[:, :-1] & there[:, 1:]], axis=1)
    rows: Rows = np.where(there, grams % n_buckets + 1, 0).astype(np.int32)
    return rows
