"""The true choice model: exact probabilities that a user looks at a post, clicks it, likes, shares or hides it.

P(click at position k) = examination(k) x relevance. Relevance is the logistic of a sum over taste, style, quality,
language, follow relation, medium, age, hour and session fatigue. Likes, shares, hides and dwell have formulas of their
own. Takes a `Population` and settings, gives probabilities. Outside the world only evaluation, the steps, the
demo, benchmarks and the command line may call it, to compare estimates with the truth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.config import WorldConfig
from recsys.types import DAY, HOUR, Doubles, Floats, Rows
from recsys.world.jit import JIT
from recsys.world.population.people import N_STYLES
from recsys.world.population.population import Population
from recsys.world.population.texts import FINE
from recsys.world.population.vocabulary import LANGUAGES, TOPICS

MEDIA_PEAK = (7.0, 14.0, 21.0, 9.0)
"""Hour of the day (UTC) at which text, image, video and link appeal most."""
MEDIA_DWELL = (0.0, -0.6, 0.5, -0.2)
"""Log of the dwell on text, image, video, link, relative to the average."""
BOT_CLICKS = 0.3
"""P(click) of a bot, the same for every post."""

POST = np.dtype(
    [
        ("created_at", np.int64), ("quality", np.float32), ("author", np.int32), ("popular", np.float32),
        ("topic", np.int16), ("language", np.int8), ("media", np.int8), ("label", np.int8), ("visible", np.bool_),
        ("unused", np.int8, 6),
    ]
)  # fmt: skip
"""One record per post; `popular` is the current weight in the popularity policy, `unused` pads to 32 bytes."""

USER = np.dtype(
    [
        ("taste_start", np.float32, len(TOPICS)), ("taste_end", np.float32, len(TOPICS)),
        ("style", np.float32, N_STYLES), ("media_taste", np.float32, len(MEDIA_PEAK)),
        ("liking", np.float32), ("patience", np.float32), ("follows_start", np.int64), ("follows_end", np.int64),
        ("reads", np.uint8, len(LANGUAGES)), ("bot", np.bool_), ("language", np.int8), ("unused", np.int8, 10),
    ]
)  # fmt: skip
"""One record per user; user u follows the authors `follows[follows_start:follows_end]` of `KernelTruth`."""

TOPIC = np.dtype(
    [
        ("pace", np.float64),
        ("cosine", np.float64),
        ("sine", np.float64),
        ("sharing", np.float64),
        ("flips_at", np.int64),
    ]
)
"""One record per topic; `cosine` and `sine` are of its peak hour as an angle, times `daily_rhythm`."""

MEDIUM = np.dtype([("cosine", np.float64), ("sine", np.float64), ("dwell", np.float64)])
"""One record per medium; `dwell` is the mean seconds after a click before user and relevance count."""


class KernelTruth(NamedTuple):
    """The population and the strengths from the settings, in the form the kernels take.

    All facts of a post or user are in one record, so a random access waits for memory once. Few arrays also mean little
    reference counting when one kernel calls another.
    """

    posts: np.ndarray
    """(N,) POST."""
    users: np.ndarray
    """(U,) USER."""
    topics: np.ndarray
    """(T,) TOPIC."""
    media: np.ndarray
    """(4,) MEDIUM."""
    author_style: Floats
    """(A, S)."""
    follows: Rows
    """Author rows, grouped by user, ascending within each user."""
    start: int
    """First microsecond of the logs."""
    span: float
    """Microseconds over which taste drifts."""
    base_logit: float
    style: float
    follow_bonus: float
    foreign_language: float
    spam_dislike: float
    ageing: float
    fatigue: float
    position_bias: float


class Moment(NamedTuple):
    """The parts of the logit that depend on time alone."""

    now: int
    drifted: float
    """How far taste has moved from the first day's to the last day's, 0 to 1."""
    cosine: float
    """Of the time of day as an angle; `sine` likewise."""
    sine: float


def truth_of(population: Population, config: WorldConfig) -> KernelTruth:
    """Pack a population and the strengths from the settings for the kernels."""
    posts = np.zeros(population.n_posts, POST)
    for name in ("created_at", "quality", "author", "topic", "language", "media", "label", "visible"):
        posts[name] = getattr(population.posts, name)
    posts["popular"] = 1.0
    users = np.zeros(population.n_users, USER)
    for name in ("taste_start", "taste_end", "style", "media_taste", "liking", "patience", "reads", "bot", "language"):
        users[name] = getattr(population.users, name)
    users["follows_start"], users["follows_end"] = population.follows.start[:-1], population.follows.start[1:]
    topics, media = np.zeros(len(TOPICS), TOPIC), np.zeros(len(MEDIA_PEAK), MEDIUM)
    topics["pace"], topics["flips_at"] = population.topic_pace, population.topic_flips_at
    topics["sharing"] = config.own_ways * population.topic_sharing
    media["dwell"] = 12.0 * np.exp(config.own_ways * np.array(MEDIA_DWELL))
    for records, peak, strength in (
        (topics, population.topic_peak, config.daily_rhythm),
        (media, np.array(MEDIA_PEAK), config.media_rhythm),
    ):
        records["cosine"] = strength * np.cos(peak * (2 * np.pi / 24))
        records["sine"] = strength * np.sin(peak * (2 * np.pi / 24))
    return KernelTruth(
        posts=posts,
        users=users,
        topics=topics,
        media=media,
        author_style=population.users.author_style,
        follows=population.follows.authors,
        start=population.start,
        span=float(config.n_days * DAY),
        base_logit=config.base_logit,
        style=config.style,
        follow_bonus=config.follow_bonus,
        foreign_language=config.foreign_language,
        spam_dislike=config.spam_dislike,
        ageing=config.ageing,
        fatigue=config.fatigue,
        position_bias=config.position_bias,
    )


@JIT
def moment_of(truth, now):  # type: ignore[no-untyped-def]
    """The `Moment` of a time in microseconds."""
    drifted = min(max((now - truth.start) / truth.span, 0.0), 1.0)
    angle = (now % DAY) * (2.0 * np.pi / DAY)
    return Moment(now, drifted, np.cos(angle), np.sin(angle))


@JIT
def examination(truth, user, position):  # type: ignore[no-untyped-def]
    """P(the user looks at this position | it is on screen)."""
    if truth.users[user].bot:
        return 1.0
    return (1.0 + position) ** -truth.position_bias


@JIT
def is_following(truth, user, author):  # type: ignore[no-untyped-def]
    """Whether the user follows the author, by binary search in the user's ascending list."""
    low, high = truth.users[user].follows_start, truth.users[user].follows_end
    while low < high:
        middle = (low + high) // 2
        if truth.follows[middle] < author:
            low = middle + 1
        else:
            high = middle
    return low < truth.users[user].follows_end and truth.follows[low] == author


