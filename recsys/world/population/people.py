"""Draw users and authors: country, language, taste, activity, follows and blocks.

Takes the world's settings, gives arrays. Row r is the r-th id; the first rows are the authors. It does not know posts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR, Doubles, Floats, Ids, Mask, Rows, Times
from recsys.world.behaviour.changes import covariate_shifts
from recsys.world.population.vocabulary import LANGUAGES, TOPICS

N_STYLES = 4
FIRST_USER_ID = 1_000_001
LANGUAGE_SHARES = (0.5, 0.2, 0.15, 0.15)
MEDIA_APPEAL = (-0.1, 0.1, 0.2, -0.2)
"""Mean logit of text, image, video, link; each user varies around it."""
BOT_ACTIVITY = 2.0
"""Activity of a bot relative to the mean user."""


@dataclass(frozen=True)
class Users:
    """The truth about U users; the first A are authors."""

    id: Ids
    created_at: Times
    language: Rows
    reads: Mask
    """Whether a user reads a language, (U, L)."""
    country: Rows
    """Row in `countries_of`."""
    country_missing: Mask
    bot: Mask
    activity: Doubles
    """Relative frequency of sessions, (U,)."""
    interests: Doubles
    """Shares over topics on the first day, (U, T)."""
    taste_start: Floats
    """Logit of each topic on the first day, (U, T)."""
    taste_end: Floats
    """Logit of each topic at the end of the period, (U, T); taste moves linearly in between."""
    style: Floats
    """S style numbers of a user, (U, S)."""
    media_taste: Floats
    """Logit of each medium, (U, 4)."""
    liking: Floats
    """The user's part of the logit of P(like | click), mean 0, (U,)."""
    patience: Floats
    """The user's part of the log of dwell, mean 0, (U,)."""
    author_topic: Rows
    """The topic an author mostly writes about, (A,)."""
    author_style: Floats
    """S style numbers of an author, (A, S)."""
    author_reach: Doubles
    """Relative readership, Pareto-tailed, (A,)."""
    author_quality: Floats
    """Logit, (A,)."""
    spammer: Mask
    """Authors who write only spam, (A,)."""


class Follows(NamedTuple):
    """Edges from users to authors: user u's are `authors[start[u]:start[u + 1]]`, ascending."""

    start: Ids
    authors: Rows


