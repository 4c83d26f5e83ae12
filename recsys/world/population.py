"""Who lives in the world and what they wrote: users, authors, posts, follows, blocks, all drawn from one seed.

Takes the world's settings, gives arrays with everything that is true about users and posts, latent tastes included.
Row r is the r-th id. It does not know how anyone chooses (see `choice`) nor what was logged (see `simulate`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from recsys.config import WorldConfig
from recsys.errors import ConfigError
from recsys.types import DAY, HOUR, SECOND, Doubles, Floats, Ids, Mask, Rows, Times
from recsys.world.text import write_texts
from recsys.world.vocabulary import LANGUAGES, TOPICS

N_STYLES = 4
FIRST_USER_ID = 1_000_001
FIRST_POST_ID = 50_000_001
LANGUAGE_SHARES = (0.5, 0.2, 0.15, 0.15)
COUNTRIES = ("US", "GB", "DE", "AT", "FR", "BE", "ES", "MX")
"""Two for each language, in the order of LANGUAGES."""
MEDIA_SHARES = (0.35, 0.3, 0.2, 0.15)
MEDIA_APPEAL = (-0.1, 0.1, 0.2, -0.2)
"""Mean logit of text, image, video, link; users differ around it."""
MEDIA_PEAK = (7.0, 14.0, 21.0, 9.0)
"""Hour of the day (UTC) at which text, image, video, link are liked most."""
DAYS_BEFORE = 4
"""Days before the first log day from which posts already exist."""
JOINING_SHARE = 0.1
"""Share of users who join during the period."""


@dataclass(frozen=True)
class Population:
    """The truth about U users, A authors (the first users), N posts (by time of creation), T topics."""

    start: int
    """First log day, microseconds."""
    user_id: Ids
    user_created_at: Times
    user_language: Rows
    user_reads: Mask
    """Whether a user reads a language, (U, L)."""
    user_country: Rows
    user_country_missing: Mask
    activity: Doubles
    """Relative frequency of sessions, (U,)."""
    taste_start: Floats
    """Logit of each topic on the first day, (U, T)."""
    taste_end: Floats
    """The same at the end of the period; taste moves linearly between."""
    user_style: Floats
    """(U, S)."""
    author_style: Floats
    """(A, S)."""
    media_taste: Floats
    """Logit of each medium, (U, 4)."""
    post_id: Ids
    post_author: Rows
    """Author row, which is also the author's user row, (N,)."""
    post_topic: Rows
    post_topic_missing: Mask
    post_language: Rows
    post_media: Rows
    post_quality: Floats
    """Author's quality plus the post's own appeal, logit, (N,)."""
    post_created_at: Times
    """Ascending, (N,)."""
    post_visible: Mask
    post_group: Ids
    """Id of the earliest post with the same text, (N,)."""
    texts: list[str]
    follows_start: Ids
    follows: Rows
    """Author rows, ascending within a user."""
    blocks_start: Ids
    blocks: Rows
    topic_pace: Floats
    """Hours after which half of a post's ageing is done, (T,)."""
    topic_peak: Floats
    """Hour of the day at which a topic is liked most, (T,)."""

    @property
    def n_users(self) -> int:
        return len(self.user_id)

    @property
    def n_authors(self) -> int:
        return len(self.author_style)

    @property
    def n_posts(self) -> int:
        return len(self.post_id)


def start_of(config: WorldConfig) -> int:
    """First microsecond of the logs.

    Raises: ConfigError when `world.start` is not a date.
    """
    try:
        return int(datetime.fromisoformat(f"{config.start}T00:00:00+00:00").timestamp()) * SECOND
    except ValueError:
        raise ConfigError(f"world.start must be a date such as 2026-01-05, got {config.start!r}") from None


