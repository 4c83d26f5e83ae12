"""Users and authors: where they live, what they like, how much they use the feed, whom they follow and block.

Takes the world's settings, gives arrays; row r is the r-th id, the first rows are the authors. It does not know posts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR, Doubles, Floats, Ids, Mask, Rows, Times
from recsys.world.behaviour.changes import floods_of
from recsys.world.population.vocabulary import LANGUAGES, TOPICS

N_STYLES = 4
FIRST_USER_ID = 1_000_001
LANGUAGE_SHARES = (0.5, 0.2, 0.15, 0.15)
MEDIA_APPEAL = (-0.1, 0.1, 0.2, -0.2)
"""Mean logit of text, image, video, link; users differ around it."""
BOT_ACTIVITY = 2.0
"""How much more than an average user a bot uses the feed."""


@dataclass(frozen=True)
class Users:
    """The truth about U users, of whom the first A are authors."""

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
    """The same at the end of the period; taste moves linearly between."""
    style: Floats
    """(U, S)."""
    media_taste: Floats
    """Logit of each medium, (U, 4)."""
    liking: Floats
    """Logit of how freely a user likes what was clicked, around 0, (U,)."""
    patience: Floats
    """Log of how long a user dwells, around 0, (U,)."""
    author_topic: Rows
    """What an author mostly writes about, (A,)."""
    author_style: Floats
    """(A, S)."""
    author_reach: Doubles
    """Relative readership, heavy-tailed, (A,)."""
    author_quality: Floats
    """Logit, (A,)."""
    spammer: Mask
    """Authors who write nothing but spam, (A,)."""


class Follows(NamedTuple):
    """Edges from users to authors: user u's are `authors[start[u]:start[u + 1]]`, ascending."""

    start: Ids
    authors: Rows


def draw_users(config: WorldConfig, start: int, rng: np.random.Generator) -> Users:
    """Everybody. The last users are those who join: the ordinary newcomers, then the floods."""
    n, n_authors = config.n_users, min(config.n_authors, config.n_users)
    shares = np.array(LANGUAGE_SHARES[: config.n_languages])
    language = rng.choice(len(shares), n, p=shares / shares.sum()).astype(np.int32)
    country = (2 * language + (rng.random(n) < 0.4)).astype(np.int32)
    created = start - rng.integers(1, 60 * DAY, n)
    last = _flood(config, start, language, country, created, rng)
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
        author_topic=pick(interests[:n_authors], rng),
        author_style=rng.normal(0, 1, (n_authors, N_STYLES)).astype(np.float32),
        author_reach=reach,
        author_quality=quality.astype(np.float32),
        spammer=spammer,
    )


def _flood(
    config: WorldConfig, start: int, language: Rows, country: Rows, created: Times, rng: np.random.Generator
) -> int:
    """Turn the last users into the new publics, in place; gives how many others there are."""
    last = len(language)
    for row, flood in enumerate(floods_of(config)):
        n = int(flood.share * len(language))
        users = slice(last - n, last)
        language[users] = LANGUAGES.index(flood.language)
        country[users] = 2 * len(LANGUAGES) + row
        arrival = np.minimum(rng.exponential(6 * HOUR, n), DAY).astype(np.int64)
        created[users] = start + flood.day * DAY + arrival
        last -= n
    return last


def _interests(n: int, rng: np.random.Generator) -> Doubles:
    """Shares of interest over topics, (n, T) with rows that sum to 1: a few topics each, some with more friends."""
    weight = 1.0 / (1.0 + np.arange(len(TOPICS))) ** 0.5
    return rng.dirichlet(0.12 * len(TOPICS) * weight / weight.sum(), n)


def _taste(config: WorldConfig, interests: Doubles) -> Floats:
    """Logits: about +1.4 for a loved topic, -1 for an ignored one, at taste 1."""
    logit = np.clip(np.log(interests * len(TOPICS) + 0.15), -1.9, 2.3) * 0.75
    return (config.taste * logit).astype(np.float32)


