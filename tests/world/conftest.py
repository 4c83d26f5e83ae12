"""Worlds of a few hundred users, each simulated once per test run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from recsys.config import WorldConfig
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.world.world import World
from recsys.world.writing.simulate import Written, simulate

SMALL = {"n_users": 300, "n_posts": 2000, "n_impressions": 40_000, "n_days": 4, "n_authors": 60}

NO_EFFECTS = dict.fromkeys(
    (
        "position_bias", "fatigue", "drift", "ageing", "missing_topic", "missing_country", "hidden_share",
        "duplicate_share", "edited_share", "bot_share", "delayed_share", "late_share", "redelivered_share",
    ),
    0,
)  # fmt: skip


@dataclass(frozen=True)
class Simulated:
    """A simulated world: its folder, settings and the sizes of its logs."""

    folder: Path
    config: WorldConfig
    written: Written

    @property
    def lake(self) -> Lake:
        return Lake(str(self.folder / "lake"))

    def world(self) -> World:
        return World.open(self.folder / "world")

    def table(self, name: str) -> pd.DataFrame:
        """A table of the lake, or `truth/impressions`, `truth/users`, `truth/posts`, with times as integers."""
        if name.startswith("truth/"):
            path = self.folder / "world" / name
            frame = pq.read_table(path if path.is_dir() else path.with_suffix(".parquet")).to_pandas()
        else:
            frame = self.lake.read(name).to_pandas()
        for column in frame.select_dtypes("datetimetz"):
            frame[column] = frame[column].astype("int64")
        return frame


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Simulated]:
    """`simulated(n_threads=2, **settings)`: a small world with these settings, simulated once."""

    @cache
    def make(n_threads: int, settings: str) -> Simulated:
        config = WorldConfig.model_validate(SMALL | json.loads(settings))
        folder = tmp_path_factory.mktemp("world")
        lake = Lake(str(folder / "lake"))
        written = simulate(config, lake, folder / "world" / "truth", n_threads, lambda done, total: None)
        return Simulated(folder, config, written)

    def with_settings(n_threads: int = 2, **settings: Any) -> Simulated:
        return make(n_threads, json.dumps(settings, sort_keys=True))

    return with_settings


@pytest.fixture(scope="session")
def small(simulated: Callable[..., Simulated]) -> Simulated:
    """All effects on."""
    return simulated()


@pytest.fixture(scope="session")
def flat(simulated: Callable[..., Simulated]) -> Simulated:
    """The effects of `NO_EFFECTS` off, the rest as in `small`."""
    return simulated(**NO_EFFECTS)


@pytest.fixture(scope="session")
def shown(small: Simulated) -> pd.DataFrame:
    return exposures(small)


def exposures(of: Simulated) -> pd.DataFrame:
    """One row per impression: request, truth, whether the user is a bot, actions; `dwell` is seconds or NaN."""
    rows = of.table("impressions").drop_duplicates("event_id")
    rows = rows.merge(of.table("truth/impressions"), on=["request_id", "position", "post_id"], validate="1:1")
    requests = of.table("requests")[["request_id", "now", "policy", "session_id"]]
    rows = rows.merge(requests, on="request_id", validate="m:1")
    rows = rows.merge(of.table("truth/users"), on="user_id", validate="m:1")
    actions = of.table("actions").drop_duplicates("event_id")
    actions["done"] = actions.value.fillna(1)  # only a dwell has a value
    done = actions.pivot(index=["request_id", "post_id"], columns="type", values="done").reindex(columns=ACTION_TYPES)
    rows = rows.merge(done.reset_index(), on=["request_id", "post_id"], how="left", validate="1:1")
    return rows.fillna(dict.fromkeys(ACTION_TYPES[:-1], 0))


@pytest.fixture(scope="session")
def flat_shown(flat: Simulated) -> pd.DataFrame:
    return exposures(flat)
