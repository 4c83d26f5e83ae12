import pyarrow as pa
import pytest

from recsys import release
from recsys.errors import DataError, ReleaseError
from recsys.offline.lake.lake import Lake
from recsys.online.connection.client import connect
from recsys.progress import Progress
from recsys.steps import evaluate_step, simulate_step
from recsys.training import train


def foreign_users() -> pa.Table:
    return pa.table({"user_id": [1], "created_at": pa.array([0], pa.timestamp("us", "UTC"))})


def test_tables_that_no_simulation_wrote_are_never_simulated_over(small_config):
    lake = Lake(small_config.lake_url)
    lake.write("users", foreign_users(), "2026-01-01", "mine")
    with pytest.raises(DataError, match="no simulation wrote"):
        simulate_step(small_config, Progress())
    assert len(lake.read("users")) == 1


def test_a_new_world_leaves_no_current_release_and_no_online_features(small_config):
    with connect(small_config.online, small_config.data_dir) as connection:
        simulate_step(small_config, Progress())
        made = train(small_config, Progress())
        assert connection.client.dbsize() > 0
        simulate_step(small_config, Progress())
        assert connection.client.dbsize() == 0
    assert release.list_releases(small_config.releases_path) == [made.version]
    with pytest.raises(ReleaseError, match="no current release"):
        release.load(small_config.releases_path)


def test_several_seeds_are_several_worlds_beside_the_users_own(small_config, capsys):
    shared = small_config.model_copy(
        update={"offline": small_config.offline.model_copy(update={"url": str(small_config.data_dir / "elsewhere")})}
    )
    report = evaluate_step(shared, Progress(), n_seeds=2)
    said = capsys.readouterr().err
    assert "no logs in" in said
    assert "world with seed 1" in said
    assert not (small_config.data_dir / "elsewhere").exists()
    one, other = report["seeds"]["0"], report["seeds"]["1"]
    assert one["ranking"]["oracle"]["auc"] != other["ranking"]["oracle"]["auc"]
    assert report["ranking"]["oracle"]["auc"] == pytest.approx(
        (one["ranking"]["oracle"]["auc"] + other["ranking"]["oracle"]["auc"]) / 2
    )
    assert report["ranking"]["oracle"].keys() == one["ranking"]["oracle"].keys()
    low, high = report["ranking"]["oracle"]["auc_ci"]
    assert low < report["ranking"]["oracle"]["auc"] < high

    again = evaluate_step(shared, Progress(), n_seeds=2)
    assert "simulat" not in capsys.readouterr().err
    assert again == report


def test_a_world_of_other_settings_is_evaluated_as_it_is_but_not_silently(small_config, capsys):
    simulate_step(small_config, Progress())
    report = evaluate_step(small_config, Progress())
    assert "other world settings" not in capsys.readouterr().err
    other = small_config.model_copy(update={"world": small_config.world.model_copy(update={"seed": 5})})
    assert evaluate_step(other, Progress()) == report
    assert "other world settings" in capsys.readouterr().err


def test_evaluation_trains_where_only_logs_are_there(small_config, capsys):
    simulate_step(small_config, Progress())
    report = evaluate_step(small_config, Progress())
    said = capsys.readouterr().err
    assert "no usable release yet, training first" in said
    assert "simulating" not in said
    assert report["release"] == release.current(small_config.releases_path)
