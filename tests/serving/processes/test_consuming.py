"""Events posted to the server reach both stores."""

import threading
import time

import pytest

from recsys import release
from recsys.config import Config, OnlineConfig
from recsys.features.spec import POST
from recsys.offline.lake.lake import Lake
from recsys.online.connection.client import connect
from recsys.online.store import RedisStore
from recsys.serving.processes.consuming import consume
from recsys.types import HOUR

from ..small_service import NewestFirst, load_nothing, make_service, served


@pytest.fixture
def config(tmp_path, catalogue):
    config = Config(data_dir=tmp_path)
    with release.staging(config.releases_path) as folder:
        catalogue.save(folder / "catalogue")
        made = release.publish(folder, config={}, metrics={}, logs_end=0)
    release.use(config.releases_path, made.version)
    return config


def test_a_click_posted_over_http_is_counted_online_and_stored_in_the_lake_with_its_request(config, catalogue):
    stop = threading.Event()
    with connect(config.online, config.data_dir) as connection:
        load_nothing(connection.client, catalogue)
        store = RedisStore(connection.client, catalogue, OnlineConfig())
        consumer = threading.Thread(target=consume, args=(config, stop))
        consumer.start()
        try:
            with served(make_service(NewestFirst(catalogue, store), connection.client)) as http:
                page = http.get("/v1/feed", params={"user_id": "1", "limit": 2}).json()
                post_id = page["items"][1]["post_id"]
                event = {"event_id": "c", "request_id": page["request_id"], "user_id": "1", "post_id": post_id}
                moment = {"type": "click", "event_time": time.time_ns() // 1000}
                assert http.post("/v1/events", json=[event | moment, event | moment]).json()["accepted"] == 2
                row = catalogue.post_rows([int(post_id)])
                deadline = time.monotonic() + 20
                while not len(store.read_user(1, 0, 0).history) and time.monotonic() < deadline:
                    time.sleep(0.02)
        finally:
            stop.set()
            consumer.join()
        assert store.read_user(1, 0, 0).history.tolist() == row.tolist()
        counts = store.read_counts(1, row, moment["event_time"])
        click, hour = POST.at("click", HOUR)
        assert counts.counts["post"][0, click, hour] == pytest.approx(1, abs=0.01)
        assert counts.watermark
    lake = Lake(config.lake_url)
    assert lake.read("actions")["post_id"].to_pylist() == [int(post_id)]
    assert lake.read("returned")["post_id"].to_pylist() == [int(item["post_id"]) for item in page["items"]]
    assert lake.read("requests")["release"].to_pylist() == [page["release"]]
