"""Turn a post's words into rows of the word table: hash buckets of words and of neighbouring pairs.

Takes the hashed words of posts (`offline.catalogue.text_hashes`), gives rows of the word table. It does not know the
embeddings.
"""

from __future__ import annotations

import numpy as np

from recsys.hashing import mix64
from recsys.types import Rows


def text_rows(tokens: Rows, n_buckets: int, ngrams: int) -> Rows:
    """Rows in a table of n_buckets + 1 rows, of which row 0 is padding.

    Args:
        tokens: hashes of each post's words in order, (N, T), T >= 1, -1 padded.
        ngrams: 1 for words, 2 for words and pairs of neighbours.
    Returns: (N, T); with pairs (N, 2 T - 1).
    """
    grams, present = tokens, tokens >= 0
    if ngrams == 2:
        first, second = tokens[:, :-1].astype(np.uint64), tokens[:, 1:].astype(np.uint64)
        pairs = (mix64(first << np.uint64(32) | second) >> np.uint64(33)).astype(np.int32)
        grams = np.concatenate([tokens, pairs], axis=1)
        present = np.concatenate([present, present[:, :-1] & present[:, 1:]], axis=1)
    rows: Rows = np.where(present, grams % n_buckets + 1, 0).astype(np.int32)
    return rows
