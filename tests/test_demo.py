from pathlib import Path

import pyarrow as pa
import pytest

from recsys import release
from recsys.demo import clear_data
from recsys.errors import DataError, DependencyError
from recsys.offline.lake.lake import Lake
from recsys.online.connection.client import connect
from recsys.progress import Progress
from recsys.steps import simulate_step


def test_everything_of_an_earlier_demo_goes_and_nothing_else(small_config):
    simulate_step(small_config, Progress())
    with connect(small_config.online, small_config.data_dir) as connection:
        connection.client.set("recsys:old", 1)
    with release.staging(small_config.releases_path) as folder:
        (folder / "part").write_text("x")
        made = release.publish(folder, config={}, metrics={}, logs_end=1)
    release.use(small_config.releases_path, made.version)
    mine = [
        small_config.data_dir / "notes.txt",
        small_config.releases_path / "notes.txt",
        small_config.data_dir / "world" / "map",
    ]
    for path in mine:
        path.write_text("mine")
    clear_data(small_config)
    assert all(path.read_text() == "mine" for path in mine)
    assert release.list_releases(small_config.releases_path) == []
    assert release.current(small_config.releases_path) is None
    assert Lake(small_config.lake_url).files("impressions") == []
    with connect(small_config.online, small_config.data_dir) as connection:
        assert connection.client.dbsize() == 0


def test_logs_of_others_are_refused(small_config):
    lake = Lake(small_config.lake_url)
    users = pa.table({"user_id": [1], "created_at": pa.array([0], pa.timestamp("us", "UTC"))})
    lake.write("users", users, "2026-01-01", "mine")
    with pytest.raises(DataError, match="no simulation wrote"):
        clear_data(small_config)
    assert len(lake.read("users")) == 1


def test_a_lake_whose_note_is_damaged_is_not_emptied(small_config):
    simulate_step(small_config, Progress())
    (Path(small_config.lake_url) / "_lake.json").write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        clear_data(small_config)
    assert Lake(small_config.lake_url).files("impressions")


def test_a_folder_in_use_is_refused(small_config):
    with connect(small_config.online, small_config.data_dir) as connection:
        connection.client.ping()
        with pytest.raises(DependencyError, match="another program uses"):
            clear_data(small_config)


def test_an_empty_folder_is_fine(small_config):
    clear_data(small_config)
    assert not (small_config.data_dir / "redis").exists()
