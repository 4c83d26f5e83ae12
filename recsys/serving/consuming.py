"""The consumer beside the server: from settings to stores that keep up with the stream.

Apart from `loading`, because it needs the release's catalogue and none of its models: a small process.
"""

from __future__ import annotations

import threading

from recsys import release
from recsys.config import Config
from recsys.offline.catalogue import Catalogue
from recsys.offline.lake import Lake
from recsys.online.consumer import Consumer
from recsys.online.embedded import connect


def consume(config: Config, stop: threading.Event) -> None:
    """Keep the online store and the lake up with the stream until `stop` is set.

    Raises: ReleaseError, DependencyError when it cannot start; later troubles are logged and waited out.
    """
    catalogue = Catalogue.load(release.load(config.releases_path, verify=False).path / "catalogue")
    with connect(config.online, config.data_dir) as connection:
        lake = Lake(config.lake_url)
        Consumer(connection.client, catalogue, lake, config.online, config.offline.impressions).run(stop)
