"""What a simulation leaves beside its truth: the settings it was drawn from, and how to tell that they still draw it.

Takes a folder, gives settings back. The population is not stored; a checksum says whether this version of the code
still draws the same people and knows the same laws.
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
from recsys.world.behaviour.sessions import laws_of
from recsys.world.population.population import Population

_FILE = "world.json"


def write_notes(folder: Path, config: WorldConfig, population: Population) -> None:
    """Whoever finds them may rely on the truth beside them being complete."""
    notes = {"drawn": checksum(population, config), "settings": config.model_dump(mode="json")}
    temporary = folder / f".{_FILE}.tmp"
    temporary.write_text(json.dumps(notes, indent=1))
    temporary.replace(folder / _FILE)


def remove_notes(folder: Path) -> None:
    (folder / _FILE).unlink(missing_ok=True)


def read_notes(folder: Path) -> tuple[WorldConfig, str]:
    """The settings, and the checksum of the population.

    Raises: DataError when no simulation left its notes in `folder`, or an older version did.
    """
    try:
        notes = json.loads((folder / _FILE).read_text())
        return WorldConfig.model_validate(notes["settings"]), str(notes["drawn"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"no world in {folder} that this version can read; run `recsys simulate` to make one") from None


def checksum(population: Population, config: WorldConfig) -> str:
    """The same for the same people, posts and laws, also where another processor rounds the last digits otherwise.

    Laws count by what they say about a few users and posts. Texts follow from the same draws and are left out.
    """
    truth = truth_of(population, config)
    posts = np.arange(min(population.n_posts, 500), dtype=np.int32)
    end = int(population.posts.created_at[-1])
    laws = [laws_of(truth, user, posts, posts % 10, end, posts.astype(np.int64) % 4) for user in range(20)]
    arrays = [getattr(part, column.name) for part in (population.users, population.posts) for column in fields(part)]
    digest = hashlib.sha256()
    for values in (*arrays, *population.follows, *population.blocks, np.array(laws)):
        if isinstance(values, np.ndarray):
            if values.dtype.kind == "f":
                values = np.round(values.astype(np.float64), 4) + 0.0  # no minus zero
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