@JIT
def post_logit(truth, post, moment):  # type: ignore[no-untyped-def]
    """The part of the logit that all users share: base rate, quality, age, hour, moderation label."""
    facts = truth.posts[post]
    topic, medium = truth.topics[facts.topic], truth.media[facts.media]
    # Ageing: a = (age / pace) ** 1.5; a / (1 + a) is 0 for a new post, 1/2 at the topic's pace, and tends to 1.
    age = max(moment.now - facts.created_at, 0) / HOUR / topic.pace
    faded = age * np.sqrt(age)
    logit = truth.base_logit + facts.quality - truth.ageing * faded / (1.0 + faded)
    # Daily rhythm: strength x cos(hour - peak hour), expanded into cosines and sines.
    logit += (topic.cosine + medium.cosine) * moment.cosine + (topic.sine + medium.sine) * moment.sine
    if facts.label != FINE:
        logit -= truth.spam_dislike
    return logit


@JIT
def user_logit(truth, user, post, following, moment):  # type: ignore[no-untyped-def]
    """The part of the logit that depends on the user: taste, style, medium, language, follow relation."""
    facts, person = truth.posts[post], truth.users[user]
    topic, author = facts.topic, facts.author
    # Taste for the topic, moving linearly over the period; a concept shift changes its sign.
    logit = person.taste_start[topic] * (1.0 - moment.drifted) + person.taste_end[topic] * moment.drifted
    if moment.now >= truth.topics[topic].flips_at:
        logit = -logit
    # Style: half the dot product of the user's and the author's S numbers.
    match = 0.0
    for s in range(truth.author_style.shape[1]):
        match += person.style[s] * truth.author_style[author, s]
    logit += truth.style * 0.5 * match + person.media_taste[facts.media]
    if not person.reads[facts.language]:
        logit -= truth.foreign_language
    if following:
        logit += truth.follow_bonus
    return logit


