"""Which clock a service runs on: the wall's, or one that goes on from the end of the logs (`serving.clock`).

Takes settings and the manifest of the release that serves. It loads no models, so that commands beside the server share
its clock at no cost.
"""

from __future__ import annotations

import redis

from recsys.config import Config
from recsys.online.clock import Clock
from recsys.release import Manifest


def is_on_logs(config: Config, manifest: Manifest) -> bool:
    wanted = config.serving.clock
    return wanted == "logs" or (wanted == "auto" and manifest.world)


def service_clock(config: Config, client: redis.Redis, manifest: Manifest | None) -> Clock:
    """The clock of every process that serves this release; wall time where there is none.

    Raises: DependencyError when Redis does not answer.
    """
    on_logs = manifest is not None and is_on_logs(config, manifest)
    return Clock(client, manifest.logs_end if manifest is not None and on_logs else None)
