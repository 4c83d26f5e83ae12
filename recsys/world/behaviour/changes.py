"""Changes from a given day on: a new group of users, a topic whose taste changes sign, a field that breaks.

Takes the setting `world.changes`, gives what drawing the users, the choice model and writing the tables need from it.
It does not know how users react.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config import BrokenFeature, ConceptShift, CovariateShift, WorldConfig
from recsys.errors import ConfigError
from recsys.types import DAY, Times
from recsys.world.population.vocabulary import COUNTRIES, TOPICS

NEVER = np.iinfo(np.int64).max


def covariate_shifts(config: WorldConfig) -> list[CovariateShift]:
    """The new groups of users, ordered by day.

    Raises: ConfigError when a country is not new, or when the groups would leave too few other users.
    """
    shifts = sorted((c for c in config.changes if isinstance(c, CovariateShift)), key=lambda change: change.day)
    names = [shift.country for shift in shifts]
    for name in names:
        if name in COUNTRIES or names.count(name) > 1:
            raise ConfigError(f"world.changes: country {name} is not new; choose one besides {', '.join(COUNTRIES)}")
    if shifts and sum(shift.share for shift in shifts) > 0.9 - config.joining_share:
        raise ConfigError(
            "world.changes: covariate shifts and joining_share together must leave a tenth of the users; lower a share"
        )
    n_others = config.n_users - sum(int(shift.share * config.n_users) for shift in shifts)
    if shifts and n_others < config.n_authors:
        raise ConfigError(
            f"world.changes: covariate shifts must leave at least n_authors = {config.n_authors} other users, got "
            f"{n_others}; set fewer n_authors or a smaller share"
        )
    return shifts


def countries_of(config: WorldConfig) -> tuple[str, ...]:
    """Names of all countries, by country row: the new ones come last."""
    return (*COUNTRIES, *(shift.country for shift in covariate_shifts(config)))


def topic_flip_times(config: WorldConfig, start: int) -> Times:
    """Time in microseconds from which taste for each topic has the opposite sign, `NEVER` for most, (T,).

    Raises: ConfigError for an unknown topic.
    """
    flip_times = np.full(len(TOPICS), NEVER, np.int64)
    for change in config.changes:
        if isinstance(change, ConceptShift):
            if change.topic not in TOPICS:
                raise ConfigError(
                    f"world.changes: there is no topic {change.topic!r}; the topics are {', '.join(TOPICS)}"
                )
            row = TOPICS.index(change.topic)
            flip_times[row] = min(int(flip_times[row]), start + change.day * DAY)
    return flip_times


def break_fields(table: str, rows: pa.Table, day: int, config: WorldConfig) -> pa.Table:
    """The rows of a lake table, with the fields nulled or scaled that a change breaks on this day.

    Args:
        day: counted from the first day of the logs.
    The truth tables never pass through here.
    """
    for change in config.changes:
        if not isinstance(change, BrokenFeature) or day < change.day:
            continue
        broken_table, column = change.field.split(".")
        if broken_table == table:
            place = rows.column_names.index(column)
            values = rows[column]
            missing = change.how == "missing"
            changed = pa.nulls(len(rows), values.type) if missing else pc.multiply(values, change.factor)
            rows = rows.set_column(place, column, changed.cast(values.type))
    return rows
