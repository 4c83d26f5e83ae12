"""The true choice model: how likely a user is to click a post, exactly.

P(click at position k) = examination(k) x relevance, where relevance is the logistic of taste, style, quality, language, follow relation,
medium, age, hour and session fatigue. Takes a `Population` and settings, gives probabilities. Nobody outside the world may call it, except
evaluation, benchmarks and the command line, which hold estimates against it.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR, Doubles, Rows
from recsys.world.population import Population

JIT = numba.njit(cache=True, nogil=True, error_model="numpy")


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
    fatigue: float
    position_bias: float


def truth_of(population: Population, config: WorldConfig) -> Truth:
    shared = {name: getattr(population, name) for name in Truth._fields if hasattr(population, name)}
    strengths = {name: float(getattr(config, name)) for name in Truth._fields if name not in shared and name != "span"}
    return Truth(**shared, **strengths, span=float(config.n_days * DAY))


@JIT
def examination(position, position_bias):  # type: ignore[no-untyped-def]
    """P(the user looks at position k)."""
    return (1.0 + position) ** -position_bias


@JIT
def _follows(truth, user, author):  # type: ignore[no-untyped-def]
    low, high = truth.follows_start[user], truth.follows_start[user + 1]
    while low < high:
        middle = (low + high) // 2
        if truth.follows[middle] < author:
            low = middle + 1
        else:
            high = middle
    return low < truth.follows_start[user + 1] and truth.follows[low] == author


@JIT
def appeal(truth, user, post, now):  # type: ignore[no-untyped-def]
    """Logit of relevance before fatigue."""
    topic, author = truth.post_topic[post], truth.post_author[post]
    day = min(max((now - truth.start) / truth.span, 0.0), 1.0)
    logit = truth.base_logit + truth.post_quality[post]
    logit += truth.taste_start[user, topic] * (1.0 - day) + truth.taste_end[user, topic] * day
    match = 0.0
    for s in range(truth.user_style.shape[1]):
        match += truth.user_style[user, s] * truth.author_style[author, s]
    logit += truth.style * 0.5 * match
    logit += truth.media_taste[user, truth.post_media[post]]
    if not truth.user_reads[user, truth.post_language[post]]:
        logit -= truth.foreign_language
    if _follows(truth, user, author):
        logit += truth.follow_bonus
    age = max(now - truth.post_created_at[post], 0) / HOUR
    faded = (age / truth.topic_pace[topic]) ** 1.5
    logit -= truth.ageing * faded / (1.0 + faded)
    hour = (now % DAY) / HOUR
    logit += truth.daily_rhythm * np.cos((hour - truth.topic_peak[topic]) * (2.0 * np.pi / 24.0))
    return logit


@JIT
def relevance(truth, logit, n_same_topic):  # type: ignore[no-untyped-def]
    """P(click | examined) of a post whose topic the session has shown `n_same_topic` times before."""
    return 1.0 / (1.0 + np.exp(-(logit - truth.fatigue * max(n_same_topic - 1, 0))))


@JIT
def _appeal_many(truth, user, posts, now, out):  # type: ignore[no-untyped-def]
    for i in range(posts.shape[0]):
        out[i] = appeal(truth, user, posts[i], now)


def appeal_of(truth: Truth, user: int, posts: Rows, now: int) -> Doubles:
    """Logits before fatigue of many posts for one user, (C,)."""
    out = np.empty(len(posts))
    _appeal_many(truth, user, posts, now, out)
    return out
