"""Write the population: the public part into the lake, the hidden part beside it.

Takes a population, writes the lake's `users`, `posts`, `follows` and `blocks`, and the truth's `users` and `posts`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import WorldConfig
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import MEDIA_TYPES, POST_LABELS
from recsys.types import DAY, SECOND
from recsys.world.behaviour.changes import break_fields, countries_of
from recsys.world.population.population import Population
from recsys.world.population.posts import COPY_KINDS, EDITED, RECASED, SHORTENED
from recsys.world.population.vocabulary import LANGUAGES, TOPICS

_TIME = pa.timestamp("us", "UTC")


def write_public_tables(population: Population, config: WorldConfig, lake: Lake) -> None:
    """Write users and posts by day of creation, follows and blocks under the day before the logs.

    Tastes, bots, quality and the originals of changed copies are left out.
    """
    users, posts = population.users, population.posts
    public_users = pa.table(
        {
            "user_id": users.id,
            "language": _names(LANGUAGES, users.language),
            "country": _names(countries_of(config), np.where(users.country_missing, -1, users.country)),
            "created_at": pa.array(users.created_at, _TIME),
        }
    )
    _write_by_day(lake, "users", public_users, users.created_at, population, config)
    # A changed text does not name its original, so in the lake such a copy is a group of its own.
    changed = np.isin(posts.copy, (RECASED, SHORTENED, EDITED))
    labels = _names(POST_LABELS, posts.label - 1)
    public_posts = pa.table(
        {
            "post_id": posts.id,
            "author_id": users.id[posts.author],
            "topic": _names(TOPICS, np.where(posts.topic_missing, -1, posts.topic)),
            "language": _names(LANGUAGES, posts.language),
            "media": _names(MEDIA_TYPES, posts.media),
            "text": pa.array(posts.texts, pa.string()),
            "created_at": pa.array(posts.created_at, _TIME),
            "duplicate_group": np.where(changed, posts.id, posts.group),
            "visible": posts.visible,
            "labels": pa.ListArray.from_arrays(
                pa.array(np.concatenate([[0], np.cumsum(posts.label > 0)]), pa.int32()), labels.drop_null()
            ),
        }
    )
    _write_by_day(lake, "posts", public_posts, posts.created_at, population, config)
    for table, edges in (("follows", population.follows), ("blocks", population.blocks)):
        user = np.repeat(np.arange(population.n_users), np.diff(edges.start))
        columns = {
            "user_id": users.id[user],
            "author_id": users.id[edges.authors],
            "created_at": pa.array(users.created_at[user], _TIME),
        }
        lake.write(table, pa.table(columns), date_of(population.start - DAY), "world")


def write_truth_tables(population: Population, folder: Path) -> None:
    """Write `users.parquet` and `posts.parquet`, the truth that the lake leaves out."""
    users, posts = population.users, population.posts
    truths = {
        "users": {"user_id": users.id, "bot": users.bot},
        "posts": {
            "post_id": posts.id,
            "topic": _names(TOPICS, posts.topic),
            "quality": posts.quality,
            "duplicate_group": posts.group,
            "copy": _names(COPY_KINDS, posts.copy),
        },
    }
    for name, columns in truths.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet", compression="zstd")


def date_of(time: int) -> str:
    """The date partition of a time in microseconds."""
    return datetime.fromtimestamp(time / SECOND, UTC).date().isoformat()


def _write_by_day(
    lake: Lake, table: str, rows: pa.Table, created_at: np.ndarray, population: Population, config: WorldConfig
) -> None:
    """Write one file per day of creation; rows from before the logs go into the file of the day before them."""
    day = np.maximum((created_at - population.start) // DAY, -1)
    for number in np.unique(day).tolist():
        of_day = break_fields(table, rows.filter(pa.array(day == number)), number, config)
        lake.write(table, of_day, date_of(population.start + number * DAY), "world")


def _names(names: tuple[str, ...], rows: np.ndarray) -> pa.Array:
    """The name of each row; -1 gives null."""
    rows = np.asarray(rows, np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32(), mask=rows < 0), pa.array(names)).cast(pa.string())
