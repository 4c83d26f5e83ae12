"""`recsys features verify`: compare served features with rebuilt ones, on synthetic traffic or on logged requests.

Takes the settings of a trained data folder; gives the report of `skew`. It writes nothing to the data folder: the
server it starts has its own Redis and a copy of the lake.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import redis
from pyarrow import fs

from recsys import release
from recsys.config import Config
from recsys.errors import DependencyError
from recsys.evaluation.skew.skew import catalogue_for, compare, rebuilt, served
from recsys.evaluation.skew.traffic import Sent, drive
from recsys.features.point_in_time import snapshot
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import read_events
from recsys.online.connection.client import connect
from recsys.online.consumer.to_lake import lake_watermark, read_position
from recsys.online.generations import current
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.stream.log import RedisStream
from recsys.progress import Progress, Report
from recsys.serving.processes.server import running_server

FEED_SIZE = 20
EVENTS_PER_REQUEST = 10
_USERS_PER_REQUEST = 0.2
_UNKNOWN_USERS = 5
_CATCH_UP_S = 120.0
_REQUESTS_PER_MOMENT = 10
_COPIES = 5


def verify(config: Config, n_requests: int, progress: Progress) -> dict[str, Any]:
    """Start a server on a copy of the lake, send feeds and events, and rebuild every vector it served.

    Raises: DependencyError when not all of the traffic reached the copy, and the errors of the steps.
    """
    loaded = release.load(config.releases_path)
    with tempfile.TemporaryDirectory(prefix="recsys-verify-") as folder:
        apart = _apart(config, Path(folder))
        lake = Lake(apart.lake_url)
        with progress.stage("copy the lake"):
            _copy(Lake(config.lake_url), lake)
        with connect(apart.online, apart.data_dir) as connection:
            with progress.stage("online features") as report:
                catalogue = catalogue_for(loaded, lake)
                events, _ = read_events(lake, catalogue, apart.offline)
                state = snapshot(catalogue, events, apart.ranking.n_threads)
                watermark = lake_watermark(lake)
                reach = SnapshotReach(watermark, loaded.manifest.logs_end)
                impressions = apart.offline.impressions
                load_snapshot(connection.client, catalogue, state, apart.online, reach, report, impressions)
            with progress.stage("feeds and events") as report, running_server(apart) as url:
                users = _users(catalogue, n_requests, config.evaluation.seed)
                sent = interleave(connection.client, lake, url, users, n_requests, apart, report)
        with progress.stage("rebuild"):
            figures = _report(apart, lake, loaded, n_requests, watermark)
    if figures["requests"] != n_requests or sent.events < EVENTS_PER_REQUEST * n_requests:
        raise DependencyError(
            f"{n_requests} requests with {EVENTS_PER_REQUEST} events each must be served, but the lake has "
            f"{figures['requests']} requests and {sent.events} events; look at the log of the server"
        )
    if figures["moments"] * _REQUESTS_PER_MOMENT < n_requests:
        raise DependencyError(
            f"events must be applied between the {n_requests} feeds, but the feeds saw only {figures['moments']} "
            "different moments of the stream; try again when the machine is less busy"
        )
    return {**figures, "events": sent.events}


def interleave(
    client: redis.Redis, lake: Lake, url: str, users: Sequence[str], n_requests: int, config: Config, report: Report
) -> Sent:
    """Send feeds and events: wait for the consumer first, and until both stores have everything at the end."""
    stream = RedisStream(client, config.online)
    seed = config.evaluation.seed
    try:
        drive(url, users[:1], 1, FEED_SIZE, seed + 1, lambda done, total: None)
        _wait_until(lambda: client.get(current(client).applied) == stream.last_id().encode(), "online store")
        sent = drive(url, users, n_requests, FEED_SIZE, seed, report)
    except httpx.HTTPError as error:
        raise DependencyError(f"the server that verify started refused a request: {error}") from None
    _wait_until(lambda: lake_watermark(lake) == stream.last_id(), "lake")
    return sent


def verify_logged(config: Config, n_requests: int, progress: Progress) -> dict[str, Any]:
    """Rebuild the vectors that the current release served last, according to this lake.

    Raises: DataError when the release has not served anything yet.
    """
    loaded = release.load(config.releases_path)
    with progress.stage("rebuild"):
        return _report(config, Lake(config.lake_url), loaded, n_requests)


def _report(
    config: Config, lake: Lake, loaded: release.Release, n_requests: int, since: str | None = None
) -> dict[str, Any]:
    catalogue = catalogue_for(loaded, lake)
    material = served(lake, catalogue, config, loaded.version, n_requests, since)
    return compare(material, rebuilt(material, config, loaded, catalogue))


def _apart(config: Config, folder: Path) -> Config:
    """The same settings with separate stores below `folder`; the releases stay where they are."""
    return config.model_copy(
        update={
            "data_dir": folder,
            "releases_dir": config.releases_path.resolve(),
            "offline": config.offline.model_copy(update={"url": None}),
            "online": config.online.model_copy(update={"url": None}),
            "serving": config.serving.model_copy(update={"workers": 1, "api_key": None}),
        }
    )


def _copy(lake: Lake, target: Lake) -> None:
    """Copy the files of a lake as of one moment.

    Raises: DependencyError when the lake changes during every attempt.
    """
    for _ in range(_COPIES):
        before = read_position(lake)
        try:
            _copy_files(lake, target)
        except (shutil.Error, FileNotFoundError):
            pass  # a file was merged or replaced meanwhile
        else:
            if before.writing is None and read_position(lake) == before:
                return
        shutil.rmtree(target.root, ignore_errors=True)
        time.sleep(1.0)
    raise DependencyError(
        f"the lake {lake.url} changed during each of {_COPIES} copies; try again when less is written"
    )


def _copy_files(lake: Lake, target: Lake) -> None:
    """Copy all files; local files become hard links, which is safe because a lake never changes a file."""
    if not isinstance(lake.filesystem, fs.LocalFileSystem):
        fs.copy_files(
            lake.root, target.root, source_filesystem=lake.filesystem, destination_filesystem=target.filesystem
        )
        return

    def link(source: str, copy: str) -> None:
        try:
            os.link(source, copy)
        except OSError:  # another disk, or a filesystem without links
            shutil.copy2(source, copy)

    shutil.copytree(lake.root, target.root, copy_function=link)


def _users(catalogue: Catalogue, n_requests: int, seed: int) -> list[str]:
    """Users for the traffic: few enough that most return, and at least five unknown ones.

    There are enough users that none is returned more than half of all posts.
    """
    wanted = max(int(n_requests * _USERS_PER_REQUEST), 1, 2 * n_requests * FEED_SIZE // max(catalogue.n_posts, 1))
    n = min(wanted, catalogue.n_users)
    known = np.random.default_rng(seed).choice(np.asarray(catalogue.user_id), n, replace=False)
    return [*map(str, known), *(f"nobody {i}" for i in range(max(_UNKNOWN_USERS, wanted - n)))]


def _wait_until(done: Callable[[], bool], store: str) -> None:
    """Wait until `done`.

    Raises: DependencyError after `_CATCH_UP_S`.
    """
    deadline = time.monotonic() + _CATCH_UP_S
    while not done():
        if time.monotonic() > deadline:
            raise DependencyError(
                f"the consumer must apply the whole stream to the {store} within {_CATCH_UP_S:.0f} s and did not; "
                "look at the log of the server"
            )
        time.sleep(0.05)
