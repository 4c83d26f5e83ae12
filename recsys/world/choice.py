"""The true choice model: how likely a user is to click a post, exactly.

P(click at position k) = examination(k) x relevance, where relevance is the logistic of taste, style, quality, language,
follow relation, medium, age, hour and session fatigue. Takes a `Population` and settings, gives probabilities. Nobody
outside the world may call it, except evaluation, benchmarks and the command line, which hold estimates against it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR, Doubles, Rows
from recsys.world.kernels import JIT
from recsys.world.population import MEDIA_PEAK, Population


class Truth(NamedTuple):
    """The population's arrays and the settings' strengths in the form the kernels take."""

    taste_start: np.ndarray
    taste_end: np.ndarray
    user_style: np.ndarray
    author_style: np.ndarray
    media_taste: np.ndarray
    user_reads: np.ndarray
    follows_start: np.ndarray
    follows: np.ndarray
    post_author: np.ndarray
    post_topic: np.ndarray
    post_language: np.ndarray
    post_media: np.ndarray
    post_quality: np.ndarray
    post_created_at: np.ndarray
    topic_pace: np.ndarray
    topic_peak: np.ndarray
    start: int
    span: float
    """Microseconds over which taste drifts."""
    base_logit: float
    style: float
    follow_bonus: float
    foreign_language: float
    ageing: float
    daily_rhythm: float
    media_rhythm: float
    fatigue: float
    position_bias: float


def truth_of(population: Population, config: WorldConfig) -> Truth:
    """What is true about this population in a world of these strengths."""
    shared: dict[str, Any] = {name: getattr(population, name) for name in Truth._fields if hasattr(population, name)}
    strengths: dict[str, Any] = {
        name: float(getattr(config, name)) for name in Truth._fields if name not in shared and name != "span"
    }
    return Truth(**shared, **strengths, span=float(config.n_days * DAY))


@JIT
def examination(position, position_bias):  # type: ignore[no-untyped-def]
    """P(the user looks at position k)."""
    return (1.0 + position) ** -position_bias


@JIT
def is_following(truth, user, author):  # type: ignore[no-untyped-def]
    """Whether the user follows the author: a search in the user's ascending list."""
    low, high = truth.follows_start[user], truth.follows_start[user + 1]
    while low < high:
        middle = (low + high) // 2
        if truth.follows[middle] < author:
            low = middle + 1
        else:
            high = middle
    return low < truth.follows_start[user + 1] and truth.follows[low] == author


@JIT
def post_appeal(truth, post, now):  # type: ignore[no-untyped-def]
    """The part of a post's logit that is the same for everybody: quality, age, hour."""
    topic, medium = truth.post_topic[post], truth.post_media[post]
    age = max(now - truth.post_created_at[post], 0) / HOUR
    faded = (age / truth.topic_pace[topic]) ** 1.5
    hour = (now % DAY) / HOUR
    logit = truth.base_logit + truth.post_quality[post] - truth.ageing * faded / (1.0 + faded)
    logit += truth.daily_rhythm * np.cos((hour - truth.topic_peak[topic]) * (2.0 * np.pi / 24.0))
    logit += truth.media_rhythm * np.cos((hour - MEDIA_PEAK[medium]) * (2.0 * np.pi / 24.0))
    return logit


@JIT
def user_appeal(truth, user, post, now):  # type: ignore[no-untyped-def]
    """The part of a post's logit that is this user's: taste, style, medium, language, follow relation."""
    topic, author = truth.post_topic[post], truth.post_author[post]
    day = min(max((now - truth.start) / truth.span, 0.0), 1.0)
    logit = truth.taste_start[user, topic] * (1.0 - day) + truth.taste_end[user, topic] * day
    match = 0.0
    for s in range(truth.user_style.shape[1]):
        match += truth.user_style[user, s] * truth.author_style[author, s]
    logit += truth.style * 0.5 * match + truth.media_taste[user, truth.post_media[post]]
    if not truth.user_reads[user, truth.post_language[post]]:
        logit -= truth.foreign_language
    if is_following(truth, user, author):
        logit += truth.follow_bonus
    return logit


@JIT
def appeal(truth, user, post, now):  # type: ignore[no-untyped-def]
    """Logit of relevance before fatigue."""
    return post_appeal(truth, post, now) + user_appeal(truth, user, post, now)


@JIT
def relevance(truth, logit, n_same_topic):  # type: ignore[no-untyped-def]
    """P(click | examined) of a post whose topic the session has shown `n_same_topic` times before."""
    return 1.0 / (1.0 + np.exp(-(logit - truth.fatigue * max(n_same_topic - 1, 0))))


@JIT
def _appeal_many(truth, user, posts, now, out):  # type: ignore[no-untyped-def]
    for i in range(posts.shape[0]):
        out[i] = appeal(truth, user, posts[i], now)


@JIT
def _post_appeals(truth, now, out):  # type: ignore[no-untyped-def]
    for post in range(out.shape[0]):
        out[post] = post_appeal(truth, post, now)


def post_appeals(truth: Truth, now: int) -> Doubles:
    """The part of every post's logit that is the same for all users, (N,)."""
    out = np.empty(len(truth.post_topic))
    _post_appeals(truth, now, out)
    return out


def appeals_of_user(truth: Truth, shared: Doubles, user: int, now: int) -> Doubles:
    """Logits before fatigue of all posts for one user, (N,): what `appeal_of` gives, by columns.

    Args:
        shared: `post_appeals` at the same `now`, (N,).
    """
    day = min(max((now - truth.start) / truth.span, 0.0), 1.0)
    of_topic = truth.taste_start[user] * (1.0 - day) + truth.taste_end[user] * day
    of_author = truth.style * 0.5 * (truth.author_style @ truth.user_style[user]).astype(np.float64)
    of_author[truth.follows[truth.follows_start[user] : truth.follows_start[user + 1]]] += truth.follow_bonus
    of_language = np.where(truth.user_reads[user], 0.0, -truth.foreign_language)
    logit: Doubles = shared + of_topic[truth.post_topic] + of_author[truth.post_author]
    logit += truth.media_taste[user][truth.post_media] + of_language[truth.post_language]
    return logit


def appeal_of(truth: Truth, user: int, posts: Rows, now: int) -> Doubles:
    """Logits before fatigue of many posts for one user at `now` (microseconds), (C,)."""
    out = np.empty(len(posts))
    _appeal_many(truth, user, posts, now, out)
    return out
