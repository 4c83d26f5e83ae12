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
from recsys.offline.lake import Lake
from recsys.world.simulate import Written, simulate
from recsys.world.world import World

SMALL = {"n_users": 300, "n_posts": 2000, "n_impressions": 40_000, "n_days": 4, "n_authors": 60}

NO_EFFECTS = dict.fromkeys(
    (
        "position_bias", "fatigue", "drift", "ageing", "missing_topic", "missing_country", "hidden_share",
        "duplicate_share", "late_share", "redelivered_share",
    ),
    0,
)  # fmt: skip


@dataclass(frozen=True)
class Simulated:
    """A world's folder, what it wrote and its truth."""

    folder: Path
    config: WorldConfig
    written: Written

    @property
    def lake(self) -> Lake:
        return Lake(str(self.folder / "lake"))

    def world(self) -> World:
        return World.open(self.folder / "world")

    def table(self, name: str) -> pd.DataFrame:
        """A table of the lake, or the truth, with times as integers."""
        rows = pq.read_table(self.folder / "world" / "truth") if name == "truth" else self.lake.read(name)
        frame = rows.to_pandas()
        for column in frame.select_dtypes("datetimetz"):
            frame[column] = frame[column].astype("int64")
        return frame


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Simulated]:
    """`simulated(n_threads=2, **settings)`: a small world with these settings, made once."""

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
    """The effects of `NO_EFFECTS` off, all the rest as in `small`."""
    return simulated(**NO_EFFECTS)


@pytest.fixture(scope="session")
def shown(small: Simulated) -> pd.DataFrame:
    return exposures(small)


def exposures(of: Simulated) -> pd.DataFrame:
    """One row per impression with its request's policy, its truth, and whether it was clicked."""
    rows = of.table("impressions").merge(of.table("truth"), on=["request_id", "position", "post_id"], validate="1:1")
    rows = rows.merge(of.table("requests")[["request_id", "now", "policy"]], on="request_id", validate="m:1")
    actions = of.table("actions")
    clicked = actions[actions.type == "click"].drop_duplicates("event_id")[["request_id", "post_id"]]
    return rows.merge(clicked.assign(click=1), on=["request_id", "post_id"], how="left").fillna({"click": 0})


@pytest.fixture(scope="session")
def flat_shown(flat: Simulated) -> pd.DataFrame:
    return exposures(flat)
