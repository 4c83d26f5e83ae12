"""Draw posts: author, time, topic, text, copies of other posts, spam and violations.

Takes the settings and the authors, gives arrays in order of creation. Row r is the r-th id. It does not know readers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, Doubles, Floats, Ids, Mask, Rows, Times
from recsys.world.behaviour.calendar import draw_times
from recsys.world.population.people import Users, draw_column
from recsys.world.population.texts import FINE, SPAM, VIOLATION, cut_short, edit, prepend_phrases, recase, write_texts

FIRST_POST_ID = 50_000_001
MEDIA_SHARES = (0.35, 0.3, 0.2, 0.15)
DAYS_BEFORE = 4
"""The oldest posts are this many days older than the logs."""

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
    """Weight with which a post is offered among posts of its time: its author's reach times a log-normal factor."""
    group: Ids
    """Id of the original that this post copies, directly or over other copies; its own id for an original."""
    copy: Rows
    """Row of COPY_KINDS."""
    label: Rows
    """FINE, SPAM or VIOLATION."""
    texts: list[str]


def draw_posts(
    config: WorldConfig, start: int, users: Users, rng: np.random.Generator, text_rng: np.random.Generator
) -> Posts:
    """Draw all posts of the period and of the days before it."""
    n = config.n_posts
    n_new = round(config.new_post_share * n)
    created = np.concatenate(
        [
            np.sort(start - rng.integers(1, DAYS_BEFORE * DAY, n - n_new)),
            start + draw_times(n_new, config, start, rng),
        ]
    )
    label = np.full(n, FINE, np.int32)
    draw = rng.random(n)
    label[draw < config.spam_share] = SPAM
    label[draw >= 1 - config.violation_share] = VIOLATION
    author = _draw_authors(users, label == SPAM, rng)
    own = rng.random(n) < 0.75
    topic = np.where(own, users.author_topic[author], draw_column(users.interests[author], rng)).astype(np.int32)
    language = users.language[author]
    texts = write_texts(topic, language, text_rng)
    copy, source = _draw_copies(config, label, text_rng)
    prepend_phrases(texts, label, language, text_rng)
    group = _copy_texts(copy, source, texts, topic, language, text_rng)
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


def _draw_authors(users: Users, spam: Mask, rng: np.random.Generator) -> Rows:
    """Draw the author of each post: spammers write all spam and nothing else; authors with more reach write more."""
    productivity = users.author_reach**0.5
    author = np.empty(len(spam), np.int32)
    for of_spammers in (False, True):
        weight = np.where(users.spammer == of_spammers, productivity, 0.0)
        chosen = np.flatnonzero(spam == of_spammers)
        if len(chosen):
            author[chosen] = rng.choice(len(weight), len(chosen), p=weight / weight.sum())
    return author


def _draw_copies(config: WorldConfig, label: Rows, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """The kind of copy and the row that it copies, each (N,): one of the hundred posts before; -1 for originals."""
    n = len(label)
    copy, draw = np.full(n, ORIGINAL, np.int32), rng.random(n)
    copy[draw < config.duplicate_share] = REPOST
    edited = np.flatnonzero((draw >= config.duplicate_share) & (draw < config.duplicate_share + config.edited_share))
    copy[edited] = rng.integers(RECASED, EDITED + 1, len(edited))
    copy[0] = ORIGINAL
    copy[label != FINE] = ORIGINAL
    source = np.where(copy == ORIGINAL, -1, np.maximum(np.arange(n) - rng.integers(1, 100, n), 0)).astype(np.int32)
    # Spam is never copied. A changed copy is never reposted: its group in the lake would have two different texts.
    refused = (source >= 0) & ((label[source] != FINE) | ((copy == REPOST) & (copy[source] >= RECASED)))
    copy[refused], source[refused] = ORIGINAL, -1
    return copy, source


def _copy_texts(
    copy: Rows, source: Rows, texts: list[str], topic: Rows, language: Rows, rng: np.random.Generator
) -> Rows:
    """Copy texts with topic and language in place, in order of time; gives the row of each post's original, (N,)."""
    group = np.arange(len(copy), dtype=np.int32)
    change = {REPOST: lambda text, _: text, RECASED: recase, SHORTENED: cut_short, EDITED: edit}
    for row in np.flatnonzero(copy != ORIGINAL).tolist():
        copied = int(source[row])
        texts[row] = change[int(copy[row])](texts[copied], rng)
        topic[row], language[row], group[row] = topic[copied], language[copied], group[copied]
    return group
