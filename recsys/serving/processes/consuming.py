"""The consumer beside the server: from settings to stores that keep up with the stream.

Apart from `loading`, because it needs the release's catalogue and none of its models: a small process. The catalogue is
that of the release in use at any time: a post that came with it counts for its author and topic from then on.
"""

from __future__ import annotations

import threading
from pathlib import Path

from recsys import release
from recsys.config import Config
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online.connection.client import connect
from recsys.online.consumer.loop import Consumer


class CurrentCatalogue:
    """Call it for the catalogue of the release in use; to ask whether that changed costs reading a file of one line."""

    def __init__(self, releases_path: Path) -> None:
        """Raises: ReleaseError when no release is in use, or that one cannot be trusted."""
        self._releases_path = releases_path
        self._version = release.current(releases_path)
        self._catalogue = self._load(self._version)

    def __call__(self) -> Catalogue:
        """Raises: ReleaseError when the release in use cannot be trusted; the one before stays where none is."""
        version = release.current(self._releases_path)
        if version is not None and version != self._version:
            self._catalogue = self._load(version)
            self._version = version
        return self._catalogue

    def _load(self, version: str | None) -> Catalogue:
        return Catalogue.load(release.load(self._releases_path, version, verify=False).path / "catalogue")


def consume(config: Config, stop: threading.Event) -> None:
    """Keep the online store and the lake up with the stream until `stop` is set.

    Raises: ReleaseError, DependencyError when it cannot start; later troubles are logged and waited out.
    """
    catalogue_of_now = CurrentCatalogue(config.releases_path)
    with connect(config.online, config.data_dir) as connection:
        lake = Lake(config.lake_url)
        consumer = Consumer(connection.client, catalogue_of_now(), lake, config.online, config.offline.impressions)
        consumer.online.latest_catalogue = catalogue_of_now
        consumer.run(stop)
