"""Vectors logged by a real server equal those rebuilt from Parquet; injected faults are named."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from typer.testing import CliRunner

from recsys import release
from recsys.cli import app
from recsys.config import Config
from recsys.errors import DataError
from recsys.evaluation.skew import skew, verify
from recsys.evaluation.skew.skew import Served, catalogue_for, compare, differences, rebuilt, served
from recsys.evaluation.skew.traffic import Sent
from recsys.features import assemble, point_in_time
from recsys.features.spec import AUTHOR, NAMES, RATES, TOPIC, WEEK
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online.connection.client import connect
from recsys.progress import Progress
from recsys.ranking import examples
from recsys.serving.processes.server import running_server
from recsys.types import HOUR

N_REQUESTS = 40


@dataclass
class Logged:
    """The vectors a server logged, read once for all tests."""

    config: Config
    loaded: release.Release
    catalogue: Catalogue
    material: Served

    def report(self):
        return compare(self.material, rebuilt(self.material, self.config, self.loaded, self.catalogue))


@pytest.fixture(scope="module")
def logged(tiny_world):
    loaded = release.load(tiny_world.releases_path)
    catalogue = Catalogue.load(loaded.path / "catalogue")
    lake = Lake(tiny_world.lake_url)
    with connect(tiny_world.online, tiny_world.data_dir) as connection, running_server(tiny_world) as url:
        users = verify._users(catalogue, N_REQUESTS, 0)
        verify.interleave(connection.client, lake, url, users, N_REQUESTS, tiny_world, lambda done, total: None)
    catalogue = catalogue_for(loaded, lake)
    return Logged(tiny_world, loaded, catalogue, served(lake, catalogue, tiny_world, loaded.version, N_REQUESTS))


def test_every_served_value_is_rebuilt_exactly(logged):
    report = logged.report()
    assert report["mismatches"] == 0, report["features"]
    assert report["features"] == {}
    assert report["requests"] == N_REQUESTS
    assert report["values"] == len(logged.material.exposures) * len(NAMES) > 0
    assert 0.99 < report["bit_equal_share"] <= 1
    assert report["max_relative_difference"] <= report["tolerance"] == skew.TOLERANCE


def test_the_traffic_has_many_moments_and_unknown_users(logged):
    exposures = logged.material.exposures
    assert len(np.unique(exposures.seen)) > N_REQUESTS / 4, "events were applied between feeds"
    assert (exposures.history_seen <= exposures.seen).all()
    known = Catalogue.load(logged.loaded.path / "catalogue")
    assert (known.user_rows(logged.catalogue.user_id[exposures.user_row]) < 0).any()


def options(config):
    return ["--config", "configs/tiny.yaml", "--set", f"data_dir={config.data_dir}"]


def verified(config):
    """Exit code of `features verify --logged`, and the features it names."""
    words = ["features", "verify", "--logged", "--requests", str(N_REQUESTS), "--json", *options(config)]
    result = CliRunner().invoke(app, words)
    return result.exit_code, set(json.loads(result.stdout.splitlines()[-1])["features"])


def test_the_command_exits_with_0_if_nothing_differs(logged):
    assert verified(logged.config) == (0, set())


def test_the_command_names_a_feature_that_sees_the_future_and_exits_with_1(logged, monkeypatch):
    plain = point_in_time.as_of

    def leaky(entity, events, queries, n_threads):
        counts = plain(entity, events, queries, n_threads)
        if entity is AUTHOR:
            later = plain(entity, events, queries._replace(order=queries.order + 200), n_threads)
            click, week = entity.at("click", WEEK)
            counts[:, click, week] = later[:, click, week]
        return counts

    monkeypatch.setattr(point_in_time, "as_of", leaky)
    assert verified(logged.config) == (1, {"author_clicks_7d", "author_click_rate_7d"})


@pytest.mark.parametrize("by", [1, -1])
def test_the_command_names_a_feature_that_sees_one_event_too_many_or_too_few(logged, monkeypatch, by):
    plain = point_in_time.as_of

    def off_by_one(entity, events, queries, n_threads):
        # Only for topics: there are so few that the event at the border is about a topic of the feed.
        order = queries.order + by * (entity is TOPIC)
        return plain(entity, events, queries._replace(order=order), n_threads)

    monkeypatch.setattr(point_in_time, "as_of", off_by_one)
    assert verified(logged.config) == (1, {"topic_click_rate_1h", "topic_click_rate_1d", "topic_click_rate_7d"})


def test_a_history_that_lags_behind_is_found(logged, monkeypatch):
    plain = examples.histories_at

    def late(clicks, order, *rest):
        return plain(clicks, order + 2000, *rest)

    monkeypatch.setattr(examples, "histories_at", late)
    assert {"history_language_share", "history_media_share", "tower_score"} & set(logged.report()["features"])


def change_default(monkeypatch, action):
    """Training assumes a prior rate that is a hundredth higher than serving's."""
    changed = [1.01 if of == action else 1.0 for _, of, _ in RATES]
    monkeypatch.setattr(assemble, "_PRIOR", assemble._PRIOR * changed)


