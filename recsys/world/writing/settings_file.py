"""`world.json` beside the truth: the settings of a world and a checksum of what they drew.

Takes a folder, gives the settings back. The population is not stored. It is drawn again from the settings, and the
checksum tells whether the installed code still draws the same people and uses the same choice model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from pathlib import Path

import numpy as np

from recsys.config import WorldConfig
from recsys.errors import DataError
from recsys.world.behaviour.choice import truth_of
from recsys.world.behaviour.sessions import outcome_table
from recsys.world.population.population import Population

_FILE = "world.json"


def write_settings(folder: Path, config: WorldConfig, population: Population) -> None:
    """Write `world.json`, as the last file of a simulation: it marks the truth as complete."""
    content = {"drawn": world_checksum(population, config), "settings": config.model_dump(mode="json")}
    temporary = folder / f".{_FILE}.tmp"
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(folder / _FILE)


def remove_settings(folder: Path) -> None:
    """Delete `world.json` if it exists."""
    (folder / _FILE).unlink(missing_ok=True)


def read_settings(folder: Path) -> tuple[WorldConfig, str]:
    """The settings and the checksum of the population.

    Raises: DataError when `folder` has no `world.json`, or one from a version that this one cannot read.
    """
    try:
        content = json.loads((folder / _FILE).read_text())
        return WorldConfig.model_validate(content["settings"]), str(content["drawn"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"no world in {folder} that this version can read; run `recsys simulate` to make one") from None


def world_checksum(population: Population, config: WorldConfig) -> str:
    """SHA-256 over people, posts and the choice model's output, equal on processors that round differently.

    The choice model enters by its probabilities for 20 users and up to 500 posts. Texts are left out: they follow from
    the same draws.
    """
    truth = truth_of(population, config)
    posts = np.arange(min(population.n_posts, 500), dtype=np.int32)
    end = int(population.posts.created_at[-1])
    probabilities = [
        outcome_table(truth, user, posts, posts % 10, end, posts.astype(np.int64) % 4) for user in range(20)
    ]
    arrays = [getattr(part, column.name) for part in (population.users, population.posts) for column in fields(part)]
    digest = hashlib.sha256()
    for values in (*arrays, *population.follows, *population.blocks, np.array(probabilities)):
        if isinstance(values, np.ndarray):
            if values.dtype.kind == "f":
                values = np.round(values.astype(np.float64), 4) + 0.0  # turns -0.0 into 0.0
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
