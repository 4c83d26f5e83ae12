"""The long steps as one call each, and what a step needs made first. What the command line and the demo share.

Takes settings, gives results. The work itself lives in the packages.
"""

from __future__ import annotations

from typing import Any

from recsys import release
from recsys.config import Config
from recsys.errors import ConfigError, DataError, ReleaseError
from recsys.evaluation.report.report import evaluate, over_seeds
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.online import generations
from recsys.online.connection.client import connect
from recsys.progress import Progress
from recsys.training import train
from recsys.world.writing.settings_file import read_settings
from recsys.world.writing.simulate import Written, simulate


def simulate_step(config: Config, progress: Progress) -> Written:
    """Write a new world into the lake. What the online store knew of an older one is removed, no release stays current.

    Raises: DataError when the lake holds logs that are not a world's.
    """
    lake = Lake(config.lake_url)
    refuse_foreign_logs(lake, config)
    if config.online.url is not None or (config.data_dir / "redis").exists():
        with connect(config.online, config.data_dir) as connection:
            generations.clear(connection.client)
    release.retire(config.releases_path)
    with progress.stage("simulate") as report:
        return simulate(config.world, lake, config.world_path / "truth", config.ranking.n_threads, report)


def refuse_foreign_logs(lake: Lake, config: Config) -> None:
    """Before a lake is emptied for a world. Raises: DataError when no simulation wrote what it holds."""
    if _foreign(lake):
        raise DataError(
            f"{config.lake_url} holds tables that no simulation wrote; "
            "pass --set data_dir=FOLDER (or offline.url) with an empty one"
        )


def _foreign(lake: Lake) -> bool:
    """Whether the lake holds logs that are not a world's, or the beginning of such."""
    unfinished = lake.unfinished()
    if unfinished is not None:
        return bool(unfinished.get("origin", "world") != "world")
    return lake.info().get("origin") != "world" and any(lake.files(table) for table in TABLES)


def evaluate_step(config: Config, progress: Progress, n_seeds: int = 1) -> dict[str, Any]:
    """The report; simulates and trains where that was not done yet, and says so.

    Args:
        n_seeds: more than one makes that many worlds, each in a data folder of its own below `data_dir`.
    Raises: ConfigError when several worlds are asked for beside logs that are not a world's.
    """
    if n_seeds == 1:
        return _evaluate_one(config, progress)
    if _foreign(Lake(config.lake_url)):
        raise ConfigError(
            f"--seeds must be left out where logs are not a world's, got {n_seeds}: it makes a world per seed, which "
            f"says nothing of the logs in {config.lake_url}; pass --set data_dir=FOLDER for worlds"
        )
    reports = {}
    for seed in range(config.world.seed, config.world.seed + n_seeds):
        progress.say(f"world with seed {seed}")
        world = config.world.model_copy(update={"seed": seed})
        data_dir = config.data_dir / "seeds" / str(seed)
        of_seed = config.model_copy(
            update={
                "world": world,
                "data_dir": data_dir,
                "releases_dir": None,
                "offline": config.offline.model_copy(update={"url": None}),
                "online": config.online.model_copy(update={"url": None}),
            }
        )
        reports[seed] = _evaluate_one(of_seed, progress)
    return over_seeds(reports)


def ensure_release(config: Config, progress: Progress) -> None:
    """Simulate and train where that was not done yet, and say so."""
    lake = Lake(config.lake_url)
    written = any(lake.files(table) for table in ("impressions", "returned", "actions")) and not lake.interrupted()
    if not written and not _foreign(lake):
        progress.say(f"no logs in {config.lake_url} yet: simulating first")
        simulate_step(config, progress)
        train(config, progress)
        return
    if lake.info().get("origin") == "world" and _settings_changed(config):
        progress.say(
            f"the world in {config.data_dir} was simulated with other world settings than these and is used as it is; "
            "run `recsys simulate` for a new one"
        )
    try:
        release.load(config.releases_path, verify=False)
    except ReleaseError as error:
        progress.say(f"no usable release yet, training first ({error})")
        train(config, progress)


def _evaluate_one(config: Config, progress: Progress) -> dict[str, Any]:
    ensure_release(config, progress)
    return evaluate(config, progress)


def _settings_changed(config: Config) -> bool:
    """Whether a world was simulated here with other settings than these."""
    try:
        return read_settings(config.world_path)[0] != config.world
    except DataError:
        return False  # no notes to compare with; what needs them says so
