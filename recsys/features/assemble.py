"""The feature matrix, built by the same function for training and serving.

Takes counts decayed to `now` plus static columns; gives (C, F) float32 in the order of `spec.FEATURES`, with NaN for
unknown values. The C rows belong to many requests in training and to one in serving. It does not know where the counts
come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.features.decay import JIT
from recsys.features.spec import (
    COUNTS,
    ENTITIES,
    FEATURES,
    MIN_CLICKS,
    NAMES,
    POST,
    PRIOR_IMPRESSIONS,
    PRIOR_RATE,
    RATES,
    USER,
    USER_TOPIC,
    WEEK,
    Entity,
)
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.types import DAY, HOUR, Doubles, Floats, Mask, Rows, Times


@dataclass(frozen=True)
class Inputs:
    """Inputs of the matrix. Each row is one candidate; an array of length 1 stands for all C rows."""

    counts: dict[str, Doubles]
    """Entity name to counts decayed to `now`, (C or 1, A, H)."""
    post_row: Rows
    """-1 for a post the catalogue does not know, (C,)."""
    user_language: Rows
    """-1 unknown, (C or 1,)."""
    follows_author: Mask
    """Whether the user follows the post's author, (C,)."""
    follows_topic_share: Floats
    """See `crosses.follow_crosses`; NaN missing, (C,)."""
    history_language_share: Floats
    """See `crosses.history_shares`; NaN missing, (C,)."""
    history_media_share: Floats
    """See `crosses.history_shares`; NaN missing, (C,)."""
    tower_score: Floats
    """Two-tower similarity of user and post, (C,)."""
    now: Times
    """Microseconds, (C or 1,)."""


_COUNT_AT, _RATE_AT = (
    np.array([(ENTITIES.index(e), *e.at(action, h), e.actions.index("impression")) for e, action, h in reads], np.int64)
    for reads in (COUNTS, RATES)
)
"""Per column: number of the entity, place of the action, of the half-life and of impressions; (columns, 4)."""
_PRIOR = np.array([PRIOR_RATE[action] for _, action, _ in RATES])
_BLOCK = 2048
"""Candidates per block, few enough that their doubles fit a core's cache."""
_N_LOGS = sum(feature.transform != "none" for feature in FEATURES)


def assemble(catalogue: Catalogue, inputs: Inputs) -> Floats:
    """Feature matrix, (C, F) float32; finite, except for NaN in columns whose default is NaN."""
    n_posts = len(inputs.post_row)
    matrix = np.empty((n_posts, len(NAMES)), np.float32)
    counts = tuple(np.ascontiguousarray(inputs.counts[entity.name], np.float64) for entity in ENTITIES)
    others = _others(catalogue, inputs)  # column name to (C,) or (1,)
    # 1. Columns with a logarithm, block by block: counts, rates, others; then one logarithm over the block.
    for start in range(0, n_posts, _BLOCK):
        logs = np.empty((min(_BLOCK, n_posts - start), _N_LOGS))
        end = start + len(logs)
        _fill(counts, _COUNT_AT, _RATE_AT, _PRIOR, PRIOR_IMPRESSIONS, start, logs)
        for place in range(len(COUNTS) + len(RATES), _N_LOGS):
            logs[:, place] = others[NAMES[place]][start:end]
        # One call per block, since logarithms are most of the work; its loop is the same for any C, so that equal rows
        # give equal bits.
        matrix[start:end, :_N_LOGS] = np.log(logs, out=logs)
    # 2. Columns without one.
    for place in range(_N_LOGS, len(NAMES)):
        matrix[:, place] = others[NAMES[place]]
    return matrix


@JIT
def _fill(counts, count_at, rate_at, prior, weight, start, out):  # type: ignore[no-untyped-def]
    """Write the first columns of a block, (rows, columns): 1 + count, then rates. The caller takes the logarithm.

    Constants of the spec are arguments, because numba's cache on disk would not notice that a constant changed.

    Args:
        counts: one (C or 1, A, H) array per entity.
        count_at, rate_at: what each column reads, (columns, 4).
        prior, weight: prior rate of each rate column, and impressions it is worth.
        start: first candidate of the block.
    """
    n_counts = count_at.shape[0]
    for column in range(n_counts):
        entity, a, h, _ = count_at[column]
        read = counts[entity]
        first, step = (start, 1) if read.shape[0] > 1 else (0, 0)
        for row in range(out.shape[0]):
            out[row, column] = 1.0 + read[first + row * step, a, h]
    for rate in range(rate_at.shape[0]):
        entity, a, h, shown = rate_at[rate]
        read = counts[entity]
        first, step = (start, 1) if read.shape[0] > 1 else (0, 0)
        for row in range(out.shape[0]):
            actions = read[first + row * step, a, h]
            # An action may arrive before its impression; the rate must stay at most 1.
            impressions = max(read[first + row * step, shown, h], actions)
            out[row, n_counts + rate] = (actions + prior[rate] * weight) / (impressions + weight)


def _others(catalogue: Catalogue, inputs: Inputs) -> dict[str, np.ndarray]:
    """The other columns by name, (C,) or (1,); those with a logarithm before it is taken."""
    post = inputs.post_row
    described = post >= 0
    language, topic = _static(catalogue.language, post), _static(catalogue.topic, post)
    created_at, text_length = catalogue.created_at[post], catalogue.text_length[post]
    # A post known by id only has created_at 0 (1970), and so have posts of logs without times.
    dated = described & (created_at > 0)
    with_text = described & ((text_length > 0) | (created_at > 0))
    languages_known = (language >= 0) & (inputs.user_language >= 0)
    return {
        "text_length": np.where(with_text, 1 + text_length, np.nan),
        "post_age": np.where(dated, 1 + np.maximum(inputs.now - created_at, 0) / HOUR, np.nan),
        "post_velocity": _ratio(_count(inputs, POST, "click", HOUR), _count(inputs, POST, "click", DAY)),
        "user_topic_share": _ratio(_count(inputs, USER_TOPIC, "click", WEEK), _count(inputs, USER, "click", WEEK)),
        "tower_score": inputs.tower_score,
        "follows_author": inputs.follows_author,
        "follows_topic_share": inputs.follows_topic_share,
        "history_language_share": inputs.history_language_share,
        "history_media_share": inputs.history_media_share,
        "same_language": np.where(languages_known, language == inputs.user_language, np.nan),
        "topic": _category(_static(catalogue.likely_topic, post)),
        "topic_missing": topic < 0,
        "media": _category(_static(catalogue.media, post)),
        "hour_of_day": inputs.now % DAY / HOUR,
        # Day 0, 1970-01-01, was a Thursday: weekday 3.
        "weekday": (inputs.now // DAY + 3) % 7,
    }


def _count(inputs: Inputs, entity: Entity, action: str, half_life: int) -> Doubles:
    """One decayed count, (C or 1,)."""
    a, h = entity.at(action, half_life)
    return inputs.counts[entity.name][:, a, h]


def _ratio(part: Doubles, whole: Doubles) -> Doubles:
    """part / max(whole, 1), NaN if the whole is nearly zero."""
    return np.where(whole >= MIN_CLICKS, part / np.maximum(whole, 1.0), np.nan)


def _static(column: Rows, post: Rows) -> Rows:
    """The column's value of each post, -1 for unknown posts, (C,)."""
    return np.where(post >= 0, column[post], -1)


def _category(rows: Rows) -> Floats:
    """Category codes as floats, NaN for -1, (C,)."""
    return np.where(rows >= 0, rows, np.float32(np.nan))
