"""Posts: who wrote what when, in what words, which repeat another, which are spam.

Takes the settings and the authors, gives arrays in order of creation; row r is the r-th id. It does not know readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, Doubles, Floats, Ids, Mask, Rows, Times
from recsys.world.behaviour.calendar import draw_moments
from recsys.world.population.people import Users, pick
from recsys.world.population.texts import FINE, SPAM, VIOLATION, advertise, cut_short, edit, recase, write_texts

FIRST_POST_ID = 50_000_001
MEDIA_SHARES = (0.35, 0.3, 0.2, 0.15)
DAYS_BEFORE = 4
"""Days before the first log day from which posts already exist."""

ORIGINAL, REPOST, RECASED, SHORTENED, EDITED = range(5)
COPY_KINDS = ("original", "repost", "recased", "shortened", "edited")


@dataclass(frozen=True)
class Posts:
    """The truth about N posts."""

    id: Ids
    created_at: Times
    """Ascending."""
    author: Rows
    """Author row, which is also the author's user row."""
    topic: Rows
    topic_missing: Mask
    language: Rows
    media: Rows
    quality: Floats
    """Author's quality plus the post's own appeal, logit."""
    visible: Mask
    reach: Doubles
    """How often a post is offered, relative to others of its time: its author's reach times its own luck."""
    group: Ids
    """Id of the post that this one repeats, however it was changed on the way; its own for an original."""
    copy: Rows
    """How it repeats: row of COPY_KINDS."""
    label: Rows
    """FINE, SPAM or VIOLATION."""
    texts: list[str]


def draw_posts(
    config: WorldConfig, start: int, users: Users, rng: np.random.Generator, text_rng: np.random.Generator
) -> Posts:
    """All posts of the period and of the days before it."""
    n = config.n_posts
    n_new = round(config.new_post_share * n)
    created = np.concatenate(
        [
            np.sort(start - rng.integers(1, DAYS_BEFORE * DAY, n - n_new)),
            start + draw_moments(n_new, config, start, rng),
        ]
    )
    label = np.full(n, FINE, np.int32)
    draw = rng.random(n)
    label[draw < config.spam_share] = SPAM
    label[draw >= 1 - config.violation_share] = VIOLATION
    author = _authors(users, label == SPAM, rng)
    own = rng.random(n) < 0.75
    topic = np.where(own, users.author_topic[author], pick(users.interests[author], rng)).astype(np.int32)
    language = users.language[author]
    texts = write_texts(topic, language, text_rng)
    copy, source = _copies(config, label, text_rng)
    advertise(texts, label, language, text_rng)
    group = _repeat(copy, source, texts, topic, language, text_rng)
    return Posts(
        id=FIRST_POST_ID + np.arange(n, dtype=np.int64),
        created_at=created.astype(np.int64),
        author=author,
        topic=topic,
        topic_missing=rng.random(n) < config.missing_topic,
        language=language,
        media=rng.choice(len(MEDIA_SHARES), n, p=MEDIA_SHARES).astype(np.int32),
        quality=(users.author_quality[author] + rng.normal(0, config.post_quality, n)).astype(np.float32),
        visible=rng.random(n) >= config.hidden_share,
        reach=users.author_reach[author] * np.exp(rng.normal(0, config.spread, n)),
        group=FIRST_POST_ID + group.astype(np.int64),
        copy=copy,
        label=label,
        texts=texts,
    )


def _authors(users: Users, spam: Mask, rng: np.random.Generator) -> Rows:
    """Spam comes from spammers, everything else from the others; who is widely read writes more."""
    productivity = users.author_reach**0.5
    author = np.empty(len(spam), np.int32)
    for of_spammers in (False, True):
        weight = np.where(users.spammer == of_spammers, productivity, 0.0)
        chosen = np.flatnonzero(spam == of_spammers)
        if len(chosen):
            author[chosen] = rng.choice(len(weight), len(chosen), p=weight / weight.sum())
    return author


def _copies(config: WorldConfig, label: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """How each post repeats, and which row it repeats: one of the hundred posts before it, -1 for originals."""
    n = len(label)
    copy, draw = np.full(n, ORIGINAL, np.int32), rng.random(n)
    copy[draw < config.duplicate_share] = REPOST
    edited = np.flatnonzero((draw >= config.duplicate_share) & (draw < config.duplicate_share + config.edited_share))
    copy[edited] = rng.integers(RECASED, EDITED + 1, len(edited))
    copy[0] = ORIGINAL
    copy[label != FINE] = ORIGINAL
    source = np.where(copy == ORIGINAL, -1, np.maximum(np.arange(n) - rng.integers(1, 100, n), 0)).astype(np.int32)
    # Nobody repeats spam, nor a changed copy to the letter: its first in the lake would have another text.
    refused = (source >= 0) & ((label[source] != FINE) | ((copy == REPOST) & (copy[source] >= RECASED)))
    copy[refused], source[refused] = ORIGINAL, -1
    return copy, source


def _repeat(copy: Rows, source: Rows, texts: list[str], topic: Rows, language: Rows, rng: np.random.Generator) -> Rows:
    """Copy texts with their topic and language, in place and in order of time; gives each post's original row."""
    group = np.arange(len(copy), dtype=np.int32)
    change = {REPOST: lambda text, _: text, RECASED: recase, SHORTENED: cut_short, EDITED: edit}
    for row in np.flatnonzero(copy != ORIGINAL).tolist():
        of = int(source[row])
        texts[row] = change[int(copy[row])](texts[of], rng)
        topic[row], language[row], group[row] = topic[of], language[of], group[of]
    return group
