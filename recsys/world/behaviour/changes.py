"""What changes from a given day on: a new public, a topic that flips, a field that breaks.

Takes the settings' `world.changes`, gives what the drawing of people, the choice model and the writing of tables need
of them. It does not know how anyone reacts.
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


def floods_of(config: WorldConfig) -> list[CovariateShift]:
    """The new publics, by day.

    Raises: ConfigError when the country is not new, or when they would leave too few of the others.
    """
    floods = sorted((c for c in config.changes if isinstance(c, CovariateShift)), key=lambda change: change.day)
    names = [flood.country for flood in floods]
    for name in names:
        if name in COUNTRIES or names.count(name) > 1:
            raise ConfigError(f"world.changes: country {name} is not new; name one besides {', '.join(COUNTRIES)}")
    if floods and sum(flood.share for flood in floods) > 0.9 - config.joining_share:
        raise ConfigError("world.changes: floods and joining_share together must leave a tenth of the users")
    n_others = config.n_users - sum(int(flood.share * config.n_users) for flood in floods)
    if floods and n_others < config.n_authors:
        raise ConfigError(
            f"world.changes: floods must leave the {config.n_authors} authors among the others, who are {n_others}; "
            "set fewer n_authors or a smaller share"
        )
    return floods


def countries_of(config: WorldConfig) -> tuple[str, ...]:
    """Names of all countries that users come from, in the order of their rows."""
    return (*COUNTRIES, *(flood.country for flood in floods_of(config)))


def flips_of(config: WorldConfig, start: int) -> Times:
    """Microsecond from which each topic's appeal has the other sign, (T,).

    Raises: ConfigError for a topic the world does not have.
    """
    flips = np.full(len(TOPICS), NEVER, np.int64)
    for change in config.changes:
        if isinstance(change, ConceptShift):
            if change.topic not in TOPICS:
                raise ConfigError(
                    f"world.changes: there is no topic {change.topic!r}; the topics are {', '.join(TOPICS)}"
                )
            row = TOPICS.index(change.topic)
            flips[row] = min(int(flips[row]), start + change.day * DAY)
    return flips


def broken(table: str, rows: pa.Table, day: int, config: WorldConfig) -> pa.Table:
    """The rows of one table as they are written on a day, in days from the start; the truth is never broken."""
    for change in config.changes:
        if not isinstance(change, BrokenFeature) or day < change.day:
            continue
        of_table, column = change.field.split(".")
        if of_table == table:
            place = rows.column_names.index(column)
            values = rows[column]
            spoilt = pa.nulls(len(rows), values.type) if change.how == "missing" else pc.multiply(values, change.factor)
            rows = rows.set_column(place, column, spoilt.cast(values.type))
    return rows
