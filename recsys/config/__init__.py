"""One frozen tree of settings: defaults in code, differences in a YAML file, overrides from the command line.

A component receives its own subsection only; it never sees the tree.
"""

from recsys.config.loading import DEFAULT_PATH, load
from recsys.config.section import Section
from recsys.config.sections import (
    CovisitationConfig,
    EvaluationConfig,
    FitConfig,
    IdTowersConfig,
    IndexConfig,
    OfflineConfig,
    OnlineConfig,
    RankingConfig,
    RerankingConfig,
    RetrievalConfig,
    ServingConfig,
    SourcesConfig,
    TowersConfig,
)
from recsys.config.tree import Config
from recsys.config.world import (
    BrokenFeature,
    Change,
    ConceptShift,
    CovariateShift,
    PolicyConfig,
    WorldConfig,
)

__all__ = [
    "DEFAULT_PATH",
    "BrokenFeature",
    "Change",
    "ConceptShift",
    "Config",
    "CovariateShift",
    "CovisitationConfig",
    "EvaluationConfig",
    "FitConfig",
    "IdTowersConfig",
    "IndexConfig",
    "OfflineConfig",
    "OnlineConfig",
    "PolicyConfig",
    "RankingConfig",
    "RerankingConfig",
    "RetrievalConfig",
    "Section",
    "ServingConfig",
    "SourcesConfig",
    "TowersConfig",
    "WorldConfig",
    "load",
]
