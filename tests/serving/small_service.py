"""A small catalogue, a real Redis and a simple recommender that reads the real store."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import numpy as np
import pyarrow as pa
import uvicorn

from recsys.config import OnlineConfig, ServingConfig
from recsys.features.decay import States
from recsys.features.point_in_time import Snapshot
from recsys.features.spec import ENTITIES
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.lake.lake import Lake
from recsys.online.clock import Clock
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.store import RedisStore
from recsys.online.stream.log import RedisStream
from recsys.serving.http.app import create_app
from recsys.serving.http.cursor import KEY_BYTES, Cursors
from recsys.serving.processes import server
from recsys.serving.service import Service, Stores
from recsys.types import Candidates, Context, Slate, Source

N_POSTS = 130
NONE = np.empty(0, np.int64)
WORLD_END = 1_768_780_800_000_000


def make_catalogue(folder) -> Catalogue:
    """130 posts of 7 authors, with 3 topics or none, and one post known only from events; user 1 follows author 900.

    Post 5129 is spam; post 5060 and its author 904 have names."""
    lake = Lake(str(folder))
    day = datetime(2026, 1, 18, tzinfo=UTC)
    n = np.arange(N_POSTS)
    posts = {
        "post_id": n + 5000,
        "author_id": n % 7 + 900,
        "topic": [(None, "art", "food", "rail")[i % 4] for i in n],
        "language": ["en"] * N_POSTS,
        "text": [f"post number {i}" for i in n],
        "created_at": [day.replace(hour=i % 24) for i in n],
        "visible": [True] * N_POSTS,
        "labels": [["spam"] if i == 129 else None for i in n],
    }
    users = {"user_id": [1, 2], "language": ["en", None], "created_at": [day, day]}
    lake.write("posts", pa.table(posts), "2026-01-18", "posts")
    lake.write("users", pa.table(users), "2026-01-18", "users")
    names = {"kind": ["post", "user", "user"], "id": [5060, 904, to_int64("Ann")], "name": ["N60", "Bob", "Ann"]}
    lake.write("ids", pa.table(names), "2026-01-18", "ids")
    lake.write("follows", pa.table({"user_id": [1], "author_id": [900], "created_at": [day]}), "2026-01-18", "follows")
    return build_catalogue(lake, np.array([7000]), NONE)


def load_nothing(client, catalogue) -> None:
    """Clear Redis and load a generation of features without any counts."""
    client.flushall()
    states = {entity.name: States.zeros(0, entity) for entity in ENTITIES}
    rows = NONE.astype(np.int32)
    nothing = Snapshot({entity.name: NONE for entity in ENTITIES}, states, rows, rows, NONE)
    load_snapshot(client, catalogue, nothing, OnlineConfig(), SnapshotReach("", WORLD_END))


@dataclass
class NewestFirst:
    """A recommender of unseen posts, highest row first; raises or waits when a test sets it to."""

    catalogue: Catalogue
    store: RedisStore
    release_name: str = "r-0123456789ab"
    fault: Exception | None = None
    degraded: tuple[str, ...] = ()
    entered: threading.Event = field(default_factory=threading.Event)
    proceed: threading.Event | None = None

    def recommend(self, request) -> Slate:
        self.entered.set()
        if self.proceed is not None:
            assert self.proceed.wait(10)
        if self.fault is not None:
            raise self.fault
        user = self.store.read_user(request.user_id, 0, request.now)
        shown = self.catalogue.post_rows(np.array(request.shown.post_ids, np.int64))
        unseen = np.setdiff1d(np.arange(self.catalogue.n_posts), np.concatenate([user.returned, shown]))
        rows = unseen[::-1][: request.limit].astype(np.int32)
        score = np.linspace(0.9, 0.1, len(rows), dtype=np.float32)
        context = Context(request, -1, -1, -1, *[NONE.astype(np.int32)] * 3, user.returned, user.trending)
        sources = np.full(len(rows), Source.TWO_TOWER | Source.TRENDING, np.uint16)
        chosen = Candidates(rows, sources, score, np.ones((len(rows), 4), np.float32), score, score)
        return Slate(context, chosen, unseen.astype(np.int32), np.full(len(rows), 0.5, np.float32), "", self.degraded)


def make_service(recommender, client, **settings) -> Service:
    return Service(
        recommender,
        Stores(recommender.store, RedisStream(client, OnlineConfig())),
        Clock(),
        Cursors(bytes(KEY_BYTES), 3600),
        **settings,
    )


@contextmanager
def served(service):
    """A real uvicorn on a free loopback port, in a thread; gives an HTTP client for it."""
    listener = server.bind(ServingConfig(port=0))
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(create_app(service), loop="uvloop", http="httptools", log_level="critical", lifespan="on")
    )
    thread = threading.Thread(target=uvicorn_server.run, args=([listener],))
    thread.start()
    try:
        with httpx.Client(base_url=server.base_url(listener), timeout=20) as http:
            yield http
    finally:
        uvicorn_server.should_exit = True
        thread.join()
        listener.close()
