import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys import release
from recsys.errors import DataError
from recsys.offline.lake import Lake
from recsys.online.embedded import connect
from recsys.progress import Progress
from recsys.steps import simulate_step
from recsys.training import train


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
    assert {name.split("/")[0] for name in manifest.files} == {"catalogue", "towers", "index", "ranking"}


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
