"""A news-feed recommender in three stages.

    from recsys import load, train, Recommender

    config = load("configs/demo.yaml")      # validated settings
    release = train(config, Progress())     # logs in the lake -> features, towers, index, rankers -> a release
    recommender = Recommender.open(config, release, store)
    slate = recommender.recommend(request)  # retrieval (500) -> filters -> ranking -> re-ranking -> a slate

To read the package in the order data flows: `offline`, `world`, `features`, `online`, `retrieval`, `ranking`,
`reranking`, `pipeline`, `release`, `serving`, `evaluation`, `training`.

Each name is imported when it is first used, so that loading settings does not import torch.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "Config": "recsys.config",
    "FeedRequest": "recsys.types",
    "Recommender": "recsys.pipeline",
    "Slate": "recsys.types",
    "load": "recsys.config",
    "train": "recsys.training",
}

__all__ = ["Config", "FeedRequest", "Recommender", "Slate", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
