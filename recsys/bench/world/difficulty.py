"""How hard the world is: AUC of the models with more logs, and without each difficulty.

Takes settings, simulates worlds into a temporary folder beside `data_dir`, trains on each and holds the rankers against
the true probabilities. Nothing is published, no store is loaded. It does not know how figures are shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from recsys.bench.world.simulate import existing_folder
from recsys.config import Config, WorldConfig
from recsys.evaluation.metrics.clicks import auc
from recsys.offline.lake.lake import Lake
from recsys.progress import Progress
from recsys.ranking.rankers import RANKERS
from recsys.training import read_training_logs, train_models
from recsys.world.world import World
from recsys.world.writing.simulate import simulate

DIFFICULTIES: dict[str, dict[str, Any]] = {
    "what a post alone is worth": {"post_quality": 0.0},
    "manner of authors": {"style": 0.0},
    "tastes drift": {"drift": 0.0},
    "fatigue": {"fatigue": 0.0},
    "position bias": {"position_bias": 0.0},
    "hours of media": {"media_rhythm": 0.0},
    "hours of topics": {"daily_rhythm": 0.0},
    "posts age": {"ageing": 0.0},
    "missing topics": {"missing_topic": 0.0},
    "foreign languages": {"n_languages": 1},
    "new users": {"joining_share": 0.0},
    "new posts": {"new_post_share": 0.0},
    "few use it much": {"activity_tail": 0.0},
    "bots": {"bot_share": 0.0},
    "spam and violations": {"spam_share": 0.0, "violation_share": 0.0},
    "copies": {"duplicate_share": 0.0, "edited_share": 0.0},
    "late, delayed and repeated events": {"late_share": 0.0, "delayed_share": 0.0, "redelivered_share": 0.0},
}
"""Each difficulty of the world, and the settings that remove it."""


def learning_curve(config: Config, sizes: Sequence[int], progress: Progress) -> list[dict[str, float]]:
    """AUC of each ranker and of the oracle in worlds that differ only in the number of impressions."""
    curve = []
    for size in sizes:
        progress.say(f"a world of {size:,} impressions")
        world = config.world.model_copy(update={"n_impressions": size})
        curve.append({"impressions": size, **_figures(config, world, progress)})
    return curve


def costs(config: Config, names: Sequence[str], progress: Progress) -> dict[str, Any]:
    """For each difficulty, AUC in the world without it, and its cost to each model.

    The cost is how much closer a model comes to the oracle without the difficulty: (oracle - model) with everything on,
    less (oracle - model) without it. Taking away a difficulty moves the oracle as well, so AUCs alone do not compare.
    """
    progress.say("the world as it is")
    whole = _figures(config, config.world, progress)
    without = {}
    for name in names:
        progress.say(f"the world without: {name}")
        figures = _figures(config, config.world.model_copy(update=DIFFICULTIES[name]), progress)
        cost = {
            f"{ranker}_cost": (whole["oracle"] - whole[ranker]) - (figures["oracle"] - figures[ranker])
            for ranker in RANKERS
        }
        without[name] = {**figures, **cost}
    return {"whole": whole, "without": without}


def _figures(config: Config, world: WorldConfig, progress: Progress) -> dict[str, float]:
    """AUC on the test share, by ranker, and the oracle's."""
    with tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=existing_folder(config.data_dir)) as name:
        folder = Path(name)
        lake = Lake(str(folder / "lake"))
        with progress.stage("simulate") as report:
            simulate(world, lake, folder / "world" / "truth", config.ranking.n_threads, report)
        material = read_training_logs(config, lake, progress)
        learned = train_models(config, material, progress)
        figures = {ranker: float(learned.metrics["ranking"][ranker]["auc"]) for ranker in RANKERS}
        exposures = material.logs.exposures
        test = exposures.take(learned.split.rows(exposures, "test"))
        probability, _ = World.open(folder / "world").true_click_probability(test.request_id, test.position)
        return {**figures, "oracle": cast(float, auc(probability, test.click))}  # the split guarantees clicks