@pytest.mark.parametrize("action", ["hide", "like"])
def test_the_command_names_a_feature_with_a_changed_default(logged, monkeypatch, action):
    change_default(monkeypatch, action)
    assert verified(logged.config) == (1, {name for name in NAMES if f"_{action}_rate" in name})


def test_a_clock_that_is_off_by_an_hour_is_found(logged):
    exposures = replace(logged.material.exposures, now=logged.material.exposures.now + HOUR)
    report = replace(logged, material=replace(logged.material, exposures=exposures)).report()
    assert {"hour_of_day", "post_age", "post_impressions_1h", "tower_score"} <= set(report["features"])


def test_the_report_shows_the_worst_value_of_a_feature(logged):
    other = logged.material.features.copy()
    other[3, 7] += 10
    other[5, 7] += 99
    report = compare(logged.material, other)
    assert report["mismatches"] == 2
    (name,) = report["features"]
    assert name == NAMES[7]
    worst = report["features"][name]
    assert worst["request_id"] == str(logged.material.exposures.request_id[5])
    assert worst["rebuilt"] - worst["served"] == pytest.approx(99)


def test_missing_equals_only_missing():
    a = np.array([[np.nan, np.nan, 1.0, 1000.0, 1e-9]], np.float32)
    b = np.array([[np.nan, 1.0, np.nan, 1000.1, 2e-9]], np.float32)
    difference = differences(a, b)[0]
    assert difference[0] == 0
    assert np.isinf(difference[1:3]).all()
    assert difference[3] == pytest.approx(1e-4, rel=1e-2)
    assert difference[4] == pytest.approx(1e-9)


def test_only_requests_logged_since_a_position_are_taken(logged):
    lake = Lake(logged.config.lake_url)
    positions = np.sort(lake.read("returned", ["stream_position"])["stream_position"].drop_null().unique().to_numpy())
    middle = f"{positions[-10] >> 20}-{positions[-10] & ((1 << 20) - 1)}"
    newest = served(lake, logged.catalogue, logged.config, logged.loaded.version, N_REQUESTS, middle)
    assert newest.n_requests == 9
    with pytest.raises(DataError, match="has no request"):
        served(lake, logged.catalogue, logged.config, logged.loaded.version, 5, "8000000000000-0")


def test_traffic_uses_enough_users_that_feeds_do_not_run_dry(logged):
    small = logged.catalogue.with_users([])
    users = verify._users(small, 1000, 0)
    assert len(users) > 2 * 1000 * verify.FEED_SIZE // small.n_posts - 1 > verify._USERS_PER_REQUEST * 10


def test_a_release_that_served_nothing_is_refused(logged):
    with pytest.raises(DataError, match="no request that release r-none answered"):
        served(Lake(logged.config.lake_url), logged.catalogue, logged.config, "r-none", 5)


def test_the_command_starts_its_own_server_and_leaves_the_data_folder_unchanged(logged):
    before = sorted(path for path in logged.config.data_dir.rglob("*.parquet"))
    result = CliRunner().invoke(app, ["features", "verify", "--requests", "20", "--json", *options(logged.config)])
    assert result.exit_code == 0, result.output
    last = result.stdout.splitlines()[-1]
    assert '"mismatches":0' in last
    assert '"requests":20' in last
    assert sorted(path for path in logged.config.data_dir.rglob("*.parquet")) == before


def test_lost_traffic_is_an_error(logged, monkeypatch):
    monkeypatch.setattr(verify, "interleave", lambda *_: Sent(0, 0))
    monkeypatch.setattr(verify, "_report", lambda *_: {"requests": 0})
    with pytest.raises(verify.DependencyError, match="look at the log of the server"):
        verify.verify(logged.config, 3, Progress())
