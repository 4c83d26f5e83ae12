"""How long one feed takes, by stage and over HTTP, beside the floor: a bare Redis read and a bare LightGBM call.

Takes settings of a trained data folder, gives milliseconds. All figures come from one run on one machine; compare
ratios, not times.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from recsys import release
from recsys.config import Config
from recsys.features.spec import POST
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online.connection.client import connect
from recsys.online.store import RedisStore
from recsys.pipeline import Recommender
from recsys.progress import Progress
from recsys.serving.processes.loading import open_service
from recsys.serving.processes.server import running_server
from recsys.types import FeedRequest

_LIMIT = 20
_WARM_UP = 20
_ROW_BYTES = 16 + 8 * POST.shape[0] * POST.shape[1]


def bench_feed(config: Config, n_requests: int, progress: Progress) -> dict[str, Any]:
    """Time feeds one at a time: p50 and p99 of the server's own work and of the whole HTTP exchange."""
    catalogue = Catalogue.load(release.load(config.releases_path).path / "catalogue")
    rng = np.random.default_rng(config.evaluation.seed)
    users = rng.choice(np.asarray(catalogue.user_id), n_requests + _WARM_UP).tolist()
    with progress.stage("in process") as report:
        stages = _stages(config, users, report)
        service = open_service(config)
        try:
            server = _timed(lambda user: service.feed(str(user), _LIMIT, ""), users)
        finally:
            service.close()
    with progress.stage("over HTTP"), running_server(config) as url, httpx.Client(base_url=url, timeout=30.0) as client:
        over_http = _timed(lambda user: client.get("/v1/feed", params={"user_id": str(user)}).raise_for_status(), users)
    floor = stages["floor_redis_p50_ms"] + stages["floor_lightgbm_p50_ms"]
    return {
        "requests": n_requests,
        "posts": catalogue.n_posts,
        "server_p50_ms": _ms(server, 50),
        "server_p99_ms": _ms(server, 99),
        "http_p50_ms": _ms(over_http, 50),
        "http_p99_ms": _ms(over_http, 99),
        **stages,
        "ratio_to_floor": round(_ms(server, 50) / floor, 2),
    }


def _stages(config: Config, users: list[int], report: Callable[[int, int], None]) -> dict[str, float]:
    loaded = release.load(config.releases_path, verify=False)
    with connect(config.online, config.data_dir) as connection:
        store = RedisStore(connection.client, Catalogue.load(loaded.path / "catalogue"), config.online)
        recommender = Recommender.open(config, loaded, store)
        spent: defaultdict[str, list[float]] = defaultdict(list)
        now = loaded.manifest.logs_end
        # As many values as a request reads post rows, each as long as one, under keys of their own.
        floor = [b"recsys:floor:%d" % row for row in range(config.retrieval.sources.budget)]
        connection.client.mset(dict.fromkeys(floor, bytes(_ROW_BYTES)))

        def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
            start = time.perf_counter()
            result = work(*arguments)
            spent[name].append(time.perf_counter() - start)
            return result

        for number, user in enumerate(users):
            request = FeedRequest(number + 1, user, now, _LIMIT)
            context, read = timed("understand", recommender.understand, request)
            candidates = timed("retrieve", recommender.retrieve, context)
            ranked, _ = timed("rank", recommender.rank, context, read, candidates)
            timed("floor_redis", connection.client.mget, floor)
            timed("floor_lightgbm", recommender.rankers.trees.logit, ranked.features)
            report(number + 1, len(users))
        connection.client.unlink(*floor)
    return {f"{name}_p50_ms": _ms(values[_WARM_UP:], 50) for name, values in spent.items()}


def _timed(work: Callable[[int], Any], users: list[int]) -> list[float]:
    spent = []
    for user in users:
        start = time.perf_counter()
        work(user)
        spent.append(time.perf_counter() - start)
    return spent[_WARM_UP:]


def _ms(seconds: list[float], percentile: float) -> float:
    return round(float(np.percentile(seconds, percentile)) * 1000, 3)
