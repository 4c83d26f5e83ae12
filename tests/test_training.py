import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from recsys import release
from recsys.errors import DataError
from recsys.evaluation.report.material import gather
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import Events
from recsys.online.connection.client import connect
from recsys.online.store import RedisStore
from recsys.online.tombstones import mark_erased
from recsys.progress import Progress
from recsys.retrieval.towers.freshness import INDEX_AGES, later
from recsys.steps import simulate_step
from recsys.training import read_training_logs, train, tuning_users


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_training_without_the_truth_gives_the_same_release_byte_for_byte(small_config):
    with connect(small_config.online, small_config.data_dir):
        simulate_step(small_config, Progress())
        first = train(small_config, Progress())
        before = contents(first.path)
        shutil.rmtree(small_config.world_path)
        shutil.rmtree(first.path)
        again = train(small_config, Progress())
    assert again.version == first.version
    assert contents(again.path) == before
    assert release.current(small_config.releases_path) == again.version
    assert not small_config.world_path.exists()


def test_a_release_says_what_it_learned_from_and_how_good_it_is(tiny_world):
    manifest = release.load(tiny_world.releases_path).manifest
    assert manifest.world
    assert manifest.logs_end == Lake(tiny_world.lake_url).info()["logs_end"]
    rows = manifest.metrics["rows"]
    assert rows["rankers"] > rows["calibrators"] > 0
    assert rows["towers"] > 0
    assert set(manifest.metrics["ranking"]) == {"popularity", "logistic", "lightgbm"}
    assert manifest.metrics["ranking"]["lightgbm"]["auc"] > 0.6
    assert {name.split("/")[0] for name in manifest.files} == {"catalogue", "towers", "index", "sources", "ranking"}
    tuning = json.loads((release.load(tiny_world.releases_path).path / "index" / "tuning.json").read_text())
    assert manifest.metrics["index"]["name"] == tuning["chosen"] == "exact"
    assert "posts are fewer than" in tuning["why"]


def test_an_index_is_tuned_with_the_same_users_at_every_moment(tiny_world):
    material = gather(tiny_world)
    catalogue, events, towers = material.catalogue, material.logs.events, material.towers
    users = tuning_users(catalogue, events, towers, material.logs_end, tiny_world)
    assert users.shape[0] == len(INDEX_AGES)
    assert 50 < users.shape[1] <= tiny_world.retrieval.index.n_tuning_queries
    assert len(np.unique(users[0], axis=0)) > 0.9 * users.shape[1]
    for passed, vectors in zip(INDEX_AGES, users, strict=True):
        np.testing.assert_allclose(vectors, later(users[0], passed), rtol=1e-6)
    none = Events(*(getattr(events, column.name)[:0] for column in fields(events)))
    nobody = tuning_users(catalogue, none, towers, material.logs_end, tiny_world)
    assert nobody.shape == (len(INDEX_AGES), 0, towers.embedding_size)


def test_whoever_is_being_erased_is_neither_learned_from_nor_loaded(small_config):
    with connect(small_config.online, small_config.data_dir) as connection:
        simulate_step(small_config, Progress())
        lake = Lake(small_config.lake_url)
        clicks = lake.read("actions", ["user_id", "type"]).filter(pc.field("type") == "click")
        user = pc.mode(clicks["user_id"])[0]["mode"].as_py()
        mark_erased(connection.client, user, 1 << 60)  # and then the part in the lake could not be done
        made = train(small_config, Progress())
        catalogue = Catalogue.load(made.path / "catalogue")
        store = RedisStore(connection.client, catalogue, small_config.online)
        read = store.read_user(user, -1, made.manifest.logs_end)
        counts = store.read_counts(user, np.arange(50, dtype=np.int32), made.manifest.logs_end).counts
    assert len(read.history) == len(read.returned) == 0
    assert not any(counts[name].any() for name in ("user", "user_topic", "user_author"))
    material = read_training_logs(small_config, lake, Progress(), lambda user_id, time: user_id == user)
    row = int(material.catalogue.user_rows([user])[0])
    assert row >= 0
    assert row not in material.logs.events.user_row
    assert row not in material.logs.exposures.user_row


def test_an_empty_lake_is_refused_with_the_command_that_fills_it(small_config):
    with pytest.raises(DataError, match="recsys simulate"):
        train(small_config, Progress())
    assert release.list_releases(small_config.releases_path) == []


def test_logs_that_were_cut_off_are_refused(small_config):
    Lake(small_config.lake_url).begin()
    with pytest.raises(DataError, match=r"interrupted; run `recsys simulate` again"):
        train(small_config, Progress())


def test_training_cannot_reach_the_world():
    code = "import sys, recsys.training; sys.exit(any(name.startswith('recsys.world') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
