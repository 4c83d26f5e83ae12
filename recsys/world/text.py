"""Texts of posts: a pattern of the post's language filled with nouns of its topic and a name.

Takes topic, language and a generator, gives strings. It does not know who reads them.
"""

from __future__ import annotations

import numpy as np

from recsys.types import Rows
from recsys.world.vocabulary import ADJECTIVES, FIRST_NAMES, LANGUAGES, LAST_NAMES, NOUNS, PATTERNS


def write_texts(topic: Rows, language: Rows, rng: np.random.Generator) -> list[str]:
    """One text per post; `topic` and `language` are rows of TOPICS and LANGUAGES, (N,)."""
    texts = [""] * len(topic)
    for row, name in enumerate(LANGUAGES):
        posts = np.flatnonzero(language == row)
        draws = rng.integers(0, 1 << 30, (len(posts), 7))
        nouns, adjectives, patterns = NOUNS[name], ADJECTIVES[name], PATTERNS[name]
        n_nouns = len(nouns[0])
        for post, topic_row, draw in zip(posts.tolist(), topic[posts].tolist(), draws.tolist(), strict=True):
            words = nouns[topic_row]
            noun = draw[0] % n_nouns
            texts[post] = patterns[draw[1] % len(patterns)].format(
                noun=words[noun],
                other=words[(noun + 1 + draw[2] % (n_nouns - 1)) % n_nouns],
                adjective=adjectives[draw[3] % len(adjectives)],
                name=f"{FIRST_NAMES[draw[4] % len(FIRST_NAMES)]} {LAST_NAMES[draw[5] % len(LAST_NAMES)]}",
                number=2 + draw[6] % 97,
            )
    return texts