def draw_population(config: WorldConfig) -> Population:
    """Draw everybody and everything; the same settings give the same arrays."""
    start = start_of(config)
    n_authors = min(config.n_authors, config.n_users)
    streams = np.random.SeedSequence([config.seed, 1]).spawn(5)
    users_rng, taste_rng, posts_rng, graph_rng, text_rng = (np.random.default_rng(s) for s in streams)

    language = users_rng.choice(len(LANGUAGES), config.n_users, p=LANGUAGE_SHARES).astype(np.int32)
    reads = language[:, None] == np.arange(len(LANGUAGES))
    reads[:, 0] |= users_rng.random(config.n_users) < 0.2
    created = start - users_rng.integers(1, 60 * DAY, config.n_users)
    joining = np.arange(config.n_users) >= config.n_users - int(JOINING_SHARE * config.n_users)
    joining &= np.arange(config.n_users) >= n_authors
    created[joining] = start + np.sort(users_rng.integers(0, config.n_days * DAY, int(joining.sum())))

    interests, moved = _interests(config, taste_rng)
    reach = users_rng.pareto(1.3, n_authors) + 0.3
    author_topic = _pick(interests[:n_authors], users_rng)
    author_style = users_rng.normal(0, 1, (n_authors, N_STYLES)).astype(np.float32)
    user_style = users_rng.normal(0, 1, (config.n_users, N_STYLES)).astype(np.float32)
    follows_start, follows = _follow(
        config,
        graph_rng,
        interests,
        language,
        reads,
        user_style,
        author_topic,
        language[:n_authors],
        author_style,
        reach,
    )
    blocks_start, blocks = _block(graph_rng, config.n_users, n_authors, follows_start, follows)
    posts = _posts(config, posts_rng, start, author_topic, language[:n_authors], reach, interests[:n_authors])
    texts, group = _texts(config, text_rng, posts)
    return Population(
        start=start,
        user_id=FIRST_USER_ID + np.arange(config.n_users, dtype=np.int64),
        user_created_at=created,
        user_language=language,
        user_reads=reads,
        user_country=(2 * language + (users_rng.random(config.n_users) < 0.4)).astype(np.int32),
        user_country_missing=users_rng.random(config.n_users) < config.missing_country,
        activity=np.exp(users_rng.normal(0, config.activity_tail, config.n_users)),
        taste_start=_taste(config, interests),
        taste_end=_taste(config, (1 - config.drift) * interests + config.drift * moved),
        user_style=user_style,
        author_style=author_style,
        media_taste=(np.array(MEDIA_APPEAL) + users_rng.normal(0, 0.2, (config.n_users, 4))).astype(np.float32),
        post_id=FIRST_POST_ID + np.arange(config.n_posts, dtype=np.int64),
        post_group=group,
        texts=texts,
        follows_start=follows_start,
        follows=follows,
        blocks_start=blocks_start,
        blocks=blocks,
        topic_pace=np.exp(posts_rng.uniform(np.log(1.5), np.log(72), len(TOPICS))).astype(np.float32),
        topic_peak=posts_rng.uniform(0, 24, len(TOPICS)).astype(np.float32),
        **posts,
    )


def _interests(config: WorldConfig, rng: np.random.Generator) -> tuple[Doubles, Doubles]:
    """Shares of interest over topics, at first and after moving, each (U, T) with rows that sum to 1."""
    weight = 1.0 / (1.0 + np.arange(len(TOPICS))) ** 0.5  # some topics have more friends than others
    alpha = 0.12 * len(TOPICS) * weight / weight.sum()
    return rng.dirichlet(alpha, config.n_users), rng.dirichlet(alpha, config.n_users)


def _taste(config: WorldConfig, interests: Doubles) -> Floats:
    """Logits: about +1.4 for a loved topic, -1 for an ignored one, at taste 1."""
    logit = np.clip(np.log(interests * len(TOPICS) + 0.15), -1.9, 2.3) * 0.75
    return (config.taste * logit).astype(np.float32)


def _pick(shares: Doubles, rng: np.random.Generator) -> Rows:
    """One column per row, drawn by its share, (n,)."""
    cumulative = np.cumsum(shares, axis=1)
    place: Rows = (cumulative < rng.random(len(shares))[:, None] * cumulative[:, -1:]).sum(axis=1, dtype=np.int32)
    return np.minimum(place, np.int32(shares.shape[1] - 1))


def _follow(
    config: WorldConfig, rng: np.random.Generator, interests: Doubles, language: Rows, reads: Mask, user_style: Floats,
    author_topic: Rows, author_language: Rows, author_style: Floats, reach: Doubles,
) -> tuple[Ids, Rows]:  # fmt: skip
    """Users follow authors of topics they like in a language they read: the better match of two, often well known."""
    n = rng.poisson(config.follows_per_user * np.exp(rng.normal(-0.2, 0.63, config.n_users)))
    user = np.repeat(np.arange(config.n_users), n)
    topic = _pick(interests[user], rng)
    spoken = np.where(reads[user, 0] & (rng.random(len(user)) < 0.3), 0, language[user])
    group = topic * len(LANGUAGES) + spoken
    author_group = author_topic * len(LANGUAGES) + author_language
    order = np.argsort(author_group, kind="stable")
    # Each group's authors take up one unit of a line, in proportion to their reach: one search draws from any group.
    n_groups = len(TOPICS) * len(LANGUAGES)
    total = np.bincount(author_group, reach, n_groups)
    cumulative = np.cumsum(reach[order])
    before = np.concatenate([[0.0], np.cumsum(total)])[author_group[order]]
    line = author_group[order] + (cumulative - before) / np.maximum(total[author_group[order]], 1e-12)
    filled = total[group] > 0
    user, group = user[filled], group[filled]
    picks = []
    for _ in range(2):
        place = np.searchsorted(line, group + rng.random(len(group)) * (1 - 1e-9))
        picks.append(order[np.minimum(place, len(order) - 1)])
    match = [(user_style[user] * author_style[pick]).sum(axis=1) for pick in picks]
    chosen = np.where(match[0] >= match[1], picks[0], picks[1])
    return _as_lists(user, chosen, config.n_users, len(reach))


