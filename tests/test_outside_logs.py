"""From logs that somebody brought to a release, a report and a feed, without any world."""

import json

import numpy as np
import pyarrow as pa
import pytest
from outside_logs import START, clicks_only, news, settings

from recsys import release
from recsys.demo import clear_data
from recsys.errors import ConfigError, DataError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.online.connection.client import connect
from recsys.progress import Progress
from recsys.serving.processes.loading import open_service
from recsys.steps import evaluate_step, simulate_step
from recsys.training import train
from recsys.types import DAY, HOUR

LOGS = {"news": news, "clicks": clicks_only}
TRUTHS = {"true_clicks": None, "true_clicks_ci": None}


@pytest.fixture(scope="module", params=LOGS)
def brought(request, data_folder):
    """A trained data folder of either kind as (kind, settings)."""
    config = settings(data_folder / request.param)
    LOGS[request.param](config.data_dir / "lake")
    with connect(config.online, config.data_dir):
        train(config, Progress())
        yield request.param, config


def feed(config, user, limit=20):
    service = open_service(config)
    try:
        return service.feed(user, limit, "")
    finally:
        service.close()


def test_the_report_has_figures_and_no_truth(brought):
    kind, config = brought
    report = evaluate_step(config, Progress())
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["negatives"] == {"news": "shown", "clicks": "sampled"}[kind]
    assert set(report["ranking"]["oracle"].values()) == {None}
    assert report["slate"] == {
        **dict.fromkeys(("random", "popularity", "full", "oracle"), TRUTHS),
        "share_of_oracle": None, "share_of_oracle_ci": None, "requests": 0,
    }  # fmt: skip
    assert report["ranking"]["lightgbm"]["auc"] > 0.5
    assert report["retrieval"]["policy"] is None
    assert report["retrieval"]["clicks"] > 0
    assert not config.world_path.exists()


def test_probabilities_are_finite_and_inside_0_and_1(brought):
    _, config = brought
    for item in feed(config, "1" if brought[0] == "clicks" else "U1")["items"]:
        assert 0 < item["probabilities"]["click"] < 1
        assert np.isfinite(item["score"])


def test_a_feed_speaks_the_names_that_were_brought(brought):
    kind, config = brought
    answer = feed(config, {"news": "U3", "clicks": "3"}[kind])
    assert len(answer["items"]) == 20
    known = {f"N{i}" for i in range(200)} if kind == "news" else {str(i) for i in range(1000, 1150)}
    assert {item["post_id"] for item in answer["items"]} <= known
    assert {item["author_id"] for item in answer["items"]} == {None}
    assert answer["user_id"] == {"news": "U3", "clicks": "3"}[kind]
    if kind == "news":
        catalogue = Catalogue.load(release.load(config.releases_path).path / "catalogue")
        number = int(catalogue.user_id[catalogue.user_name.to_pylist().index("U3")])
        assert feed(config, str(number))["user_id"] == "U3"


def test_what_a_user_clicked_is_not_offered_again(brought):
    kind, config = brought
    catalogue = Catalogue.load(release.load(config.releases_path).path / "catalogue")
    actions = Lake(config.lake_url).read("actions", ["user_id", "post_id"])
    user = int(catalogue.user_id[4])
    clicked = set(actions["post_id"].to_numpy()[actions["user_id"].to_numpy() == user].tolist())
    names = {"news": catalogue.post_name.to_pylist(), "clicks": [str(number) for number in catalogue.post_id]}[kind]
    assert clicked
    offered = {item["post_id"] for item in feed(config, str(user))["items"]}
    assert not offered & {names[row] for row in catalogue.post_rows(list(clicked))}


def test_old_logs_are_tried_at_their_own_time_or_at_todays(brought):
    _, config = brought
    logs_end = release.load(config.releases_path).manifest.logs_end
    assert START < logs_end < START + 15 * DAY
    service = open_service(config)
    assert service._clock.now() > logs_end + 365 * DAY
    service.close()
    then = config.model_copy(update={"serving": config.serving.model_copy(update={"clock": "logs"})})
    service = open_service(then)
    assert logs_end <= service._clock.now() < logs_end + HOUR
    assert service._wall is not None
    service.close()


def test_several_seeds_make_no_sense_beside_brought_logs(brought):
    _, config = brought
    with pytest.raises(ConfigError, match="--seeds must be 1 for logs that were not simulated, got 3"):
        evaluate_step(config, Progress(), n_seeds=3)
    assert not (config.data_dir / "seeds").exists()


@pytest.mark.parametrize("over", [lambda config: simulate_step(config, Progress()), clear_data])
def test_no_world_is_written_over_brought_logs(brought, over):
    _, config = brought
    with pytest.raises(DataError, match="no simulation wrote; choose an empty folder with --set data_dir=FOLDER"):
        over(config)
    assert len(Lake(config.lake_url).read("actions")) > 0


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_no_world_is_written_over_an_import_that_was_interrupted(tmp_path, n_seeds):
    config = settings(tmp_path)
    lake = clicks_only(config.data_dir / "lake", n_clicks=10)
    n_actions = len(lake.read("actions"))
    lake.begin({"origin": "import"})
    with pytest.raises((ConfigError, DataError), match=r"run `recsys import` again|--seeds must be 1"):
        evaluate_step(config, Progress(), n_seeds)
    with pytest.raises(DataError, match="no simulation wrote"):
        simulate_step(config, Progress())
    assert len(lake.read("actions")) == n_actions


def test_posts_without_any_event_are_nothing_to_learn_from_and_no_reason_for_a_world(tmp_path):
    config = settings(tmp_path)
    posts = news(tmp_path / "other").read("posts")
    Lake(config.lake_url).write("posts", posts, "2019-11-09", "mine")
    with pytest.raises(DataError, match="no impressions and no clicks"):
        evaluate_step(config, Progress())


def test_training_says_that_negatives_are_drawn(data_folder, capsys):
    config = settings(data_folder / "said")
    clicks_only(config.data_dir / "lake", n_clicks=600)
    made = train(config, Progress())
    assert "each click is trained against 4 random posts (offline.sampled_negatives)" in capsys.readouterr().err
    assert made.manifest.metrics["negatives"] == "sampled"
    assert made.manifest.metrics["id_only_posts"] > 0


def test_the_first_impression_that_is_served_does_not_change_what_a_release_is_judged_by(data_folder):
    config = settings(data_folder / "grown")
    lake = clicks_only(config.data_dir / "lake", n_clicks=600)
    with connect(config.online, config.data_dir):
        train(config, Progress())
        before = evaluate_step(config, Progress())
        row = {name: value.slice(0, 1) for name, value in zip(
            ("event_id", "request_id", "user_id", "post_id", "event_time", "ingest_time"),
            lake.read("actions", ["event_id", "request_id", "user_id", "post_id", "event_time", "ingest_time"]).columns,
            strict=True,
        )}  # fmt: skip
        lake.write("impressions", pa.table(row), "2019-12-01", "stream")
        assert evaluate_step(config, Progress())["ranking"] == before["ranking"]
