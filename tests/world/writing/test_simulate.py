"""Simulated logs are reproducible, complete and under the right dates."""

import filecmp
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import WorldConfig
from recsys.errors import ConfigError, DataError
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.types import DAY, SECOND
from recsys.world.population.population import start_of
from recsys.world.world import World
from recsys.world.writing.simulate import simulate

from ..conftest import SMALL

FEW = {"n_impressions": 6000}

CHANGES = [
    {"kind": "covariate_shift", "day": 1},
    {"kind": "concept_shift", "day": 2, "topic": "chess"},
    {"kind": "broken_feature", "day": 2, "field": "posts.media"},
    {"kind": "broken_feature", "day": 3, "field": "actions.value", "how": "scale"},
]


def files_below(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def binomial_band(n, p, sigmas=4):
    return n * p + np.array([-1, 1]) * sigmas * np.sqrt(n * p * (1 - p))


def run(folder, n_threads, **settings):
    """Simulate a small world that other tests do not share."""
    lake = Lake(str(folder / "lake"))
    config = WorldConfig.model_validate(SMALL | settings)
    return simulate(config, lake, folder / "world" / "truth", n_threads, lambda done, total: None)


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "recsys.world.writing.simulate._BLOCK", 16
    )  # several blocks for the threads to share in every chunk
    monkeypatch.setattr("recsys.world.writing.simulate._FILE_ROWS", 3000)
    written = [run(tmp_path / str(n), n, n_impressions=20_000, changes=CHANGES) for n in (1, 2, 3)]
    names = files_below(tmp_path / "1")
    assert len([name for name in names if "truth" in name.parts]) >= 2 * SMALL["n_days"] + 2
    for n in (2, 3):
        other = tmp_path / str(n)
        assert names == files_below(other)
        different = filecmp.cmpfiles(tmp_path / "1", other, names, shallow=False)
        assert [sorted(map(str, each)) for each in different[1:]] == [[], []]
        assert written[n - 1] == written[0]


def test_a_day_of_many_impressions_is_split_into_files_with_the_same_rows(tmp_path, monkeypatch, simulated):
    whole = simulated(**FEW)
    monkeypatch.setattr("recsys.world.writing.simulate._FILE_ROWS", 700)
    run(tmp_path, 2, **FEW)
    for table in ("requests", "returned", "impressions", "actions"):
        dates = [path.split("date=")[1] for path in Lake(str(tmp_path / "lake")).files(table)]
        assert {f"2026-01-0{day}/world-{part}.parquet" for day in (5, 6, 7, 8) for part in (0, 1)} <= set(dates)
        assert Lake(str(tmp_path / "lake")).read(table).equals(whole.lake.read(table)), table
    truths = [pq.read_table(folder / "world" / "truth" / "impressions") for folder in (tmp_path, whole.folder)]
    assert truths[0].equals(truths[1])


def test_another_seed_gives_another_world(simulated):
    one, other = simulated(**FEW), simulated(seed=1, **FEW)
    for table in ("users", "posts", "follows", "requests", "impressions", "actions", "truth/impressions"):
        assert not one.table(table).equals(other.table(table)), table


def test_the_lake_has_exactly_the_tables_of_the_schema(small):
    assert sorted(path.name for path in small.folder.iterdir()) == ["lake", "world"]
    tables = set(TABLES) - {"ids"}  # the names of ids come with outside logs only
    assert sorted(os.listdir(small.folder / "lake")) == sorted([*tables, "_lake.json"])
    assert sorted(os.listdir(small.folder / "world")) == ["truth", "world.json"]
    truth = sorted(os.listdir(small.folder / "world" / "truth"))
    assert truth == ["impressions", "posts.parquet", "users.parquet"]
    lake = small.lake
    assert all(len(lake.read(table)) for table in tables)
    assert not lake.quarantined


def test_the_reported_sizes_are_those_of_the_logs(small, shown):
    assert len(shown) == small.written.impressions >= small.config.n_impressions
    assert shown.click.sum() == small.written.clicks
    assert len(small.table("requests")) == small.written.requests
    assert small.lake.info() == {"complete": True, "origin": "world", "logs_end": small.written.logs_end}
    assert small.written.logs_end == start_of(small.config) + 4 * DAY


def test_the_click_rate_is_realistic(small):
    assert 0.03 < small.written.clicks / small.written.impressions < 0.10


def test_files_lie_under_the_date_on_which_a_session_began(small):
    dates = sorted(os.listdir(small.folder / "lake" / "requests"))
    assert dates == [f"date=2026-01-0{day}" for day in (5, 6, 7, 8)]
    for day, path in enumerate(small.lake.files("requests")):
        times = pq.read_table(path, columns=["now"], partitioning=None)["now"].cast(pa.int64()).to_numpy()
        times = times - start_of(small.config)
        assert times.min() >= day * DAY
        assert times.max() < (day + 1) * DAY + 3600 * SECOND
    for table in ("returned", "impressions", "actions"):
        assert [path.split(table)[1] for path in small.lake.files(table)] == [
            f"/date={date[5:]}/world-0.parquet" for date in dates
        ]


def test_users_make_no_request_before_they_join(small):
    joined = small.table("users").set_index("user_id").created_at
    requests = small.table("requests")
    assert (joined[requests.user_id].to_numpy() <= requests.now).all()
    assert (joined > start_of(small.config)).mean() == pytest.approx(small.config.joining_share)


def test_policies_have_their_share_of_requests(small):
    requests, policy = small.table("requests"), small.config.policy
    for name in ("random", "popularity", "personalised"):
        low, high = binomial_band(len(requests), getattr(policy, name))
        assert low < (requests.policy == name).sum() < high, name


def test_an_interrupted_run_leaves_an_incomplete_lake_without_a_world_and_can_run_again(tmp_path):
    config = WorldConfig(n_users=50, n_posts=200, n_impressions=1000, n_days=4, n_authors=20)
    lake, truth = Lake(str(tmp_path / "lake")), tmp_path / "world" / "truth"

    def stop(done, total):
        raise KeyboardInterrupt

    def check_progress(done, total):
        assert 0 < done <= total == 1000

    simulate(config, lake, truth, 1, check_progress)
    with pytest.raises(KeyboardInterrupt):
        simulate(config, lake, truth, 1, stop)
    with pytest.raises(DataError, match="incomplete"):
        lake.info()
    with pytest.raises(DataError, match="run `recsys simulate`"):
        World.open(tmp_path / "world")
    simulate(config, lake, truth, 1, check_progress)
    assert lake.info()["origin"] == "world"


def test_a_start_that_is_not_a_date_is_refused():
    with pytest.raises(ConfigError, match="start must be a date"):
        start_of(WorldConfig().model_copy(update={"start": "monday"}))
