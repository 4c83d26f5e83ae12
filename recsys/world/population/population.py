"""Draw all users and posts of a world from one seed.

Takes the world's settings, gives arrays with the whole truth about users and posts, including hidden tastes. Row r is
the r-th id. It does not know how users choose (see `choice`) or what was logged (see `simulate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from recsys.config import WorldConfig
from recsys.errors import ConfigError
from recsys.types import SECOND, Floats, Times
from recsys.world.behaviour.changes import topic_flip_times
from recsys.world.population.people import Follows, Users, draw_blocks, draw_follows, draw_users
from recsys.world.population.posts import Posts, draw_posts
from recsys.world.population.vocabulary import TOPICS


@dataclass(frozen=True)
class Population:
    """The truth about U users, A authors (the first users), N posts (by time of creation), T topics."""

    start: int
    """First log day, microseconds."""
    users: Users
    posts: Posts
    follows: Follows
    blocks: Follows
    topic_pace: Floats
    """Hours after which a post has lost half of what ageing takes, (T,)."""
    topic_peak: Floats
    """Hour of the day (UTC) at which a topic appeals most, (T,)."""
    topic_sharing: Floats
    """The topic's part of the logit of P(share | click), mean 0, (T,)."""
    topic_flips_at: Times
    """Time in microseconds from which taste for a topic has the opposite sign, (T,)."""

    @property
    def n_users(self) -> int:
        return len(self.users.id)

    @property
    def n_authors(self) -> int:
        return len(self.users.author_style)

    @property
    def n_posts(self) -> int:
        return len(self.posts.id)


def start_of(config: WorldConfig) -> int:
    """First microsecond of the logs.

    Raises: ConfigError when `world.start` is not a date.
    """
    try:
        return int(datetime.fromisoformat(f"{config.start}T00:00:00+00:00").timestamp()) * SECOND
    except ValueError:
        raise ConfigError(f"world.start must be a date such as 2026-01-05, got {config.start!r}") from None


def draw_population(config: WorldConfig) -> Population:
    """Draw the population; the same settings give the same arrays.

    Raises: ConfigError when a change names an unknown topic or a country that is not new.
    """
    start = start_of(config)
    streams = np.random.SeedSequence([config.seed, 1]).spawn(5)
    users_rng, topics_rng, posts_rng, graph_rng, text_rng = (np.random.default_rng(stream) for stream in streams)
    users = draw_users(config, start, users_rng)
    follows = draw_follows(config, users, graph_rng)
    return Population(
        start=start,
        users=users,
        posts=draw_posts(config, start, users, posts_rng, text_rng),
        follows=follows,
        blocks=draw_blocks(users, follows, graph_rng),
        topic_pace=np.exp(topics_rng.uniform(np.log(1.5), np.log(72), len(TOPICS))).astype(np.float32),
        topic_peak=topics_rng.uniform(0, 24, len(TOPICS)).astype(np.float32),
        topic_sharing=topics_rng.normal(0, 0.6, len(TOPICS)).astype(np.float32),
        topic_flips_at=topic_flip_times(config, start),
    )
