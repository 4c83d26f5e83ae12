"""The tree of all settings, and the folders that follow from it."""

from __future__ import annotations

from pathlib import Path

from recsys.config.section import Section
from recsys.config.sections import (
    EvaluationConfig,
    OfflineConfig,
    OnlineConfig,
    RankingConfig,
    RerankingConfig,
    RetrievalConfig,
    ServingConfig,
)
from recsys.config.world import WorldConfig


class Config(Section):
    """All settings, one section per stage."""

    data_dir: Path = Path("data")
    """Folder for all generated data. A relative path starts at the working directory."""
    releases_dir: Path | None = None
    """Folder of releases. Empty means `<data_dir>/releases`."""
    offline: OfflineConfig = OfflineConfig()
    world: WorldConfig = WorldConfig()
    online: OnlineConfig = OnlineConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    ranking: RankingConfig = RankingConfig()
    reranking: RerankingConfig = RerankingConfig()
    serving: ServingConfig = ServingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @property
    def lake_url(self) -> str:
        return self.offline.url or str(self.data_dir / "lake")

    @property
    def releases_path(self) -> Path:
        return self.releases_dir or self.data_dir / "releases"

    @property
    def world_path(self) -> Path:
        """Folder of the world's truth. It is outside the lake, so that training cannot read it."""
        return self.data_dir / "world"
