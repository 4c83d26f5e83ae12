"""The definition of every feature, and of the counters that features read. To add a feature, start here.

`ENTITIES` says what is counted, for whom and with which half-lives. `FEATURES` lists the columns a ranker sees, in
order. `fingerprint()` changes when either changes, or when `FORMULAS` or a constant does. It does not know how counters
are stored or computed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.hashing import hash_text
from recsys.offline.lake.schemas import MEDIA_TYPES
from recsys.offline.logs.events import ACTIONS
from recsys.types import DAY, HOUR, SECOND, Doubles, Rows

SITTING = 600 * SECOND
WEEK = 7 * DAY

ROW_FORMAT = 1
"""Version of the packed layout in the online store."""

FORMULAS = 2
"""Version of the formulas in `assemble`, `crosses` and `transforms`. Raise it if equal counts give other numbers."""


class Entity(NamedTuple):
    """A kind of thing to count for, such as a post: one decayed count per action and half-life."""

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
        """Place of each action code among the entity's actions, -1 if not kept, (len(ACTIONS),)."""
        return np.array([self.actions.index(a) if a in self.actions else -1 for a in ACTIONS], np.int32)

    @property
    def half_life_us(self) -> Doubles:
        """Half-lives in microseconds, (H,)."""
        return np.array(self.half_lives, np.float64)

    def at(self, action: str, half_life: int) -> tuple[int, int]:
        """Place of a count in (A, H)."""
        return self.actions.index(action), self.half_lives.index(half_life)


_ALL = ("impression", "click", "like", "share", "hide")

POST = Entity("post", _ALL, (HOUR, DAY, WEEK))
AUTHOR = Entity("author", _ALL, (DAY, WEEK))
TOPIC = Entity("topic", ("impression", "click"), (HOUR, DAY, WEEK))
USER = Entity("user", ("impression", "click", "hide"), (SITTING, HOUR, DAY, WEEK))
USER_TOPIC = Entity("user_topic", ("impression", "click", "hide"), (HOUR, WEEK))
USER_AUTHOR = Entity("user_author", ("impression", "click", "hide"), (WEEK,))

ENTITIES = (POST, AUTHOR, TOPIC, USER, USER_TOPIC, USER_AUTHOR)

Read = tuple[Entity, str, int]
"""One decayed count: entity, action, half-life."""


class Feature(NamedTuple):
    """One column of the matrix that rankers see."""

    name: str
    entity: str
    """What the feature describes: an entity's name or `request`."""
    source: str
    """The logs or static data it is computed from."""
    kind: str
    """decayed count | smoothed rate | ratio | cross | static | retrieval score | time."""
    default: float
    """Value when nothing is known; NaN means that the matrix has NaN there."""
    transform: str
    meaning: str
    read: Read | None = None
    """The count that a decayed count or smoothed rate is computed from."""


PRIOR_IMPRESSIONS = 20.0
"""A rate is (actions + prior * 20) / (impressions + 20)."""

PRIOR_RATE = {"click": 0.05, "like": 0.01, "share": 0.004, "hide": 0.004}
"""Rates assumed without impressions. They are constants, so that batch and stream need no shared statistic."""

MIN_CLICKS = 0.01
"""A ratio to fewer decayed clicks is missing. Such clicks are so old that the online row may have expired."""

MAX_QUANTILES = 100
"""Training quantiles kept per column for scaling, at most (`transforms`)."""

MAX_CATEGORIES = 256
"""Categories with their own column, at most; the others share one (`transforms`)."""

_MISSING = float("nan")
_LABEL = {SITTING: "10m", HOUR: "1h", DAY: "1d", WEEK: "7d"}


def _count(entity: Entity, action: str, half_life: int, name: str = "", meaning: str = "") -> Feature:
    label = _LABEL[half_life]
    return Feature(
        name or f"{entity.name}_{action}s_{label}", entity.name, _logs_of(entity, action), "decayed count",
        0.0, "log1p", f"{meaning or action + 's'}, half-life {label}", (entity, action, half_life),
    )  # fmt: skip


def _rate(entity: Entity, action: str, half_life: int) -> Feature:
    label, default = _LABEL[half_life], round(float(np.log(PRIOR_RATE[action])), 6)
    return Feature(
        f"{entity.name}_{action}_rate_{label}", entity.name, _logs_of(entity, "impression", action), "smoothed rate",
        default, "log",
        f"{action}s per impression, half-life {label}", (entity, action, half_life),
    )  # fmt: skip


def _logs_of(entity: Entity, *actions: str) -> str:
    logs = ["impressions" if action == "impression" else "actions" for action in actions]
    return ", ".join(logs if entity in (POST, USER) else [*logs, "posts"])  # author and topic come from posts


