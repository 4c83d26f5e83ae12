"""A world of two tastes, small enough that the right feed is known: even users click cooking, odd users football."""

from dataclasses import replace

import numpy as np
from worlds import NOTHING, catalogue, rows

from recsys.config import CovisitationConfig, TowersConfig
from recsys.features.histories import Clicks
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.sources.learned import LearnedSources
from recsys.retrieval.sources.neighbours import neighbours
from recsys.retrieval.towers.inference import Towers
from recsys.retrieval.towers.training import train_towers
from recsys.types import DAY, Context, FeedRequest, Rows

N_USERS, N_POSTS, N_AUTHORS = 60, 400, 8
END = 10 * DAY
"""Moment of the last click; posts go on for a day."""
SMALL = TowersConfig(
    embedding_size=16, hidden_size=24, epochs=12, batch_size=128, n_uniform_negatives=128, learning_rate=0.01,
    n_text_buckets=64, history_size=8, min_post_clicks=4, held_share=0.0,
)  # fmt: skip


def two_tastes() -> Catalogue:
    """Post p is on topic p % 2, by one of the topic's four authors, in words of the topic, created in order of row."""
    rng = np.random.default_rng(5)
    topic = np.arange(N_POSTS) % 2
    author = topic + 2 * rng.integers(0, N_AUTHORS // 2, N_POSTS)
    tokens = np.full((N_POSTS, 12), -1)
    tokens[:, :3] = topic[:, None] * 20 + rng.integers(0, 20, (N_POSTS, 3))
    return replace(
        catalogue(author.tolist(), created_at=np.linspace(0, END + DAY, N_POSTS).astype(np.int64)),
        topic=topic.astype(np.int32),
        language=np.zeros(N_POSTS, np.int32),
        media=rng.integers(0, 4, N_POSTS).astype(np.int32),
        tokens=tokens.astype(np.int32),
        author_id=np.arange(N_AUTHORS, dtype=np.int64) + 900,
        user_id=np.arange(N_USERS, dtype=np.int64),
        user_language=np.zeros(N_USERS, np.int32),
        user_country=(np.arange(N_USERS) % 3).astype(np.int32),
        follows_start=np.arange(N_USERS + 1),
        follows=(np.arange(N_USERS) % 2 + 2).astype(np.int32),
        blocks_start=np.zeros(N_USERS + 1, np.int64),
        topics=("cooking", "football"),
        languages=("en",),
        countries=("AT", "DE", "GB"),
    )


def clicks_of(cat: Catalogue, *, shuffled: bool = False) -> Clicks:
    """Twenty clicks of each user, on posts of its taste that are at most two days old; `shuffled` breaks the link."""
    rng = np.random.default_rng(6)
    user = np.repeat(np.arange(N_USERS), 20)
    time = rng.integers(DAY, END, len(user))
    time[0] = END
    newest = np.searchsorted(cat.created_at, time, side="right") - 1
    post = newest - rng.integers(0, 70, len(user)).clip(max=newest - 1)
    post -= (post - user) % 2
    order = np.argsort(time)
    user, post, time = user[order], post[order], time[order]
    return Clicks(rows(rng.permutation(user) if shuffled else user), rows(post.clip(0)), time)


def trained(cat: Catalogue, clicks: Clicks, config: TowersConfig = SMALL) -> Towers:
    return train_towers(cat, clicks, config, lambda done, total: None).with_reference(END + DAY)


def learned_sources(cat: Catalogue, clicks: Clicks) -> LearnedSources:
    """Who clicks together, and authors of whom the first was shown most."""
    together = neighbours(
        clicks.user_row, clicks.post_row, N_USERS, cat.n_posts, CovisitationConfig(n_neighbours=10, shrinkage=1)
    )
    return LearnedSources(together, np.arange(cat.n_authors, dtype=np.int64)[::-1] * 1000)


def request(now=END + DAY, *, user=-1, history=(), follows=(), trending=(), language=-1, country=-1) -> Context:
    return Context(
        FeedRequest(1, 7, now), user, language, country, rows(follows), NOTHING, rows(history), NOTHING, rows(trending)
    )


def fresh_posts(cat: Catalogue, topic: int) -> Rows:
    """Posts of a topic written after the last click."""
    return rows(np.flatnonzero((cat.created_at > END) & (cat.topic == topic)))
