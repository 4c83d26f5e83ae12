"""From logs to a release that serves: catalogue, towers, index, rankers, online features.

Takes the lake, gives a published release and loads the online store. Each model learns on its own share of time
(`offline.logs.time_split`). It never reads the world or its truth: a world's logs and imported logs are the same to it,
and the same logs give the same release.
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
    """What was read of the lake."""

    catalogue: Catalogue
    logs: Logs
    logs_end: int
    """Microseconds. A clock that serves from these logs starts here."""
    quarantined: dict[str, int]
    """Reason to number of rows that were set aside."""


@dataclass(frozen=True)
class TrainedModels:
    """What a release is made of, still in memory."""

    catalogue: Catalogue
    split: Split
    towers: Towers
    post_vectors: Floats
    tuning: tuner.Tuning
    sources: LearnedSources
    rankers: Rankers
    metrics: dict[str, Any]


def train(config: Config, progress: Progress) -> release.Release:
    """Read the lake, learn, publish, switch `current`, load the online store.

    Raises: DataError when the lake lacks what is needed; the release that served before then stays.
    """
    with connect(config.online, config.data_dir) as connection, ExitStack() as until_loaded:
        lake, stream = Lake(config.lake_url), RedisStream(connection.client, config.online)
        lake.info()
        # The lake is brought up to the stream and held while it is read, so that the logs and the watermark are one.
        # What follows on the stream is kept until the load has replayed it, and that from before the lake goes on: its
        # next step and a trim behind that would take it away.
        with LakeSink(connection.client, stream, lake).held() as watermark:
            until_loaded.enter_context(stream.hold(watermark))
            # Of people whose erasure is not through yet the lake still holds rows.
            erased = read_erased(connection.client)
            material = read_material(config, lake, progress, erased.covers)
            with progress.stage("read what was returned"):
                returned = _returned(lake)
        checkpoints = config.data_dir / "checkpoints"
        learned = learn(config, material, progress, checkpoints)
        with progress.stage("release"), release.staging(config.releases_path) as folder:
            _save(learned, folder)
            made = release.publish(
                folder,
                config=config.model_dump(mode="json"),
                metrics=learned.metrics,
                logs_end=material.logs_end,
                watermark=watermark,
                world=lake.info().get("origin") == "world",
            )
        with progress.stage("online features") as report:
            state = snapshot(material.catalogue, material.logs.events, config.ranking.n_threads)
            reach = SnapshotReach(watermark, material.logs_end, erased)
            load_snapshot(
                connection.client, material.catalogue, state, config.online, reach, report, config.offline.impressions
            )
            load_returned(connection.client, returned, config.online)
        release.use(config.releases_path, made.version)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return made


def read_material(config: Config, lake: Lake, progress: Progress, exclude: ExcludeEvents | None = None) -> TrainingLogs:
    """What models learn from, without the events chosen by `exclude`; says what was set aside of it."""
    with progress.stage("read the lake"):
        catalogue = build_catalogue(lake, *mentioned_ids(lake))
        logs = read_logs(lake, catalogue, config.offline, exclude=exclude)
        logs_end = int(lake.info().get("logs_end") or logs.events.ingest_time[-1] + 1)
    for reason, count in lake.quarantined.items():
        progress.say(f"set aside: {count} x {reason}")
    if catalogue.n_id_only_posts:
        progress.say(
            f"{catalogue.n_id_only_posts} posts are mentioned in events but described nowhere: known by id only"
        )
    if logs.negatives == "sampled":
        progress.say(
            f"clicks outnumber impressions in these logs: each learns against {config.offline.sampled_negatives} "
            "posts drawn at random (offline.sampled_negatives); probabilities are against those, not click rates"
        )
    return TrainingLogs(catalogue, logs, logs_end, dict(lake.quarantined))


def learn(config: Config, material: TrainingLogs, progress: Progress, checkpoints: Path | None = None) -> TrainedModels:
    """All models, each from its own share of time. Reads and writes nothing but the checkpoints of a stopped run."""
    catalogue, logs, logs_end = material.catalogue, material.logs, material.logs_end
    exposures = logs.exposures
    split = split_by_time(exposures, config.offline.split, config.offline.label_window_s)
    with progress.stage("train towers") as report:
        clicked = np.flatnonzero(split.rows(exposures, "towers") & exposures.click)
        clicks = Clicks(exposures.user_row[clicked], exposures.post_row[clicked], exposures.now[clicked])
        towers = train_towers(catalogue, clicks, config.retrieval.towers, report, checkpoints).with_reference(logs_end)
    with progress.stage("build index") as report:
        post_vectors = towers.post_vectors(catalogue)
        users = some_users(catalogue, logs.events, towers, logs_end, config)
        tuned = tuner.tune(post_vectors, users, config.retrieval.sources.budget, config.retrieval.index, report)
    progress.say(f"index: {tuned.why}")
    with progress.stage("sources"):
        # From all that came before the test share: who is asked about then has clicked lately, not in the towers' days.
        sources = LearnedSources.learn(catalogue, logs, split.bounds("test")[0], config.retrieval)
    with progress.stage("point-in-time features"):
        shares = {share: split.rows(exposures, share) for share in ("rankers", "calibrators", "test")}
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
        "quarantined": material.quarantined,
    }
    return TrainedModels(catalogue, split, towers, post_vectors, tuned, sources, rankers, metrics)


def some_users(catalogue: Catalogue, events: Events, towers: Towers, now: int, config: Config) -> Floats:
    """Vectors of different users, drawn by how much they did, as a request at `now` would know them, and as of the
    later moments for which an index is made (`freshness.MOMENTS`), (S, M, D)."""
    drawn = events.user_row[np.random.default_rng(0).permutation(len(events))]
    _, first = np.unique(drawn, return_index=True)
    chosen = drawn[np.sort(first)[: config.retrieval.index.n_tuning_queries]]
    seen, times = np.full(len(chosen), len(events)), np.full(len(chosen), now, np.int64)
    users = user_batch(catalogue, events, chosen, times, seen, config.online.history_size)
    vectors = towers.user_vectors(catalogue, users)
    return np.stack([freshness.later(vectors, passed) for passed in freshness.MOMENTS])


def _returned(lake: Lake) -> pa.Table:
    """What users were sent, as user_id, post_id, now; where the logs do not say, what they clicked, which is less."""
    returned = lake.read("returned", ["user_id", "post_id", "now"])
    if len(returned):
        return returned
    actions = lake.read("actions", ["user_id", "post_id", "type", "event_time"])
    clicks = actions.filter(pc.equal(actions["type"], "click"))
    return clicks.select(["user_id", "post_id", "event_time"]).rename_columns(returned.column_names)


def _keep_newest(rows: np.ndarray, n: int) -> None:
    """Leave only the last n rows of a mask over exposures in order of time, in place."""
    chosen = np.flatnonzero(rows)
    rows[chosen[: max(len(chosen) - n, 0)]] = False


def _save(learned: TrainedModels, folder: Path) -> None:
    learned.catalogue.save(folder / "catalogue")
    learned.towers.save(folder / "towers")
    learned.tuning.chosen.index.save(folder / "index")
    (folder / "index" / "tuning.json").write_text(json.dumps(learned.tuning.figures(), indent=1))
    np.save(folder / "index" / "post_vectors.npy", learned.post_vectors)
    learned.sources.save(folder / "sources")
    learned.rankers.save(folder / "ranking")