def _block(
    rng: np.random.Generator, n_users: int, n_authors: int, follows_start: Ids, follows: Rows
) -> tuple[Ids, Rows]:
    """A few blocked authors for some users, none of them followed."""
    user = np.repeat(np.arange(n_users), rng.poisson(0.4, n_users))
    author = rng.integers(0, n_authors, len(user))
    followed = np.repeat(np.arange(n_users), np.diff(follows_start)) * n_authors + follows
    free = ~np.isin(user * n_authors + author, followed)
    return _as_lists(user[free], author[free], n_users, n_authors)


def _as_lists(user: np.ndarray, author: np.ndarray, n_users: int, n_authors: int) -> tuple[Ids, Rows]:
    pairs = np.unique(user.astype(np.int64) * n_authors + author)
    start = np.searchsorted(pairs // n_authors, np.arange(n_users + 1)).astype(np.int64)
    return start, (pairs % n_authors).astype(np.int32)


def _posts(
    config: WorldConfig, rng: np.random.Generator, start: int,
    author_topic: Rows, author_language: Rows, reach: Doubles, interests: Doubles,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Static truth of N posts in order of creation."""
    n, n_authors = config.n_posts, len(author_topic)
    n_before = round(n * DAYS_BEFORE / (DAYS_BEFORE + config.n_days))
    created = np.concatenate(
        [
            start - rng.integers(1, DAYS_BEFORE * DAY, n_before),
            start + draw_moments(n - n_before, start, config.n_days, rng),
        ]
    )
    created.sort()
    productivity = reach**0.5
    author = rng.choice(n_authors, n, p=productivity / productivity.sum()).astype(np.int32)
    own = rng.random(n) < 0.75
    topic = np.where(own, author_topic[author], _pick(interests[author], rng)).astype(np.int32)
    author_quality = rng.normal(0, config.author_quality, n_authors) + 0.15 * np.log(reach)
    quality = author_quality[author] + rng.normal(0, config.post_quality, n)
    return {
        "post_created_at": created.astype(np.int64),
        "post_author": author,
        "post_topic": topic,
        "post_topic_missing": rng.random(n) < config.missing_topic,
        "post_language": author_language[author],
        "post_media": rng.choice(4, n, p=MEDIA_SHARES).astype(np.int32),
        "post_quality": quality.astype(np.float32),
        "post_visible": rng.random(n) >= config.hidden_share,
    }


HOURLY = (
    1.0 + 0.55 * np.cos((np.arange(24) - 20) / 24 * 2 * np.pi) + 0.25 * np.cos((np.arange(24) - 8) / 12 * 2 * np.pi)
)
"""Relative use by UTC hour: an evening peak, a smaller one in the morning."""
DAILY = np.array([1.0, 1.0, 1.0, 1.0, 1.05, 1.2, 1.15])
"""Relative use by weekday, Monday first."""


def draw_moments(n: int, start: int, n_days: int, rng: np.random.Generator) -> Times:
    """Microseconds since `start` (a midnight), by the daily and weekly rhythm, in no order, (n,)."""
    weekday = (start // DAY + 3 + np.arange(n_days)) % 7  # 1970-01-01 was a Thursday, weekday 3
    weight = (DAILY[weekday][:, None] * HOURLY).ravel()
    hour = rng.choice(len(weight), n, p=weight / weight.sum())
    return hour * HOUR + rng.integers(0, HOUR, n)


def _texts(config: WorldConfig, rng: np.random.Generator, posts: dict[str, np.ndarray]) -> tuple[list[str], Ids]:
    """Texts and, for each post, the id of the earliest post with the same text."""
    n = config.n_posts
    texts = write_texts(posts["post_topic"], posts["post_language"], rng)
    group = np.arange(n, dtype=np.int64)
    copies = np.flatnonzero(rng.random(n) < config.duplicate_share)
    copies = copies[copies > 0]
    # A repost follows its source soon: one of the hundred posts before it. It brings topic and language along.
    sources = np.maximum(copies - rng.integers(1, 100, len(copies)), 0)
    for copy, source in zip(copies.tolist(), sources.tolist(), strict=True):
        texts[copy], group[copy] = texts[source], group[source]
        posts["post_topic"][copy] = posts["post_topic"][source]
        posts["post_language"][copy] = posts["post_language"][source]
    return texts, FIRST_POST_ID + group
