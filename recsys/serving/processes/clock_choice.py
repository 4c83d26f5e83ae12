"""The choice of a service's clock (`serving.clock`): wall time, or simulated time that continues after the logs.

Takes the settings and the manifest of the release in use. It loads no models, so other commands can cheaply use the
server's clock.
"""

from __future__ import annotations

import redis

from recsys.config import Config
from recsys.online.clock import Clock
from recsys.release import Manifest


def continues_logs(config: Config, manifest: Manifest) -> bool:
    """Whether the service's clock continues from the end of the release's logs."""
    choice = config.serving.clock
    return choice == "logs" or (choice == "auto" and manifest.world)


def service_clock(config: Config, client: redis.Redis, manifest: Manifest | None) -> Clock:
    """The clock that all processes serving this release share; wall time if `manifest` is None.

    Raises: DependencyError when Redis does not answer.
    """
    start = manifest.logs_end if manifest is not None and continues_logs(config, manifest) else None
    return Clock(client, start)
