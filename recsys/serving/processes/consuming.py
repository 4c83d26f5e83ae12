"""Run the stream consumer: open the stores from the settings and keep them up with the stream.

It is separate from `loading` because the consumer needs the release's catalogue but none of its models, so its process
stays small. It follows the release in use: events on the posts of a new release count for their authors and topics as
soon as that release is in use.
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
    """Returns the catalogue of the release in use when called. Each call reads a one-line file to detect a change."""

    def __init__(self, releases_path: Path) -> None:
        """Raises: ReleaseError when no release is in use, or it is damaged."""
        self._releases_path = releases_path
        self._version = release.current(releases_path)
        self._catalogue = self._load(self._version)

    def __call__(self) -> Catalogue:
        """The latest catalogue; the previous one if no release is in use any more.

        Raises: ReleaseError when the release in use is damaged.
        """
        version = release.current(self._releases_path)
        if version is not None and version != self._version:
            self._catalogue = self._load(version)
            self._version = version
        return self._catalogue

    def _load(self, version: str | None) -> Catalogue:
        return Catalogue.load(release.load(self._releases_path, version, verify=False).path / "catalogue")


def consume(config: Config, stop: threading.Event) -> None:
    """Apply the stream to the online store and the lake until `stop` is set.

    Raises: ReleaseError, DependencyError when it cannot start. Later failures are logged and retried.
    """
    latest_catalogue = CurrentCatalogue(config.releases_path)
    with connect(config.online, config.data_dir) as connection:
        lake = Lake(config.lake_url)
        consumer = Consumer(connection.client, latest_catalogue(), lake, config.online, config.offline.impressions)
        consumer.online.latest_catalogue = latest_catalogue
        consumer.run(stop)
