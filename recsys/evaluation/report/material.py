"""The material of the report: a release, the logs it learned from, and a world's truth if there is one.

Takes settings; gives arrays and models. It computes no figure.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import get_args

import numpy as np

from recsys import release
from recsys.config import Config
from recsys.errors import DataError, ReleaseError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import Events
from recsys.offline.logs.exposures import Exposures, Logs, Negatives, read_logs
from recsys.offline.logs.time_split import SHARES, Split
from recsys.pipeline import ReleaseParts
from recsys.ranking.rankers import Rankers
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.sources.learned import LearnedSources
from recsys.retrieval.towers.inference import Towers
from recsys.types import SECOND, Floats
from recsys.world.world import World

RANDOM_POLICY = "random"


@dataclass(frozen=True)
class Material:
    """Everything the parts of the report read; loaded once."""

    config: Config
    release: release.Release
    lake: Lake
    catalogue: Catalogue
    logs: Logs
    split: Split
    towers: Towers
    post_vectors: Floats
    index: PostIndex
    learned_sources: LearnedSources
    rankers: Rankers
    world: World | None

    @property
    def logs_end(self) -> int:
        """End of the logs that the release learned from, microseconds."""
        return self.release.manifest.logs_end

    @property
    def parts(self) -> ReleaseParts:
        """The loaded release, as a recommender takes it."""
        return ReleaseParts(
            self.release.version, self.logs_end, self.towers, self.index, self.post_vectors, self.learned_sources,
            self.rankers,
        )  # fmt: skip

    def test(self) -> Exposures:
        """Exposures of the test share; in a world only those the world wrote, since later ones have no truth."""
        rows = self.split.rows(self.logs.exposures, "test")
        if self.world is None:
            return self.logs.exposures.take(rows)
        exposures = self.logs.exposures.take(rows & (self.logs.exposures.now < self.logs_end))
        post_id = np.where(exposures.post_row >= 0, self.catalogue.post_id[exposures.post_row], -1)
        return exposures.take(self.world.has_truth(exposures.request_id, exposures.position, post_id))

    def random_test_clicks(self) -> Exposures:
        """Clicked test exposures of the random policy, or all clicked ones if the logs do not name that policy."""
        test = self.test()
        chosen = test.click
        if RANDOM_POLICY in self.logs.policies:
            chosen = chosen & (test.policy == self.logs.policies.index(RANDOM_POLICY))
        return test.take(chosen)


def gather(config: Config) -> Material:
    """Open the current release; read the lake with the release's catalogue rows and shares of time.

    Data that the lake gained since training does not move the test share: it is exactly what the release did not train
    on.

    Raises: ReleaseError without a release; DataError when the lake is not the one the release learned from.
    """
    loaded = release.load(config.releases_path)
    catalogue = Catalogue.load(loaded.path / "catalogue")
    lake = Lake(config.lake_url)
    world = World.open(config.world_path) if lake.info().get("origin") == "world" else None
    logs = read_logs(lake, catalogue, config.offline, _negatives_of(loaded))
    if world is not None:
        logs = replace(logs, events=_before(logs.events, loaded.manifest.logs_end))
    material = Material(
        config=config,
        release=loaded,
        lake=lake,
        catalogue=catalogue,
        logs=logs,
        split=_split_of(loaded, config.offline.label_window_s),
        towers=Towers.load(loaded.path / "towers"),
        post_vectors=np.load(loaded.path / "index" / "post_vectors.npy", mmap_mode="r"),
        index=PostIndex.load(loaded.path / "index"),
        learned_sources=LearnedSources.load(loaded.path / "sources"),
        rankers=Rankers.load(loaded.path / "ranking", config.ranking.n_threads),
        world=world,
    )
    test = material.test()
    unknown = int(((test.post_row < 0) | (test.user_row < 0)).sum())
    if unknown or not test.click.any():
        problem = f"has {unknown} exposures of posts or users that it does not know" if unknown else "has no click"
        raise DataError(f"the test share of release {loaded.version} in {lake.url} {problem}; run `recsys train` again")
    return material


def _negatives_of(loaded: release.Release) -> Negatives | None:
    """The kind of negatives the release was trained with; impressions that reach the lake later do not change it."""
    noted = loaded.manifest.metrics.get("negatives")
    return next((kind for kind in get_args(Negatives) if kind == noted), None)


def _split_of(loaded: release.Release, label_window_s: float) -> Split:
    """The release's own cuts of time."""
    cuts = loaded.manifest.metrics.get("cuts")
    if not isinstance(cuts, list) or len(cuts) != len(SHARES) + 1:
        raise ReleaseError(f"release {loaded.version} does not say how time was split; run `recsys train` again")
    towers, rankers, calibrators, test, end = (int(str(cut)) for cut in cuts)
    return Split((towers, rankers, calibrators, test, end), int(label_window_s * SECOND))


def _before(events: Events, end: int) -> Events:
    """The events that had arrived before `end`."""
    n = int(np.searchsorted(events.ingest_time, end))
    return Events(**{column.name: getattr(events, column.name)[:n] for column in fields(Events)})
