"""Write the texts of posts: a pattern of the language, filled with nouns of the topic and a name; and change copies.

Takes topic, language and a generator, gives strings. It does not know who reads them.
"""

from __future__ import annotations

import numpy as np

from recsys.types import Rows
from recsys.world.population.vocabulary import (
    ADJECTIVES,
    FIRST_NAMES,
    LANGUAGES,
    LAST_NAMES,
    NOUNS,
    PATTERNS,
    RUMOURS,
    SALES_TALK,
)

FINE, SPAM, VIOLATION = range(3)
"""Moderation labels."""


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


def prepend_phrases(texts: list[str], label: Rows, language: Rows, rng: np.random.Generator) -> None:
    """Begin spam with a sales phrase and violations with a rumour, in place."""
    for number, phrases in ((SPAM, SALES_TALK), (VIOLATION, RUMOURS)):
        rows = np.flatnonzero(label == number)
        draws = rng.integers(0, 1 << 30, (len(rows), 2))
        for row, of, draw in zip(rows.tolist(), language[rows].tolist(), draws.tolist(), strict=True):
            choice = phrases[LANGUAGES[of]]
            texts[row] = f"{choice[draw[0] % len(choice)].format(number=5 + draw[1] % 90)} {texts[row]}"


def recase(text: str, rng: np.random.Generator) -> str:
    """The text in upper, lower or title case."""
    return (text.upper(), text.lower(), text.title())[rng.integers(3)]


def cut_short(text: str, rng: np.random.Generator) -> str:
    """The first half to four fifths of the words."""
    words = text.split()
    return " ".join(words[: max(round(len(words) * rng.uniform(0.5, 0.8)), 1)]) + "…"


def edit(text: str, rng: np.random.Generator) -> str:
    """Drop one word, swap two neighbours, append a remark; texts of up to four words only get the remark."""
    words = text.split()
    if len(words) > 4:
        del words[rng.integers(len(words))]
        place = int(rng.integers(len(words) - 1))
        words[place], words[place + 1] = words[place + 1], words[place]
    return " ".join([*words, ("!", "(via)", "+1", "👍")[rng.integers(4)]])