def draw_users(config: WorldConfig, start: int, rng: np.random.Generator) -> Users:
    """Draw all users. Those who join during the period come last: ordinary newcomers, then covariate shifts."""
    n, n_authors = config.n_users, min(config.n_authors, config.n_users)
    shares = np.array(LANGUAGE_SHARES[: config.n_languages])
    language = rng.choice(len(shares), n, p=shares / shares.sum()).astype(np.int32)
    country = (2 * language + (rng.random(n) < 0.4)).astype(np.int32)
    created = start - rng.integers(1, 60 * DAY, n)
    last = _apply_covariate_shifts(config, start, language, country, created, rng)
    n_joining = min(int(config.joining_share * n), last - n_authors)
    if n_joining > 0:
        created[last - n_joining : last] = start + np.sort(rng.integers(0, config.n_days * DAY, n_joining))
    reads = language[:, None] == np.arange(len(LANGUAGES))
    reads[:, 0] |= rng.random(n) < 0.2

    bot = rng.random(n) < config.bot_share
    bot[:n_authors] = False
    activity = np.exp(rng.normal(0, config.activity_tail, n))
    activity[bot] = BOT_ACTIVITY * np.exp(config.activity_tail**2 / 2)
    interests, moved = _interests(n, rng), _interests(n, rng)
    reach = (rng.pareto(1.3, n_authors) + 0.3) ** config.reach
    quality = rng.normal(0, config.author_quality, n_authors) + 0.15 * np.log(reach)
    spammer = np.zeros(n_authors, bool)
    spammer[rng.permutation(n_authors)[: max(n_authors // 50, 1) if config.spam_share > 0 else 0]] = True
    media_taste = np.array(MEDIA_APPEAL) + rng.normal(0, 0.2, (n, len(MEDIA_APPEAL)))
    return Users(
        id=FIRST_USER_ID + np.arange(n, dtype=np.int64),
        created_at=created,
        language=language,
        reads=reads,
        country=country,
        country_missing=rng.random(n) < config.missing_country,
        bot=bot,
        activity=activity,
        interests=interests,
        taste_start=_taste(config, interests),
        taste_end=_taste(config, (1 - config.drift) * interests + config.drift * moved),
        style=rng.normal(0, 1, (n, N_STYLES)).astype(np.float32),
        media_taste=media_taste.astype(np.float32),
        liking=(0.5 * config.own_ways * rng.normal(size=n)).astype(np.float32),
        patience=(0.3 * config.own_ways * rng.normal(size=n)).astype(np.float32),
        author_topic=draw_column(interests[:n_authors], rng),
        author_style=rng.normal(0, 1, (n_authors, N_STYLES)).astype(np.float32),
        author_reach=reach,
        author_quality=quality.astype(np.float32),
        spammer=spammer,
    )


def _apply_covariate_shifts(
    config: WorldConfig, start: int, language: Rows, country: Rows, created: Times, rng: np.random.Generator
) -> int:
    """Turn the last users into the new groups of `covariate_shifts`, in place; gives the number of other users."""
    last = len(language)
    for row, shift in enumerate(covariate_shifts(config)):
        n = int(shift.share * len(language))
        users = slice(last - n, last)
        language[users] = LANGUAGES.index(shift.language)
        country[users] = 2 * len(LANGUAGES) + row
        arrival = np.minimum(rng.exponential(6 * HOUR, n), DAY).astype(np.int64)
        created[users] = start + shift.day * DAY + arrival
        last -= n
    return last


def _interests(n: int, rng: np.random.Generator) -> Doubles:
    """Draw each user's shares of interest over topics, (n, T), rows sum to 1: a few topics each, some more popular."""
    weight = 1.0 / (1.0 + np.arange(len(TOPICS))) ** 0.5
    return rng.dirichlet(0.12 * len(TOPICS) * weight / weight.sum(), n)


def _taste(config: WorldConfig, interests: Doubles) -> Floats:
    """Logit of each topic, from -1.4 (ignored) to +1.7 (favourite) times `taste`, (n, T)."""
    logit = np.clip(np.log(interests * len(TOPICS) + 0.15), -1.9, 2.3) * 0.75
    return (config.taste * logit).astype(np.float32)


def draw_column(shares: Doubles, rng: np.random.Generator) -> Rows:
    """Draw one column per row, with the row's shares as weights, (n,)."""
    cumulative = np.cumsum(shares, axis=1)
    place: Rows = (cumulative < rng.random(len(shares))[:, None] * cumulative[:, -1:]).sum(axis=1, dtype=np.int32)
    return np.minimum(place, np.int32(shares.shape[1] - 1))


def draw_follows(config: WorldConfig, users: Users, rng: np.random.Generator) -> Follows:
    """Draw whom each user follows.

    A follow takes a topic by the user's interest and a language the user reads, draws two authors of that group by
    reach, and keeps the one whose style matches better. A share of 1 - `homophily` goes to any author by reach.
    """
    n_authors = len(users.author_reach)
    # 1. One entry per follow: user, topic, language, and the group of authors that it draws from, (E,).
    n = rng.poisson(config.follows_per_user * np.exp(rng.normal(-0.2, 0.63, config.n_users)))
    user = np.repeat(np.arange(config.n_users), n)
    topic = draw_column(users.interests[user], rng)
    spoken = np.where(users.reads[user, 0] & (rng.random(len(user)) < 0.3), 0, users.language[user])
    group = topic * len(LANGUAGES) + spoken
    author_group = users.author_topic * len(LANGUAGES) + users.language[:n_authors]
    order = np.argsort(author_group, kind="stable")
    # 2. Place the authors of group g on the interval [g, g + 1), in proportion to their reach: one binary search on
    #    `line` (A,) draws from any group.
    n_groups = len(TOPICS) * len(LANGUAGES)
    total = np.bincount(author_group, users.author_reach, n_groups)
    cumulative = np.cumsum(users.author_reach[order])
    before = np.concatenate([[0.0], np.cumsum(total)])[author_group[order]]
    line = author_group[order] + (cumulative - before) / np.maximum(total[author_group[order]], 1e-12)
    filled = total[group] > 0
    user, group, without_group = user[filled], group[filled], user[~filled]
    # 3. Two authors for each follow; the better match of style wins.
    picks = []
    for _ in range(2):
        place = np.searchsorted(line, group + rng.random(len(group)) * (1 - 1e-9))
        picks.append(order[np.minimum(place, len(order) - 1)])
    match = [(users.style[user] * users.author_style[choice]).sum(axis=1) for choice in picks]
    chosen = np.where(match[0] >= match[1], picks[0], picks[1])
    # 4. The follows without homophily.
    anyone = _draw_by_reach(users, len(user), rng)
    chosen = np.where(rng.random(len(user)) >= config.homophily, anyone, chosen)
    # 5. Follows whose group has no author: dropped, or any author for the share without homophily.
    rest_rng = rng.spawn(1)[0]
    rest = without_group[rest_rng.random(len(without_group)) >= config.homophily]
    authors = np.concatenate([chosen, _draw_by_reach(users, len(rest), rest_rng)])
    return _as_lists(np.concatenate([user, rest]), authors, config.n_users, n_authors)


def _draw_by_reach(users: Users, n: int, rng: np.random.Generator) -> Ids:
    """Draw authors by reach, (n,)."""
    place = np.searchsorted(np.cumsum(users.author_reach), rng.random(n) * users.author_reach.sum())
    drawn: Ids = np.minimum(place, len(users.author_reach) - 1).astype(np.int64)
    return drawn


def draw_blocks(users: Users, follows: Follows, rng: np.random.Generator) -> Follows:
    """Draw the authors whom each user blocks: 0.4 on average, none of them followed."""
    n_users, n_authors = len(users.id), len(users.author_reach)
    user = np.repeat(np.arange(n_users), rng.poisson(0.4, n_users))
    author = rng.integers(0, n_authors, len(user))
    followed = np.repeat(np.arange(n_users), np.diff(follows.start)) * n_authors + follows.authors
    free = ~np.isin(user * n_authors + author, followed)
    return _as_lists(user[free], author[free], n_users, n_authors)


def _as_lists(user: np.ndarray, author: np.ndarray, n_users: int, n_authors: int) -> Follows:
    """Group pairs by user, without repeats."""
    pairs = np.unique(user.astype(np.int64) * n_authors + author)
    start = np.searchsorted(pairs // n_authors, np.arange(n_users + 1)).astype(np.int64)
    return Follows(start, (pairs % n_authors).astype(np.int32))
