"""Build a `Service` from the settings: load the current release and connect the online store and the clock.

It does not know HTTP or processes. Importing it loads the models' libraries, so limit their threads first.
"""

from __future__ import annotations

import time
from contextlib import ExitStack

from recsys import release
from recsys.config import Config
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online.connection.client import connect
from recsys.online.store import RedisStore
from recsys.online.stream.log import RedisStream
from recsys.pipeline import Recommender
from recsys.serving.erasing import erase
from recsys.serving.http.cursor import Cursors, read_key
from recsys.serving.processes.clock_choice import continues_logs, service_clock
from recsys.serving.service import Service, Stores


def open_service(config: Config, verify: bool = True) -> Service:
    """Load the current release and connect to Redis. The service's `close` releases everything.

    Args:
        verify: check every file against its checksum. Workers skip it, because `server.serve` checks once for all.

    Raises: ReleaseError, DependencyError, DataError when the service cannot be opened.
    """
    loaded = release.load(config.releases_path, verify=verify)
    with ExitStack() as stack:
        client = stack.enter_context(connect(config.online, config.data_dir)).client
        clock = service_clock(config, client, loaded.manifest)
        store = RedisStore(client, Catalogue.load(loaded.path / "catalogue"), config.online)
        return Service(
            Recommender.open(config, loaded, store),
            Stores(store, RedisStream(client, config.online)),
            clock,
            Cursors(read_key(config.data_dir / "cursor.key"), config.serving.cursor_ttl_s),
            api_key=config.serving.api_key,
            wall=(lambda: time.time_ns() // 1000) if continues_logs(config, loaded.manifest) else None,
            eraser=lambda user: erase(config, client, clock, user).model_dump(),
            resources=stack.pop_all(),
        )