# fmt: off
FEATURES: tuple[Feature, ...] = (
    _count(POST, "impression", HOUR),
    _count(POST, "impression", DAY),
    _count(POST, "impression", WEEK),
    _count(POST, "click", HOUR),
    _count(POST, "click", DAY),
    _count(POST, "click", WEEK),
    _count(AUTHOR, "impression", WEEK),
    _count(AUTHOR, "click", WEEK),
    _count(USER, "impression", SITTING, "session_depth", "impressions of this sitting"),
    _count(USER, "impression", HOUR),
    _count(USER, "impression", WEEK),
    _count(USER, "click", DAY),
    _count(USER, "click", WEEK),
    _count(USER_TOPIC, "impression", HOUR),
    _count(USER_TOPIC, "impression", WEEK),
    _count(USER_TOPIC, "click", WEEK),
    _count(USER_TOPIC, "hide", WEEK),
    _count(USER_AUTHOR, "impression", WEEK),
    _count(USER_AUTHOR, "click", WEEK),
    _count(USER_AUTHOR, "hide", WEEK),
    _rate(POST, "click", HOUR),
    _rate(POST, "click", DAY),
    _rate(POST, "click", WEEK),
    _rate(POST, "like", DAY),
    _rate(POST, "like", WEEK),
    _rate(POST, "share", DAY),
    _rate(POST, "share", WEEK),
    _rate(POST, "hide", DAY),
    _rate(POST, "hide", WEEK),
    _rate(AUTHOR, "click", DAY),
    _rate(AUTHOR, "click", WEEK),
    _rate(AUTHOR, "like", WEEK),
    _rate(AUTHOR, "share", WEEK),
    _rate(AUTHOR, "hide", WEEK),
    _rate(TOPIC, "click", HOUR),
    _rate(TOPIC, "click", DAY),
    _rate(TOPIC, "click", WEEK),
    _rate(USER, "click", DAY),
    _rate(USER, "click", WEEK),
    _rate(USER, "hide", WEEK),
    _rate(USER_TOPIC, "click", WEEK),
    _rate(USER_AUTHOR, "click", WEEK),
    Feature("text_length", "post", "posts", "static", _MISSING, "log1p",
            "characters of the text; missing for a post known by id only"),
    Feature("post_age", "request", "posts, request time", "time", _MISSING, "log1p",
            "hours since the post was created; missing when that is unknown"),
    Feature("post_velocity", "post", "actions", "ratio", _MISSING, "none",
            "decayed clicks of the hour per decayed click of the day, that at least 1; missing without clicks"),
    Feature("user_topic_share", "user_topic", "actions, posts", "ratio", _MISSING, "none",
            "the user's decayed clicks on the topic per decayed click, that at least 1; missing without clicks"),
    Feature("tower_score", "request", "two-tower", "retrieval score", 0.0, "none",
            "two-tower similarity of user and post"),
    Feature("follows_author", "user_author", "follows", "cross", 0.0, "none",
            "1 when the user follows the author"),
    Feature("follows_topic_share", "user_topic", "follows, posts", "cross", _MISSING, "none",
            "share of the followed authors who mostly write on the topic; missing without follows or topic"),
    Feature("history_language_share", "request", "click history, posts", "cross", _MISSING, "none",
            "share of the last clicks in the post's language, smoothed; missing without clicks or language"),
    Feature("history_media_share", "request", "click history, posts", "cross", _MISSING, "none",
            "share of the last clicks on the post's medium, smoothed; missing without clicks or medium"),
    Feature("same_language", "request", "users, posts", "cross", _MISSING, "none",
            "1 when user and post share a language, 0 when not; missing when either is unknown"),
    Feature("topic", "post", "posts", "static", _MISSING, "none",
            "topic as a category, else its author's usual one; missing when neither is known"),
    Feature("topic_missing", "post", "posts", "static", 0.0, "none",
            "1 when the post came without a topic"),
    Feature("media", "post", "posts", "static", _MISSING, "none",
            "medium as a category"),
    Feature("hour_of_day", "request", "request time", "time", 0.0, "none",
            "UTC hour of the request, with fraction"),
    Feature("weekday", "request", "request time", "time", 0.0, "none",
            "0 is Monday"),
)
# fmt: on
"""The table of features. Columns with a logarithm come first, since `assemble` takes all logarithms in one call."""

NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)

COUNTS: tuple[Read, ...] = tuple(f.read for f in FEATURES if f.read and f.kind == "decayed count")
"""The decayed counts among the features; the column is log1p of the count."""

RATES: tuple[Read, ...] = tuple(f.read for f in FEATURES if f.read and f.kind == "smoothed rate")
"""The smoothed rates among the features; the column is the logarithm of the rate."""

OTHERS: tuple[Feature, ...] = tuple(f for f in FEATURES if not f.read)

CATEGORICAL: tuple[str, ...] = ("topic", "media")
"""Columns whose numbers are category codes, not quantities."""


def fingerprint() -> int:
    """Hash of everything that writers and readers of feature rows must agree on, a positive int64."""
    fixed = (PRIOR_IMPRESSIONS, PRIOR_RATE, MIN_CLICKS, MAX_QUANTILES, MAX_CATEGORIES, CATEGORICAL, MEDIA_TYPES)
    text = repr((ROW_FORMAT, FORMULAS, ENTITIES, FEATURES, *fixed))
    return hash_text(text)
