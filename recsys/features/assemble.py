"""The matrix a ranker sees, built by the same lines for training and for serving.

Takes decayed counts at `now` plus static columns, gives `(C, F)` float32 in the order of `spec.FEATURES`. In training
the C rows belong to many requests, in serving to one; nothing here can tell. It does not know where the counts came
from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.features.spec import (
    COUNTS,
    NAMES,
    OTHERS,
    POST,
    PRIOR_IMPRESSIONS,
    PRIOR_RATE,
    RATES,
    USER,
    USER_TOPIC,
    WEEK,
    Entity,
)
from recsys.offline.catalogue import Catalogue
from recsys.types import DAY, HOUR, Doubles, Floats, Mask, Rows, Times


@dataclass(frozen=True)
class Inputs:
    """Everything the matrix is made from. Each row is one candidate; a leading length of 1 stands for all rows."""

    counts: dict[str, Doubles]
    """Entity name to counts decayed to `now`, (C or 1, A, H)."""
    post_row: Rows
    """(C,)."""
    user_language: Rows
    """(C or 1,)."""
    follows_author: Mask
    """(C,)."""
    follows_topic_share: Floats
    """(C,)."""
    history_language_share: Floats
    """(C,)."""
    history_media_share: Floats
    """(C,)."""
    tower_score: Floats
    """(C,)."""
    now: Times
    """Microseconds, (C or 1,)."""


def assemble(catalogue: Catalogue, inputs: Inputs) -> Floats:
    """Feature matrix, (C, F) float32, finite."""
    matrix = np.empty((len(inputs.post_row), len(NAMES)), np.float32)
    column = 0
    for entity, action, half_life in COUNTS:
        matrix[:, column] = np.log1p(_count(inputs, entity, action, half_life))
        column += 1
    for entity, action, half_life in RATES:
        actions = _count(inputs, entity, action, half_life)
        impressions = _count(inputs, entity, "impression", half_life)
        # An action may be known before its impression is; the rate stays at most 1.
        rate = (actions + PRIOR_RATE[action] * PRIOR_IMPRESSIONS) / (
            np.maximum(impressions, actions) + PRIOR_IMPRESSIONS
        )
        matrix[:, column] = np.log(rate)
        column += 1
    others = _others(catalogue, inputs)
    for feature in OTHERS:
        matrix[:, column] = others[feature.name]
        column += 1
    return matrix


def _count(inputs: Inputs, entity: Entity, action: str, half_life: int) -> Doubles:
    a, h = entity.at(action, half_life)
    return inputs.counts[entity.name][:, a, h]


def _others(catalogue: Catalogue, inputs: Inputs) -> dict[str, np.ndarray]:
    post = inputs.post_row
    language = catalogue.language[post]
    known = (language >= 0) & (inputs.user_language >= 0)
    user_clicks = _count(inputs, USER, "click", WEEK)
    day_clicks = _count(inputs, POST, "click", DAY)
    hours = inputs.now / HOUR
    return {
        "post_velocity": _count(inputs, POST, "click", HOUR) / np.maximum(day_clicks, 1.0),
        "user_topic_share": _count(inputs, USER_TOPIC, "click", WEEK) / np.maximum(user_clicks, 1.0),
        "tower_score": inputs.tower_score,
        "follows_author": inputs.follows_author,
        "follows_topic_share": inputs.follows_topic_share,
        "history_language_share": inputs.history_language_share,
        "history_media_share": inputs.history_media_share,
        "same_language": np.where(known, language == inputs.user_language, 0.5),
        "topic": catalogue.likely_topic[post],
        "topic_missing": catalogue.topic[post] < 0,
        "media": catalogue.media[post],
        "text_length": np.log1p(catalogue.text_length[post]),
        "post_age": np.log1p(np.maximum(inputs.now - catalogue.created_at[post], 0) / HOUR),
        "hour_of_day": hours % 24,
        # 1970-01-01 was a Thursday, weekday 3.
        "weekday": (inputs.now // DAY + 3) % 7,
    }
