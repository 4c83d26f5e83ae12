"""The one table of features, and the counters they are read from.

Takes nothing, gives `ENTITIES` (what is counted, for whom, with which half-lives), `FEATURES` (what a ranker sees, in
column order) and `fingerprint()`, which changes when either does. It does not know how counters are stored or computed.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from recsys.offline.labels import ACTIONS
from recsys.types import DAY, HOUR, Doubles, Rows

WEEK = 7 * DAY

ROW_FORMAT = 1
"""Version of the packed layout in the online store."""


class Entity(NamedTuple):
    """Decayed counts kept for one kind of thing: one per action and half-life."""

    name: str
    actions: tuple[str, ...]
    half_lives: tuple[int, ...]
    """Microseconds."""

    @property
    def shape(self) -> tuple[int, int]:
        """(A, H): actions by half-lives."""
        return len(self.actions), len(self.half_lives)

    @property
    def action_rows(self) -> Rows:
        """Place of each action code among the kept ones, -1 when not kept, (len(ACTIONS),)."""
        return np.array([self.actions.index(a) if a in self.actions else -1 for a in ACTIONS], np.int32)

    @property
    def half_life_us(self) -> Doubles:
        return np.array(self.half_lives, np.float64)

    def at(self, action: str, half_life: int) -> tuple[int, int]:
        return self.actions.index(action), self.half_lives.index(half_life)


_ALL = ("impression", "click", "like", "share", "hide")

POST = Entity("post", _ALL, (HOUR, DAY, WEEK))
AUTHOR = Entity("author", _ALL, (DAY, WEEK))
TOPIC = Entity("topic", ("impression", "click"), (HOUR, DAY, WEEK))
USER = Entity("user", ("impression", "click", "hide"), (HOUR, DAY, WEEK))
USER_TOPIC = Entity("user_topic", ("impression", "click", "hide"), (HOUR, WEEK))
USER_AUTHOR = Entity("user_author", ("impression", "click", "hide"), (WEEK,))

ENTITIES = (POST, AUTHOR, TOPIC, USER, USER_TOPIC, USER_AUTHOR)


class Feature(NamedTuple):
    """One column of the matrix that rankers see."""

    name: str
    entity: str
    kind: str
    """decayed count | smoothed rate | ratio | static | cross | retrieval score | time."""
    default: float
    """Value when nothing is known."""
    transform: str
    meaning: str


def _label(half_life: int) -> str:
    return {HOUR: "1h", DAY: "1d", WEEK: "7d"}[half_life]


def _count(entity: Entity, action: str, half_life: int) -> Feature:
    name = f"{entity.name}_{action}s_{_label(half_life)}"
    return Feature(name, entity.name, "decayed count", 0.0, "log1p", f"{action}s, half-life {_label(half_life)}")


PRIOR_IMPRESSIONS = 20.0
"""A rate is (actions + prior * 20) / (impressions + 20)."""

PRIOR_RATE = {"click": 0.05, "like": 0.01, "share": 0.004, "hide": 0.004}
"""Rates assumed where nothing was seen; constants, so that batch and stream need no shared statistic."""


def _rate(entity: Entity, action: str, half_life: int) -> Feature:
    name = f"{entity.name}_{action}_rate_{_label(half_life)}"
    default = round(float(np.log(PRIOR_RATE[action])), 6)
    return Feature(
        name, entity.name, "smoothed rate", default, "log", f"{action}s per impression, half-life {_label(half_life)}"
    )


COUNTS: tuple[tuple[Entity, str, int], ...] = (
    (POST, "impression", HOUR), (POST, "impression", DAY), (POST, "impression", WEEK),
    (POST, "click", HOUR), (POST, "click", DAY), (POST, "click", WEEK),
    (AUTHOR, "impression", WEEK), (AUTHOR, "click", WEEK),
    (USER, "impression", HOUR), (USER, "impression", WEEK), (USER, "click", DAY), (USER, "click", WEEK),
    (USER_TOPIC, "impression", HOUR), (USER_TOPIC, "impression", WEEK), (USER_TOPIC, "click", WEEK),
    (USER_TOPIC, "hide", WEEK),
    (USER_AUTHOR, "impression", WEEK), (USER_AUTHOR, "click", WEEK), (USER_AUTHOR, "hide", WEEK),
)  # fmt: skip
"""Decayed counts that are features: log1p of the value."""

RATES: tuple[tuple[Entity, str, int], ...] = (
    (POST, "click", HOUR), (POST, "click", DAY), (POST, "click", WEEK),
    (POST, "like", WEEK), (POST, "share", WEEK), (POST, "hide", WEEK),
    (AUTHOR, "click", DAY), (AUTHOR, "click", WEEK), (AUTHOR, "like", WEEK), (AUTHOR, "hide", WEEK),
    (TOPIC, "click", HOUR), (TOPIC, "click", DAY), (TOPIC, "click", WEEK),
    (USER, "click", DAY), (USER, "click", WEEK),
    (USER_TOPIC, "click", WEEK), (USER_AUTHOR, "click", WEEK),
)  # fmt: skip
"""Smoothed rates that are features: their logarithm."""

OTHERS: tuple[Feature, ...] = (
    Feature(
        "post_velocity", "post", "ratio", 0.0, "none", "share of the day's decayed clicks that is of the last hour"
    ),
    Feature(
        "user_topic_share",
        "user_topic",
        "ratio",
        0.0,
        "none",
        "share of the user's decayed clicks that went to the topic",
    ),
    Feature("tower_score", "request", "retrieval score", 0.0, "none", "two-tower similarity of user and post"),
    Feature("follows_author", "user_author", "cross", 0.0, "none", "1 when the user follows the author"),
    Feature(
        "follows_topic_share",
        "user_topic",
        "cross",
        0.0,
        "none",
        "share of the followed authors who mostly write on the topic",
    ),
    Feature(
        "history_language_share",
        "request",
        "cross",
        0.5,
        "none",
        "share of the last clicks in the post's language, smoothed",
    ),
    Feature(
        "history_media_share",
        "request",
        "cross",
        0.25,
        "none",
        "share of the last clicks on the post's medium, smoothed",
    ),
    Feature(
        "same_language",
        "request",
        "cross",
        0.5,
        "none",
        "1 when user and post share a language, 0 when not, 0.5 unknown",
    ),
    Feature(
        "topic", "post", "static", -1.0, "none", "topic as a category; its author's usual one where missing, -1 neither"
    ),
    Feature("topic_missing", "post", "static", 0.0, "none", "1 when the post came without a topic"),
    Feature("media", "post", "static", -1.0, "none", "media as a category, -1 missing"),
    Feature("text_length", "post", "static", 0.0, "log1p", "characters of the text"),
    Feature("post_age", "request", "time", 0.0, "log1p", "hours since the post was created"),
    Feature("hour_of_day", "request", "time", 0.0, "none", "UTC hour of the request, with fraction"),
    Feature("weekday", "request", "time", 0.0, "none", "0 is Monday"),
)

FEATURES: tuple[Feature, ...] = (*(_count(*c) for c in COUNTS), *(_rate(*r) for r in RATES), *OTHERS)

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)

CATEGORICAL: tuple[str, ...] = ("topic", "media")
"""Columns whose numbers are names, not sizes."""


def fingerprint() -> int:
    """A positive int64 of everything that readers and writers of feature rows must agree on."""
    text = repr((ROW_FORMAT, ENTITIES, FEATURES, PRIOR_IMPRESSIONS, PRIOR_RATE))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
