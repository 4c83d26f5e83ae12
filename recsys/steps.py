"""Long steps as one call each, shared by the command line, the demo and the benchmarks.

Takes settings, gives results. A step first runs the steps it depends on when their results are missing.
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
    """Write a new world into the lake. Clears the online store and the current release, which belong to older logs.

    Raises: DataError when the lake holds logs that are not a world's.
    """
    lake = Lake(config.lake_url)
    refuse_foreign_logs(lake, config)
    if config.online.url is not None or (config.data_dir / "redis").exists():
        with connect(config.online, config.data_dir) as connection:
            generations.clear(connection.client)
    release.clear_current(config.releases_path)
    with progress.stage("simulate") as report:
        return simulate(config.world, lake, config.world_path / "truth", config.ranking.n_threads, report)


def refuse_foreign_logs(lake: Lake, config: Config) -> None:
    """Protect logs that are not simulated: call this before emptying a lake.

    Raises: DataError when the lake holds tables that no simulation wrote.
    """
    if _foreign(lake):
        raise DataError(
            f"a simulation must not overwrite other logs, {config.lake_url} holds tables that no simulation wrote; "
            "choose an empty folder with --set data_dir=FOLDER (or offline.url)"
        )


def _foreign(lake: Lake) -> bool:
    """Whether the lake holds logs, complete or partial, that no simulation wrote."""
    unfinished = lake.unfinished()
    if unfinished is not None:
        return bool(unfinished.get("origin", "world") != "world")
    return lake.info().get("origin") != "world" and any(lake.files(table) for table in TABLES)


def evaluate_step(config: Config, progress: Progress, n_seeds: int = 1) -> dict[str, Any]:
    """Make the evaluation report. Simulates and trains first if needed, and prints that it does.

    Args:
        n_seeds: number of worlds to average over. With more than one, each world gets its own folder below
            `data_dir/seeds`.
    Raises: ConfigError when `n_seeds` > 1 and the lake holds logs that were not simulated.
    """
    if n_seeds == 1:
        return _evaluate_one(config, progress)
    if _foreign(Lake(config.lake_url)):
        raise ConfigError(
            f"--seeds must be 1 for logs that were not simulated, got {n_seeds}: it simulates a world per seed, which "
            f"says nothing about the logs in {config.lake_url}; use another folder with --set data_dir=FOLDER"
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
    """Simulate and train if needed, and print that it does."""
    lake = Lake(config.lake_url)
    written = any(lake.files(table) for table in ("impressions", "returned", "actions")) and not lake.interrupted()
    if not written and not _foreign(lake):
        progress.say(f"no logs in {config.lake_url} yet, simulating first")
        simulate_step(config, progress)
        train(config, progress)
        return
    if lake.info().get("origin") == "world" and _settings_changed(config):
        progress.say(
            f"the world in {config.data_dir} was simulated with other world settings and is used as it is; "
            "run `recsys simulate` to replace it"
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
    """Whether the world in the data folder was simulated with other settings."""
    try:
        return read_settings(config.world_path)[0] != config.world
    except DataError:
        return False  # the world's settings are missing; the step that needs them raises
