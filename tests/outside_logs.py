"""Small lakes of logs that come from elsewhere: no world, no policy, no propensity, hardly anything described."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.config import Config, load
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.types import DAY, HOUR, SECOND

TINY = Path(__file__).resolve().parent.parent / "configs" / "tiny.yaml"
START = int(datetime(2019, 11, 9, tzinfo=UTC).timestamp()) * SECOND
DATE = "2019-11-09"
TOPICS = ("finance", "music", "news", "sports")
QUICK = (
    "ranking.n_threads=1", "retrieval.towers.epochs=2", "retrieval.towers.batch_size=64", "ranking.n_trees=10",
    "ranking.min_leaf_rows=10", "evaluation.n_requests=30", "evaluation.n_bootstrap=20",
    "retrieval.towers.n_text_buckets=1024",
)  # fmt: skip


def settings(folder: Path, *more: str) -> Config:
    return load(TINY, [f"data_dir={folder}", *QUICK, *more])


def put(lake: Lake, table: str, **columns: Any) -> None:
    """One file of a table; numbers in time columns are microseconds."""
    schema = TABLES[table].schema
    plain = {name: values.tolist() if isinstance(values, np.ndarray) else values for name, values in columns.items()}
    rows = {name: pa.array(values, schema.field(name).type) for name, values in plain.items()}
    lake.write(table, pa.table(rows), DATE, f"import-{table}")


def ids_of(prefix: str, n: int) -> np.ndarray:
    return np.array([to_int64(f"{prefix}{i}") for i in range(n)])


def news(folder: Path, *, n_users: int = 60, n_posts: int = 200, n_requests: int = 500) -> Lake:
    """Impressions without positions and clicks, as MIND has them; users love one topic each; the last ten posts are
    only mentioned; everybody has a click from before that no impression explains."""
    rng = np.random.default_rng(3)
    lake = Lake(str(folder))
    lake.begin()
    user, post = ids_of("U", n_users), ids_of("N", n_posts)
    topic = rng.integers(0, len(TOPICS), n_posts)
    described = np.arange(n_posts - 10)
    put(
        lake, "posts",
        post_id=post[described], author_id=[None] * len(described),
        topic=[TOPICS[topic[i]] if i % 9 else None for i in described], language=["en"] * len(described),
        text=[f"{TOPICS[topic[i]]} story number {i}" for i in described], visible=[True] * len(described),
        created_at=[START - DAY] * len(described),
        labels=[["spam"] if i == 0 else ["violation"] if i == 1 else None for i in described],
    )  # fmt: skip
    put(lake, "users", user_id=user, created_at=[START - DAY] * n_users)
    put(lake, "ids", kind=["user"] * n_users + ["post"] * n_posts, id=np.append(user, post),
        name=[f"U{i}" for i in range(n_users)] + [f"N{i}" for i in range(n_posts)])  # fmt: skip
    asked = np.sort(rng.integers(START, START + 6 * DAY, n_requests))
    who = rng.integers(0, n_users, n_requests)
    shown = np.array([rng.permutation(n_posts)[:8] for _ in range(n_requests)])
    click = rng.random(shown.shape) < np.where(topic[shown] == (who % len(TOPICS))[:, None], 0.5, 0.08)
    request = np.arange(n_requests) + 1
    put(lake, "requests", request_id=request, user_id=user[who], now=asked, candidates=post[shown].tolist())
    place, column = np.nonzero(np.ones(shown.shape))
    at = asked[place] + SECOND
    put(lake, "impressions", event_id=np.arange(len(place)), request_id=request[place], user_id=user[who[place]],
        post_id=post[shown[place, column]], event_time=at, ingest_time=at)  # fmt: skip
    place, column = np.nonzero(click)
    at = asked[place] + 2 * SECOND
    before = np.full(n_users, START - HOUR)
    put(
        lake, "actions",
        event_id=10**6 + np.arange(len(place) + n_users),
        request_id=np.append(request[place], -1 - np.arange(n_users)),
        user_id=np.append(user[who[place]], user), post_id=np.append(post[shown[place, column]], post[:n_users]),
        type=["click"] * (len(place) + n_users),
        event_time=np.append(at, before), ingest_time=np.append(at, before),
    )  # fmt: skip
    lake.finish({"origin": "import"})
    return lake


def clicks_only(folder: Path, *, n_users: int = 60, n_posts: int = 150, n_clicks: int = 1500) -> Lake:
    """Nothing but clicks over 14 days; posts and users are numbers; even users click even posts, some posts more."""
    rng = np.random.default_rng(4)
    lake = Lake(str(folder))
    lake.begin()
    user = rng.integers(0, n_users, n_clicks)
    post = np.minimum(rng.exponential(n_posts / 4, n_clicks).astype(int), n_posts - 2) // 2 * 2 + user % 2
    _, first = np.unique(user * n_posts + post, return_index=True)
    user, post = user[first], post[first]
    at = np.sort(rng.integers(START, START + 14 * DAY, len(user)))
    order = rng.permutation(len(user))
    number = np.arange(len(user))
    put(lake, "actions", event_id=number, request_id=number + 10**6, user_id=user[order], post_id=post[order] + 1000,
        type=["click"] * len(user), event_time=at, ingest_time=at)  # fmt: skip
    lake.finish({"origin": "import"})
    return lake