@JIT
def relevance_logit(truth, user, post, following, moment):  # type: ignore[no-untyped-def]
    """Logit of P(click | examined) before session fatigue."""
    return post_logit(truth, post, moment) + user_logit(truth, user, post, following, moment)


@JIT
def relevance(truth, user, logit, n_same_topic):  # type: ignore[no-untyped-def]
    """P(click | examined), given the logit before fatigue.

    Args:
        n_same_topic: earlier posts on the same topic in this session; fatigue starts with the second.
    """
    if truth.users[user].bot:
        return BOT_CLICKS
    return 1.0 / (1.0 + np.exp(-(logit - truth.fatigue * max(n_same_topic - 1, 0))))


@JIT
def after_click(truth, user, post, relevant):  # type: ignore[no-untyped-def]
    """P(like | click), P(share | click) and the mean dwell in seconds after a click."""
    facts, person = truth.posts[post], truth.users[user]
    dislike = truth.spam_dislike if facts.label != FINE else 0.0
    like = 1.0 / (1.0 + np.exp(2.3 - 3.0 * relevant - person.liking + dislike))
    share = 1.0 / (1.0 + np.exp(3.9 - 4.0 * relevant - truth.topics[facts.topic].sharing + dislike))
    dwell = truth.media[facts.media].dwell * np.exp(1.5 * relevant + person.patience - 1.5 * dislike)
    return like, share, dwell


@JIT
def hide_probability(truth, user, post, relevant):  # type: ignore[no-untyped-def]
    """P(hide | examined, not clicked)."""
    if truth.users[user].bot:
        return 0.0
    irrelevant = (1.0 - relevant) * (1.0 - relevant)
    hide = 0.012 * irrelevant * irrelevant  # 0.012 (1 - relevance) ** 4
    if truth.posts[post].label != FINE:
        hide *= np.exp(3.0 * truth.spam_dislike)
    return min(hide, 1.0)


@JIT
def _fill_relevance_logits(truth, user, posts, now, out):  # type: ignore[no-untyped-def]
    """Write `relevance_logit` of each post into out, (C,)."""
    moment = moment_of(truth, now)
    for i in range(posts.shape[0]):
        following = is_following(truth, user, truth.posts[posts[i]].author)
        out[i] = relevance_logit(truth, user, posts[i], following, moment)


@JIT
def _fill_post_logits(truth, now, out):  # type: ignore[no-untyped-def]
    """Write `post_logit` of every post into out, (N,)."""
    moment = moment_of(truth, now)
    for post in range(out.shape[0]):
        out[post] = post_logit(truth, post, moment)


def post_logits(truth: KernelTruth, now: int) -> Doubles:
    """The part of every post's logit that all users share, (N,)."""
    out = np.empty(len(truth.posts))
    _fill_post_logits(truth, now, out)
    return out


def logits_for_user(truth: KernelTruth, shared: Doubles, user: int, now: int) -> Doubles:
    """Logits before fatigue of all posts for one user, (N,); equals `relevance_logits`, computed by columns.

    Args:
        shared: `post_logits` at the same `now`, (N,).
    """
    moment, person = moment_of(truth, now), truth.users[user]
    # One table per attribute, then one gather per table: topics (T,), authors (A,), languages (L,), media (4,).
    of_topic = person["taste_start"] * (1.0 - moment.drifted) + person["taste_end"] * moment.drifted
    of_topic = np.where(now >= truth.topics["flips_at"], -of_topic, of_topic)
    of_author = truth.style * 0.5 * (truth.author_style @ person["style"]).astype(np.float64)
    of_author[truth.follows[person["follows_start"] : person["follows_end"]]] += truth.follow_bonus
    of_language = np.where(person["reads"] > 0, 0.0, -truth.foreign_language)
    logit: Doubles = shared + of_topic[truth.posts["topic"]] + of_author[truth.posts["author"]]
    logit += person["media_taste"][truth.posts["media"]] + of_language[truth.posts["language"]]
    return logit


def relevance_logits(truth: KernelTruth, user: int, posts: Rows, now: int) -> Doubles:
    """Logits before fatigue of many posts for one user at `now` (microseconds), (C,)."""
    out = np.empty(len(posts))
    _fill_relevance_logits(truth, user, posts, now, out)
    return out
