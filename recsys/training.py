"""Train a release from the logs: catalogue, towers, index, rankers, online features.

Takes the lake, gives a published release and loads the online store. Each model trains on its own period of the logs
(`offline.logs.time_split`). Training never reads the simulated world or its truth: it treats simulated and imported
logs alike. The same logs give the same release, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys import release
from recsys.config import Config
from recsys.evaluation.metrics.clicks import ranking_figures
from recsys.features.histories import Clicks
from recsys.features.point_in_time import snapshot
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import Events, ExcludeEvents, mentioned_ids
from recsys.offline.logs.exposures import Logs, read_logs
from recsys.offline.logs.time_split import Split, split_by_time
from recsys.online.connection.client import connect
from recsys.online.consumer.to_lake import LakeSink
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.online.seen_posts import load_returned
from recsys.online.stream.log import RedisStream
from recsys.online.tombstones import read_erased
from recsys.progress import Progress
from recsys.ranking.examples import build_examples, user_batch
from recsys.ranking.rankers import RANKERS, Rankers, fit_rankers
from recsys.retrieval.index import tuner
from recsys.retrieval.sources.learned import LearnedSources
from recsys.retrieval.towers import freshness
from recsys.retrieval.towers.inference import Towers
from recsys.retrieval.towers.training import train_towers
from recsys.types import Floats


@dataclass(frozen=True)
class TrainingLogs:
    """What training reads from the lake."""

    catalogue: Catalogue
    logs: Logs
    logs_end: int
    """Microseconds; where `serving.clock: logs` starts."""
    quarantined: dict[str, int]
    """Reason -> number of rows that were set aside."""


@dataclass(frozen=True)
class TrainedModels:
    """The parts of a release, in memory."""

    catalogue: Catalogue
    split: Split
    towers: Towers
    post_vectors: Floats
    tuning: tuner.Tuning
    sources: LearnedSources
    rankers: Rankers
    metrics: dict[str, Any]


def train(config: Config, progress: Progress) -> release.Release:
    """Read the lake, train, publish a release, load the online store, make the release current.

    Raises: DataError when the lake lacks what training needs; the current release then stays current.
    """
    with connect(config.online, config.data_dir) as connection, ExitStack() as until_loaded:
        lake, stream = Lake(config.lake_url), RedisStream(connection.client, config.online)
        lake.info()
        # Bring the lake up to the end of the stream and lock it while reading, so that the logs end exactly at the
        # watermark. Then hold the stream: later events must not be trimmed before the online load has replayed them.
        # The hold starts before the lake is unlocked, because its writer may then go on and trim.
        with LakeSink(connection.client, stream, lake).held() as watermark:
            until_loaded.enter_context(stream.hold(watermark))
            # The lake may still hold rows of people whose erasure has begun but not finished: leave them out.
            erased = read_erased(connection.client)
            training_logs = read_training_logs(config, lake, progress, erased.covers)
            with progress.stage("read what was returned"):
                returned = _returned(lake)
        checkpoints = config.data_dir / "checkpoints"
        models = train_models(config, training_logs, progress, checkpoints)
        with progress.stage("release"), release.staging(config.releases_path) as folder:
            _save(models, folder)
            made = release.publish(
                folder,
                config=config.model_dump(mode="json"),
                metrics=models.metrics,
                logs_end=training_logs.logs_end,
                watermark=watermark,
                world=lake.info().get("origin") == "world",
            )
        with progress.stage("online features") as report:
            catalogue = training_logs.catalogue
            state = snapshot(catalogue, training_logs.logs.events, config.ranking.n_threads)
            reach = SnapshotReach(watermark, training_logs.logs_end, erased)
            load_snapshot(connection.client, catalogue, state, config.online, reach, report, config.offline.impressions)
            load_returned(connection.client, returned, config.online)
        release.use(config.releases_path, made.version)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return made


def read_training_logs(
    config: Config, lake: Lake, progress: Progress, exclude: ExcludeEvents | None = None
) -> TrainingLogs:
    """Read the catalogue and the logs, without the events that `exclude` selects. Prints what was set aside."""
    with progress.stage("read the lake"):
        catalogue = build_catalogue(lake, *mentioned_ids(lake))
        logs = read_logs(lake, catalogue, config.offline, exclude=exclude)
        logs_end = int(lake.info().get("logs_end") or logs.events.ingest_time[-1] + 1)
    for reason, count in lake.quarantined.items():
        progress.say(f"set aside: {count} x {reason}")
    if catalogue.n_id_only_posts:
        progress.say(f"{catalogue.n_id_only_posts} posts appear in events but are not described: known by id only")
    if logs.negatives == "sampled":
        progress.say(
            f"these logs have more clicks than impressions, so each click is trained against "
            f"{config.offline.sampled_negatives} random posts (offline.sampled_negatives); "
            "predicted probabilities are relative to these, not click rates"
        )
    return TrainingLogs(catalogue, logs, logs_end, dict(lake.quarantined))


def train_models(
    config: Config, training_logs: TrainingLogs, progress: Progress, checkpoints: Path | None = None
) -> TrainedModels:
    """Train all models, each on its own period of the logs.

    Args:
        checkpoints: folder for the towers' checkpoints, so that an interrupted run can continue. The only files used.
    """
    catalogue, logs, logs_end = training_logs.catalogue, training_logs.logs, training_logs.logs_end
    exposures = logs.exposures  # E rows in order of time
    split = split_by_time(exposures, config.offline.split, config.offline.label_window_s)
    # 1. Towers: learn from the clicks of the towers' period, (n_clicks,) of users, posts and times.
    with progress.stage("train towers") as report:
        clicked = np.flatnonzero(split.rows(exposures, "towers") & exposures.click)
        clicks = Clicks(exposures.user_row[clicked], exposures.post_row[clicked], exposures.now[clicked])
        towers = train_towers(catalogue, clicks, config.retrieval.towers, report, checkpoints).with_reference(logs_end)
    # 2. Index: built over all post vectors, (N, D), and tuned with user vectors at four moments, (4, M, D).
    with progress.stage("build index") as report:
        post_vectors = towers.post_vectors(catalogue)
        users = tuning_users(catalogue, logs.events, towers, logs_end, config)
        tuned = tuner.tune(post_vectors, users, config.retrieval.sources.budget, config.retrieval.index, report)
    progress.say(f"index: {tuned.why}")
    # 3. Other sources: count over everything before the test period, because they depend on recent clicks.
    with progress.stage("sources"):
        sources = LearnedSources.learn(catalogue, logs, split.bounds("test")[0], config.retrieval)
    # 4. Features of the exposures that rankers use, each as of its request: (n_used, F).
    with progress.stage("point-in-time features"):
        shares = {share: split.rows(exposures, share) for share in ("rankers", "calibrators", "test")}  # (E,) masks
        _keep_newest(shares["rankers"], config.ranking.max_rows)
        used = np.flatnonzero(np.any(list(shares.values()), axis=0))
        examples = build_examples(
            catalogue,
            logs.events,
            exposures.take(used),
            towers,
            post_vectors,
            config.online.history_size,
            config.ranking.n_threads,
        )
    # 5. Rankers and their calibrators, then their figures on the test period.
    with progress.stage("train rankers") as report:
        rankers = fit_rankers(
            examples.where(shares["rankers"][used]), examples.where(shares["calibrators"][used]), config.ranking, report
        )
    test = examples.where(shares["test"][used])
    user = exposures.user_row[shares["test"]]
    figures = {
        name: ranking_figures(rankers.probability(test.features, name, test.position), test.click, user)
        for name in RANKERS
    }
    metrics = {
        "index": {"name": tuned.chosen.name, "recall": tuned.chosen.recall},
        "ranking": figures,
        "negatives": logs.negatives,
        "cuts": list(split.cuts),
        "rows": {share: int(rows.sum()) for share, rows in shares.items()} | {"towers": len(clicks)},
        "posts": catalogue.n_posts,
        "id_only_posts": catalogue.n_id_only_posts,
        "quarantined": training_logs.quarantined,
    }
    return TrainedModels(catalogue, split, towers, post_vectors, tuned, sources, rankers, metrics)


def tuning_users(catalogue: Catalogue, events: Events, towers: Towers, now: int, config: Config) -> Floats:
    """Vectors of random users, for tuning the index: (S, M, D) for S moments and M users.

    Active users are drawn more often, as in traffic; no user is drawn twice. The histories are those at `now`, the
    moments are `freshness.INDEX_AGES`.
    """
    drawn = events.user_row[np.random.default_rng(0).permutation(len(events))]
    _, first = np.unique(drawn, return_index=True)
    chosen = drawn[np.sort(first)[: config.retrieval.index.n_tuning_queries]]
    seen, times = np.full(len(chosen), len(events)), np.full(len(chosen), now, np.int64)
    users = user_batch(catalogue, events, chosen, times, seen, config.online.history_size)
    vectors = towers.user_vectors(catalogue, users)
    return np.stack([freshness.later(vectors, passed) for passed in freshness.INDEX_AGES])


def _returned(lake: Lake) -> pa.Table:
    """Posts that were returned to users, as user_id, post_id, now. Logs without these rows give the clicked posts."""
    returned = lake.read("returned", ["user_id", "post_id", "now"])
    if len(returned):
        return returned
    actions = lake.read("actions", ["user_id", "post_id", "type", "event_time"])
    clicks = actions.filter(pc.equal(actions["type"], "click"))
    return clicks.select(["user_id", "post_id", "event_time"]).rename_columns(returned.column_names)


def _keep_newest(rows: np.ndarray, n: int) -> None:
    """Keep only the last n true rows of a mask over exposures, which are in order of time; changes it in place."""
    chosen = np.flatnonzero(rows)
    rows[chosen[: max(len(chosen) - n, 0)]] = False


def _save(models: TrainedModels, folder: Path) -> None:
    models.catalogue.save(folder / "catalogue")
    models.towers.save(folder / "towers")
    models.tuning.chosen.index.save(folder / "index")
    (folder / "index" / "tuning.json").write_text(json.dumps(models.tuning.figures(), indent=1))
    np.save(folder / "index" / "post_vectors.npy", models.post_vectors)
    models.sources.save(folder / "sources")
    models.rankers.save(folder / "ranking")
