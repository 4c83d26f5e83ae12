"""A random catalogue and random logs of realistic size, for the store benchmarks to load, read and stream.

Takes a scale, gives a `Catalogue`, `Events` for a batch load and `Event`s for the stream; the same for the same scale.
Posts are popular as 1 / rank, users equally busy. It does not know stores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import ACTIONS, Events
from recsys.online.stream.records import Event
from recsys.types import DAY, Ids

START = 20_000 * DAY
END = START + 14 * DAY
"""First and last moment of the log."""

_ACTION_SHARE = (0.8, 0.12, 0.03, 0.02, 0.02, 0.01)
_NOBODY: Ids = np.empty(0, np.int64)


@dataclass(frozen=True)
class LogSizes:
    """Numbers of posts, users and events."""

    posts: int
    authors: int
    users: int
    events: int
    """Events of the batch load."""
    fresh_posts: int
    """The last posts, without any event in the log."""

    @classmethod
    def at(cls, scale: float) -> LogSizes:
        posts = max(1000, round(100_000 * scale))
        return cls(
            posts=posts,
            authors=max(50, round(2_000 * scale)),
            users=max(100, round(20_000 * scale)),
            events=max(2000, round(1_500_000 * scale)),
            fresh_posts=posts // 50,
        )


def make_catalogue(folder: Path, sizes: LogSizes) -> Catalogue:
    """Posts 1000, 1007, 1014, ...; 20 topics, one post in ten without; two languages."""
    rng = np.random.default_rng(1)
    topics = np.array([*(f"topic {number}" for number in range(20)), None], object)
    topic = np.where(rng.random(sizes.posts) < 0.1, 20, rng.integers(0, 20, sizes.posts))
    posts = {
        "post_id": 1000 + 7 * np.arange(sizes.posts),
        "author_id": 1 + 3 * rng.integers(0, sizes.authors, sizes.posts),
        "topic": topics[topic],
        "language": np.array(["en", "fr"], object)[rng.integers(0, 2, sizes.posts)],
        "text": [f"post {number}" for number in range(sizes.posts)],
        "created_at": _times(np.full(sizes.posts, START)),
        "visible": np.ones(sizes.posts, bool),
    }
    users = {
        "user_id": 1 + np.arange(sizes.users),
        "language": np.array(["en", "fr"], object)[rng.integers(0, 2, sizes.users)],
        "created_at": _times(np.full(sizes.users, START)),
    }
    lake = Lake(str(folder))
    date = str(np.datetime64(START // DAY, "D"))
    lake.write("posts", pa.table(posts), date, "posts")
    lake.write("users", pa.table(users), date, "users")
    return build_catalogue(lake, _NOBODY, _NOBODY)


def make_events(sizes: LogSizes) -> Events:
    """The log of a batch load, in order of arrival."""
    rng = np.random.default_rng(2)
    time = np.sort(rng.integers(START, END, sizes.events))
    post_row = _popular(rng, sizes, sizes.events)
    user_row = rng.integers(0, sizes.users, sizes.events).astype(np.int32)
    return Events(time, time, _actions(rng, sizes.events), user_row, post_row)


def stream_events(catalogue: Catalogue, sizes: LogSizes, first_id: int, n_events: int, now: int) -> Iterator[Event]:
    """Events as the server appends them: ids from `first_id` up, a microsecond apart from `now` on."""
    rng = np.random.default_rng(first_id)
    post_id = catalogue.post_id[_popular(rng, sizes, n_events)].tolist()
    user_id = catalogue.user_id[rng.integers(0, sizes.users, n_events)].tolist()
    for i, action in enumerate(_actions(rng, n_events).tolist()):
        number, moment = first_id + i, now + i
        yield Event(ACTIONS[action], number, number // 20, user_id[i], post_id[i], moment, moment)


def _popular(rng: np.random.Generator, sizes: LogSizes, n_rows: int) -> np.ndarray:
    known = sizes.posts - sizes.fresh_posts
    row = np.random.default_rng(3).permutation(known).astype(np.int32)  # which posts are popular
    share = np.cumsum(1 / np.arange(1, known + 1))
    return np.asarray(row[np.searchsorted(share, rng.random(n_rows) * share[-1])])


def _actions(rng: np.random.Generator, n_rows: int) -> np.ndarray:
    return rng.choice(len(ACTIONS), n_rows, p=_ACTION_SHARE).astype(np.int32)


def _times(microseconds: Ids) -> pa.Array:
    return pa.array(microseconds).cast(pa.timestamp("us", tz="UTC"))