def pick(shares: Doubles, rng: np.random.Generator) -> Rows:
    """One column per row, drawn by its share, (n,)."""
    cumulative = np.cumsum(shares, axis=1)
    place: Rows = (cumulative < rng.random(len(shares))[:, None] * cumulative[:, -1:]).sum(axis=1, dtype=np.int32)
    return np.minimum(place, np.int32(shares.shape[1] - 1))


def draw_follows(config: WorldConfig, users: Users, rng: np.random.Generator) -> Follows:
    """Users follow authors of topics they like in a language they read: the better match of two, often well known."""
    n_authors = len(users.author_reach)
    n = rng.poisson(config.follows_per_user * np.exp(rng.normal(-0.2, 0.63, config.n_users)))
    user = np.repeat(np.arange(config.n_users), n)
    topic = pick(users.interests[user], rng)
    spoken = np.where(users.reads[user, 0] & (rng.random(len(user)) < 0.3), 0, users.language[user])
    group = topic * len(LANGUAGES) + spoken
    author_group = users.author_topic * len(LANGUAGES) + users.language[:n_authors]
    order = np.argsort(author_group, kind="stable")
    # Each group's authors take up one unit of a line, in proportion to their reach: one search draws from any group.
    n_groups = len(TOPICS) * len(LANGUAGES)
    total = np.bincount(author_group, users.author_reach, n_groups)
    cumulative = np.cumsum(users.author_reach[order])
    before = np.concatenate([[0.0], np.cumsum(total)])[author_group[order]]
    line = author_group[order] + (cumulative - before) / np.maximum(total[author_group[order]], 1e-12)
    filled = total[group] > 0
    user, group, without_group = user[filled], group[filled], user[~filled]
    picks = []
    for _ in range(2):
        place = np.searchsorted(line, group + rng.random(len(group)) * (1 - 1e-9))
        picks.append(order[np.minimum(place, len(order) - 1)])
    match = [(users.style[user] * users.author_style[choice]).sum(axis=1) for choice in picks]
    chosen = np.where(match[0] >= match[1], picks[0], picks[1])
    anyone = _by_reach(users, len(user), rng)
    chosen = np.where(rng.random(len(user)) >= config.homophily, anyone, chosen)
    # Nobody writes for these; who does not care about that follows all the same.
    rest_rng = rng.spawn(1)[0]
    rest = without_group[rest_rng.random(len(without_group)) >= config.homophily]
    authors = np.concatenate([chosen, _by_reach(users, len(rest), rest_rng)])
    return _as_lists(np.concatenate([user, rest]), authors, config.n_users, n_authors)


def _by_reach(users: Users, n: int, rng: np.random.Generator) -> Ids:
    """Authors drawn by their reach, (n,)."""
    place = np.searchsorted(np.cumsum(users.author_reach), rng.random(n) * users.author_reach.sum())
    drawn: Ids = np.minimum(place, len(users.author_reach) - 1).astype(np.int64)
    return drawn


def draw_blocks(users: Users, follows: Follows, rng: np.random.Generator) -> Follows:
    """A few blocked authors for some users, none of them followed."""
    n_users, n_authors = len(users.id), len(users.author_reach)
    user = np.repeat(np.arange(n_users), rng.poisson(0.4, n_users))
    author = rng.integers(0, n_authors, len(user))
    followed = np.repeat(np.arange(n_users), np.diff(follows.start)) * n_authors + follows.authors
    free = ~np.isin(user * n_authors + author, followed)
    return _as_lists(user[free], author[free], n_users, n_authors)


def _as_lists(user: np.ndarray, author: np.ndarray, n_users: int, n_authors: int) -> Follows:
    pairs = np.unique(user.astype(np.int64) * n_authors + author)
    start = np.searchsorted(pairs // n_authors, np.arange(n_users + 1)).astype(np.int64)
    return Follows(start, (pairs % n_authors).astype(np.int32))
