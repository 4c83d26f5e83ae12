"""A small catalogue with known values, and random logs to count."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import ACTIONS, Events
from recsys.types import DAY, HOUR

START = 20_000 * DAY


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Eleven posts: author 1 on chess (0-2), no topic (3), author 2 on tennis (4-6, 10), author 3 without topic (7, 8).

    Post 9 is only mentioned. Users 0-4 speak English, 5 French, 6 is only mentioned; media alternate.
    """
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    time = pa.timestamp("us", tz="UTC")
    posts = {
        "post_id": [0, 1, 2, 3, 4, 5, 6, 7, 8, 10],
        "author_id": [1, 1, 1, 1, 2, 2, 2, 3, 3, 2],
        "topic": ["chess"] * 3 + [None] + ["tennis"] * 3 + [None] * 2 + ["tennis"],
        "language": ["en", "fr", None] * 3 + ["en"],
        "media": ["text", "image", "video", "link", None, "text", "image", "video", "link", "text"],
        "text": ["x" * n for n in range(10)],
        "created_at": pa.array(START - HOUR * np.arange(10), time),
        "visible": [True] * 10,
    }
    users = {"user_id": np.arange(6), "language": ["en"] * 5 + ["fr"], "created_at": pa.array([0] * 6, time)}
    lake.write("posts", pa.table(posts), "2024-10-04", "posts")
    lake.write("users", pa.table(users), "2024-10-04", "users")
    return build_catalogue(lake, np.array([9]), np.array([6]))


@pytest.fixture(scope="session")
def random_events(catalogue: Catalogue) -> Callable[[int, int], Events]:
    """`random_events(seed, n)`: three days in order of arrival, a fifth late, some of unknown users and posts."""

    def make(seed: int, n: int) -> Events:
        rng = np.random.default_rng(seed)
        arrived = START + np.sort(rng.integers(0, 3 * DAY, n))
        late = np.where(rng.random(n) < 0.2, rng.integers(0, 12 * HOUR, n), 0)
        return Events(
            ingest_time=arrived,
            time=arrived - late,
            action=rng.choice(len(ACTIONS), n, p=[0.5, 0.2, 0.1, 0.05, 0.1, 0.05]).astype(np.int32),
            user_row=rng.integers(-1, catalogue.n_users, n).astype(np.int32),
            post_row=rng.integers(-1, catalogue.n_posts, n).astype(np.int32),
        )

    return make
