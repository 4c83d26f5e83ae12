"""Texts as numbers: hashes of words, and groups of posts that are the same.

Takes Arrow arrays of texts, gives arrays of rows. A post without words gets hashes of its id instead, so that a model
can tell it from others. It does not know which model reads them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.hashing import GOLDEN_GAMMA, hash_text, mix64
from recsys.types import Ids, Rows

N_TOKENS = 12
"""Models read this many words of a post."""

N_ID_TOKENS = 2
"""Id hashes of a post without words. Two, because posts that collide in one bucket rarely collide in both."""


def tokens_of(texts: pa.Array, post_id: Ids) -> Rows:
    """Hashes of each post's first words or, without words, of its id; (N, 12), -1 padded."""
    tokens = hash_words(texts, N_TOKENS)
    wordless = np.flatnonzero(tokens[:, 0] < 0)
    number = post_id[wordless].astype(np.uint64)
    for place in range(N_ID_TOKENS):
        number = mix64(number + GOLDEN_GAMMA)
        tokens[wordless, place] = (number >> np.uint64(33)).astype(np.int32)
    return tokens


def hash_words(texts: pa.Array, n_tokens: int) -> Rows:
    """Hash the first words of each text, lower-cased, to 0..2**31-1; (N, n_tokens), -1 padded."""
    tokens = np.full((len(texts), n_tokens), -1, np.int32)
    words = pc.utf8_split_whitespace(pc.utf8_lower(pc.utf8_trim_whitespace(texts)))
    starts = words.offsets.to_numpy()  # a text without words splits into one empty word, which hashes to -1
    encoded = words.values.dictionary_encode()
    hashes = np.array(
        [hash_text(word) & 0x7FFFFFFF if word else -1 for word in encoded.dictionary.to_pylist()], np.int32
    )
    if not len(hashes):
        return tokens
    flat = hashes[encoded.indices.to_numpy()]
    for place in range(n_tokens):
        has = starts[:-1] + place < starts[1:]
        tokens[has, place] = flat[starts[:-1][has] + place]
    return tokens


def duplicate_groups(declared: pa.Array, texts: pa.Array) -> Rows:
    """Group posts that are declared duplicates, have the same non-empty text, or are linked by a chain of both.

    Args:
        declared: group number, null where none was declared, (N,).
        texts: (N,).
    Returns: the row of each group's first member, (N,); a post without duplicates has its own row.
    """
    relations = []
    for column, known in ((texts, pc.not_equal(texts, "")), (declared, pc.is_valid(declared))):
        members = np.flatnonzero(known.to_numpy(zero_copy_only=False))
        if len(members):
            relations.append((members, column.take(pa.array(members)).dictionary_encode().indices.to_numpy()))
    group = np.arange(len(texts), dtype=np.int32)
    # The lowest row spreads along both relations until nothing changes: one more pass than the longest chain.
    while True:
        before = group.copy()
        for members, value in relations:
            lowest = np.full(int(value.max()) + 1, len(texts), np.int32)
            np.minimum.at(lowest, value, group[members])
            group[members] = lowest[value]
        if np.array_equal(group, before):
            return group
