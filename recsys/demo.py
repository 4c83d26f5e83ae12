"""Run the whole system from an empty folder: simulate, train, evaluate, serve, fetch feeds over HTTP.

Takes settings, gives the report and the feeds. Each step is also a command of its own.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pyarrow.compute as pc

from recsys import release
from recsys.config import Config
from recsys.errors import DependencyError
from recsys.evaluation.report.report import evaluate
from recsys.memory import peak_memory
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.online.connection.client import connect
from recsys.progress import Progress
from recsys.serving.processes.server import running_server
from recsys.steps import refuse_foreign_logs, simulate_step
from recsys.training import train

N_FEEDS = 3
FEED_SIZE = 20


@dataclass(frozen=True)
class Demo:
    """Results of the demo."""

    report: dict[str, Any]
    feeds: list[dict[str, Any]]
    elapsed_s: float
    peak_memory_mb: float
    url: str


@contextmanager
def demo(config: Config, progress: Progress) -> Iterator[Demo]:
    """Empty the data folder, run all steps, and keep the server running until the block ends.

    Raises: DataError when the lake in the data folder was not simulated.
    """
    start = time.perf_counter()
    clear_data(config)
    with peak_memory() as peak:
        simulate_step(config, progress)
        train(config, progress)
        report = evaluate(config, progress)
        users = _three_users(config)
        with running_server(config) as url:
            with progress.stage("fetch feeds over HTTP"), httpx.Client(base_url=url, timeout=30.0) as client:
                feeds = [_fetch(client, user) for user in users]
            peak.sample()
            yield Demo(report, feeds, round(time.perf_counter() - start, 1), peak.megabytes, url)


def clear_data(config: Config) -> None:
    """Delete a simulated world from the data folder: its lake, releases and Redis data.

    Raises: DataError when the lake was not simulated, DependencyError when a running program uses the folder.
    """
    lake = Lake(config.lake_url)
    refuse_foreign_logs(lake, config)
    redis_folder = config.data_dir / "redis"
    if config.online.url is None and (redis_folder / "users.lock").exists():
        with connect(config.online, config.data_dir) as connection:
            if len(connection.client.client_list()) > 1:
                raise DependencyError(
                    f"another program uses {config.data_dir}; stop it, or pass --set data_dir=FOLDER with another one"
                )
        shutil.rmtree(redis_folder)
    # Delete releases and tables by name: the user may keep other files in these folders.
    for version in release.list_releases(config.releases_path):
        shutil.rmtree(config.releases_path / version)
    release.clear_current(config.releases_path)
    lake.delete_tables([*TABLES, "quarantine", "stream"])


def _three_users(config: Config) -> list[int]:
    """Three active users who clicked most on three different topics."""
    lake = Lake(config.lake_url)
    actions = lake.read("actions", ["user_id", "post_id", "type"])
    clicks = actions.filter(pc.equal(actions["type"], "click"))
    posts = lake.read("posts", ["post_id", "topic"])
    joined = clicks.join(posts, "post_id").filter(pc.is_valid(pc.field("topic")))
    counted = joined.group_by(["user_id", "topic"]).aggregate([("post_id", "count")])
    name = counted["topic"].to_numpy(zero_copy_only=False).astype(str)
    order = np.lexsort((name, counted["user_id"].to_numpy(), -counted["post_id_count"].to_numpy()))
    users: list[int] = []
    topics: set[str] = set()
    for row in order.tolist():
        user, topic = counted["user_id"][row].as_py(), counted["topic"][row].as_py()
        if user not in users and topic not in topics:
            users.append(user)
            topics.add(topic)
    # With fewer than three topics, fill up with any users.
    everyone = lake.read("users", ["user_id"])["user_id"].to_pylist()
    users += [user for user in everyone if user not in users]
    return users[:N_FEEDS]


def _fetch(client: httpx.Client, user: int) -> dict[str, Any]:
    answer = client.get("/v1/feed", params={"user_id": str(user), "limit": FEED_SIZE})
    if answer.status_code != 200:
        raise DependencyError(f"the server answered {answer.status_code} to a feed of user {user}: {answer.text}")
    feed: dict[str, Any] = answer.json()
    return feed
