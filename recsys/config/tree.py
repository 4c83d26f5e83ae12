"""The whole tree of settings."""

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
    """Everything that can be set."""

    data_dir: Path = Path("data")
    """Folder for all generated data; relative paths start at the working directory."""
    releases_dir: Path | None = None
    """Folder of releases; empty means `<data_dir>/releases`."""
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
        """Truth and the world's own notes: outside the lake, out of reach of training."""
        return self.data_dir / "world"
