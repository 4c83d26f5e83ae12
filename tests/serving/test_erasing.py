"""DELETE /v1/users/{id} and `recsys erase` remove a user from both stores, or fail with one sentence."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import fs
from rich.console import Console

from recsys import release
from recsys.cli import main
from recsys.cli.erasing import show_receipt
from recsys.config import load
from recsys.errors import DependencyError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.lake import erasure as lake_erasure
from recsys.offline.lake.lake import Lake
from recsys.online import keys
from recsys.online.clock import Clock
from recsys.online.connection.client import connect
from recsys.online.consumer.loop import LakeSink, OnlineSink
from recsys.online.store import RedisStore
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Event, decode, encode_event
from recsys.online.stream.retention import hold
from recsys.online.tombstones import read_erased
from recsys.progress import Progress
from recsys.serving import erasing
from recsys.serving.erasing import Receipt, erase
from recsys.serving.processes.clock_choice import service_clock
from recsys.serving.processes.server import running_server
from recsys.steps import simulate_step
from recsys.training import train

from .small_service import WORLD_END, make_service, served

TABLES = ("users", "follows", "blocks", "requests", "returned", "impressions", "actions", "ids")
ANN = to_int64("Ann")


@pytest.fixture
def config(tmp_path):
    return load("configs/tiny.yaml", [f"data_dir={tmp_path}"])


def fill(config):
    """A lake in which Ann and user 2 clicked and follow author 900; Ann also wrote a post."""
    lake = Lake(config.lake_url)
    day = datetime(2026, 1, 18, tzinfo=UTC)
    clicks = {
        "event_id": [1, 2, 3], "request_id": [1, 2, 3], "user_id": [ANN, 2, ANN], "post_id": [5000, 5000, 5001],
        "type": ["click"] * 3, "event_time": [day] * 3, "ingest_time": [day] * 3,
    }  # fmt: skip
    lake.write("actions", pa.table(clicks), "2026-01-18", "clicks")
    pairs = {"user_id": [ANN, 2], "author_id": [900, 900], "created_at": [day, day]}
    lake.write("follows", pa.table(pairs), "2026-01-18", "follows")
    post = {"post_id": [1], "author_id": [ANN], "created_at": [day], "visible": [True]}
    lake.write("posts", pa.table(post), "2026-01-18", "posts")
    lake.write("ids", pa.table({"kind": ["user"], "id": [ANN], "name": ["Ann"]}), "2026-01-18", "ids")
    return lake


@pytest.fixture
def lake(config):
    return fill(config)


@pytest.fixture
def service(recommender, client, config, lake):
    return make_service(recommender, client, eraser=lambda user: erase(config, client, Clock(), user).model_dump())


def refusal(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    return answer.json()["error"]


def click(n, user, when=None):
    return {"event_id": f"e{n}", "request_id": "5", "user_id": user, "post_id": "5003", "type": "click",
            "event_time": when or time.time_ns() // 1000}  # fmt: skip


def follow_stream(client, catalogue, config, lake):
    """Both sinks, until the stream is empty."""
    stream = RedisStream(client, config.online)
    online = OnlineSink(client, stream, catalogue, config.online, "explicit")
    while online.step():
        pass
    while LakeSink(client, stream, lake).step():
        pass


def history(recommender, user):
    return recommender.store.read_user(user, 0, WORLD_END).history.tolist()


def test_the_receipt_says_what_was_removed_where(http, client, catalogue, config, lake):
    http.get("/v1/feed", params={"user_id": "Ann", "limit": 5})
    http.post("/v1/events", json=[click(1, "Ann"), click(2, "2")])
    online = OnlineSink(client, RedisStream(client, config.online), catalogue, config.online, "explicit")
    while online.step():
        pass
    client.xadd(keys.DEAD_LETTERS, {"kind": b"e", "payload": (ANN).to_bytes(8, "little", signed=True) * 3})
    answer = http.delete("/v1/users/Ann")
    assert answer.status_code == 200, answer.text
    receipt = answer.json()
    assert Receipt.model_validate(receipt).user_id == "Ann"
    assert abs(receipt["erased_at"] - time.time_ns() // 1000) < 60_000_000
    assert receipt["online"] == {"rows": 1, "returned": 5, "stream_records": 2, "dead_letters": 1}
    nothing = {"rows": 0, "files": 0}
    assert receipt["offline"] == {
        **dict.fromkeys(TABLES, nothing), "actions": {"rows": 2, "files": 1}, "follows": {"rows": 1, "files": 1},
        "ids": {"rows": 1, "files": 1},
    }  # fmt: skip
    assert receipt["quarantine"] == {**nothing, "not_searched": []}
    assert (receipt["authored_posts"], receipt["releases"]) == (1, [])
    assert 0 < receipt["elapsed_s"] < 60
    assert lake.read("actions")["user_id"].unique().to_pylist() == [2]


def test_unapplied_events_on_the_stream_reach_neither_store(http, client, catalogue, config, lake, recommender):
    http.post("/v1/events", json=[click(n, user) for n, user in enumerate(["Ann", "2", "Ann"])])
    http.delete("/v1/users/Ann")
    follow_stream(client, catalogue, config, lake)
    assert history(recommender, ANN) == []
    assert len(history(recommender, 2)) == 1
    assert lake.read("actions")["user_id"].to_pylist() == [2, 2]


def test_old_events_posted_again_are_ignored_and_later_events_count(http, client, catalogue, config, lake, recommender):
    old = [click(n, "Ann") for n in range(3)]
    http.post("/v1/events", json=old)
    http.delete("/v1/users/Ann")
    client.delete(*client.keys("recsys:event:*"))  # as after the window in which repeats are recognised
    http.post("/v1/events", json=[*old, click(9, "Ann", time.time_ns() // 1000 + 1000)])
    follow_stream(client, catalogue, config, lake)
    assert len(history(recommender, ANN)) == 1
    assert lake.read("actions").filter(pc.equal(lake.read("actions")["user_id"], ANN)).num_rows == 1


@pytest.mark.parametrize("user", ["77", "-5", "somebody/else", "ü ü", "%2F", "9223372036854775807"])
def test_an_unknown_user_gets_a_receipt_of_zeros_under_the_given_id(http, user):
    receipt = http.delete("/v1/users/" + "".join(f"%{byte:02X}" for byte in user.encode())).json()
    assert receipt["user_id"] == user
    assert sum(receipt["online"].values()) == 0
    assert all(removed == {"rows": 0, "files": 0} for removed in receipt["offline"].values())


def test_an_invalid_id_is_refused_and_no_user_is_erased(http, client):
    assert "user_id is not an id" in refusal(http.delete("/v1/users/"), 422)
    assert "got 201" in refusal(http.delete("/v1/users/" + "x" * 201), 422)
    assert read_erased(client).version == 0


def test_erasing_needs_the_key_as_other_writes_do(recommender, client):
    erased = []
    service = make_service(recommender, client, api_key="secret", eraser=lambda user: erased.append(user) or {})
    with served(service) as http:
        assert "X-API-Key" in refusal(http.delete("/v1/users/1"), 401)
        assert refusal(http.delete("/v1/users/1", headers={"X-API-Key": "wrong"}), 401)
        assert erased == []
        assert http.delete("/v1/users/1", headers={"X-API-Key": "secret"}).status_code == 200
    assert erased == ["1"]


def test_a_service_without_a_lake_says_where_to_erase(recommender, client):
    with served(make_service(recommender, client)) as http:
        assert "recsys erase" in refusal(http.delete("/v1/users/1"), 503)


def test_feeds_are_served_while_users_are_erased_one_at_a_time(recommender, client):
    inside, most, proceed = [], [], threading.Event()

    def slow(user):
        inside.append(user)
        most.append(len(inside))
        assert proceed.wait(20)
        inside.remove(user)
        return {"user_id": user}

    with served(make_service(recommender, client, eraser=slow)) as http, ThreadPoolExecutor() as pool:
        erasures = [pool.submit(http.delete, f"/v1/users/{n}") for n in range(4)]
        try:
            for _ in range(10):
                assert http.get("/v1/feed", params={"user_id": "1"}).status_code == 200
            assert http.get("/healthz").status_code == 200
            assert not any(erasure.done() for erasure in erasures)
        finally:
            proceed.set()
        assert {erasure.result().json()["user_id"] for erasure in erasures} == {"0", "1", "2", "3"}
    assert most == [1, 1, 1, 1]


def test_without_redis_nothing_is_removed_and_one_sentence_explains_it(http, client, lake, monkeypatch):
    before = lake.read("actions")

    def absent(*_):
        raise DependencyError("the online store does not answer: gone; check that Redis is running")

    monkeypatch.setattr(erasing, "mark_erased", absent)
    assert refusal(http.delete("/v1/users/Ann"), 503).startswith("the online store does not answer")
    assert lake.read("actions").equals(before)


class ReadOnly(fs.LocalFileSystem):
    def open_output_stream(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")


def test_a_read_only_lake_leaves_the_online_part_done_and_a_second_call_completes_it(
    http, client, lake, config, monkeypatch
):
    http.get("/v1/feed", params={"user_id": "Ann", "limit": 5})
    LakeSink(client, RedisStream(client, config.online), lake).step()
    letter = encode_event(Event("click", 3, 1, ANN, 5003, 0, 0))
    client.xadd(keys.DEAD_LETTERS, {"kind": b"e", "payload": letter})
    with monkeypatch.context() as patch:
        patch.setattr("recsys.offline.lake.storage.fs.LocalFileSystem", ReadOnly)
        sentence = refusal(http.delete("/v1/users/Ann"), 503)
    assert "'Ann' is erased only in part" in sentence
    assert "the online store has no data of the user" in sentence
    assert "Read-only file system" in sentence
    assert sentence.endswith("erase the user again to complete it")
    assert [client.zcard(keys.returned(ANN)), client.xlen(keys.STREAM), client.xlen(keys.DEAD_LETTERS)] == [0, 0, 0]
    assert ANN in lake.read("actions")["user_id"].to_pylist()
    receipt = http.delete("/v1/users/Ann").json()
    assert receipt["offline"]["actions"]["rows"] == 2
    assert ANN not in lake.read("actions")["user_id"].to_pylist()


@pytest.mark.parametrize(
    "step", ["remove_rows", "remove_returned", "remove_records", "remove_dead_letters", "lake_erasure.erase"]
)
def test_an_erasure_killed_at_any_step_is_completed_by_a_second_call(
    http, client, catalogue, config, lake, recommender, monkeypatch, step
):
    http.post("/v1/events", json=[click(n, user) for n, user in enumerate(["Ann", "2"])])
    follow_stream(client, catalogue, config, lake)
    http.post("/v1/events", json=[click(7, "Ann")])

    def dies(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"recsys.serving.erasing.{step}", dies)
        with pytest.raises(KeyboardInterrupt):
            erase(config, client, Clock(), "Ann")
    follow_stream(client, catalogue, config, lake)
    erase(config, client, Clock(), "Ann")
    follow_stream(client, catalogue, config, lake)
    assert history(recommender, ANN) == []
    assert lake.read("actions")["user_id"].to_pylist() == [2, 2]
    assert [row for row in client.keys("recsys:g:*:user:*") if b"%016x" % (ANN + 2**64) in row] == []


def test_records_written_during_the_erasure_are_removed_as_well(http, client, config, lake, monkeypatch):
    erase_lake = lake_erasure.erase
    clock = Clock()
    before = clock.now()
    stream = RedisStream(client, config.online)

    def meanwhile(*arguments):
        client.zadd(keys.returned(ANN), {b"a": before, b"b": before + 10**12})
        stream.append([Event("click", n, 1, ANN, 5003, when, when) for n, when in ((1, before), (2, before + 10**12))])
        letter = encode_event(Event("click", 3, 1, ANN, 5003, before, before))
        client.xadd(keys.DEAD_LETTERS, {"kind": b"e", "payload": letter})
        return erase_lake(*arguments)

    monkeypatch.setattr(lake_erasure, "erase", meanwhile)
    online = erase(config, client, clock, "Ann").online
    assert (online.returned, online.stream_records, online.dead_letters) == (1, 1, 1)
    assert client.zrange(keys.returned(ANN), 0, -1) == [b"b"]
    assert decode(stream.read("", 9)).events["event_id"].tolist() == [2]


def test_a_broken_redis_key_stops_the_erasure_and_a_second_call_completes_it(config, client, lake):
    client.set(keys.NEWEST, "the last")
    with pytest.raises(DependencyError, match=r"erased only in part: .* online key recsys:newest must hold a"):
        erase(config, client, Clock(), "Ann")
    client.delete(keys.NEWEST)
    erase(config, client, Clock(), "Ann")


def test_the_error_for_a_lake_held_by_another_process_says_what_was_done(config, client, lake, monkeypatch):
    monkeypatch.setattr("redis.lock.Lock.acquire", lambda *_, **__: False)
    monkeypatch.setattr("recsys.online.consumer.to_lake.WAIT_S", 0.2)
    with pytest.raises(
        DependencyError, match=r"the online store has no data of the user, but the lake .* is held by another"
    ):
        erase(config, client, Clock(), "Ann")


def test_releases_that_contain_the_user_or_cannot_be_read_are_listed(config, client, lake, catalogue):
    for name, user in (("r-000000000001", True), ("r-000000000002", False)):
        folder = config.releases_path / name / "catalogue"
        folder.parent.mkdir(parents=True)
        if user:
            catalogue.save(folder)
    assert set(erase(config, client, Clock(), "2").releases) == {"r-000000000001", "r-000000000002"}
    assert erase(config, client, Clock(), "777").releases == ["r-000000000002"]
    (config.releases_path / ".staging-1-abcd").mkdir()
    assert erase(config, client, Clock(), "777").releases == ["r-000000000002", ".staging-1-abcd"]


def test_the_receipt_says_whether_a_training_run_is_in_progress(config, client, lake):
    with hold(client, ""):
        assert erase(config, client, Clock(), "2").training
    assert not erase(config, client, Clock(), "2").training


def test_the_service_clock_follows_the_current_release(config, client):
    made = release.Manifest.model_construct(world=True, logs_end=WORLD_END)
    assert 0 <= service_clock(config, client, made).now() - WORLD_END < 60_000_000
    assert erase(config, client, service_clock(config, client, made), "5").erased_at < WORLD_END + 60_000_000
    imported = release.Manifest.model_construct(world=False, logs_end=WORLD_END)
    assert abs(service_clock(config, client, imported).now() - time.time_ns() // 1000) < 60_000_000
    assert abs(service_clock(config, client, None).now() - time.time_ns() // 1000) < 60_000_000


@pytest.fixture
def recsys(capsys):
    """The command line in this process: exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def test_the_command_prints_the_receipt_or_with_json_one_json_line(recsys, config, lake):
    options = ("--config", "configs/tiny.yaml", "--set", f"data_dir={config.data_dir}")
    code, out, err = recsys("erase", "--user", "Ann", "--json", *options)
    assert code == 0, err
    receipt = json.loads(out)
    assert out.count("\n") == 1
    assert receipt["offline"]["actions"] == {"rows": 2, "files": 1}
    assert "erase ..." in err
    with connect(config.online, config.data_dir) as connection:
        erased = read_erased(connection.client)
    assert (erased.user_id.tolist(), erased.until.tolist()) == ([ANN], [receipt["erased_at"]])
    code, out, _ = recsys("erase", "--user", "Ann", *options)
    assert code == 0
    assert "user Ann was erased at 20" in out
    assert "posts written by this user are kept" in out
    assert sum("0 (0)" in line for line in out.splitlines()) == len(TABLES) + 1


def test_the_command_refuses_an_invalid_id_as_wrong_usage(recsys, config):
    code, out, err = recsys("erase", "--user", "x" * 201, "--set", f"data_dir={config.data_dir}")
    assert (code, out) == (2, "")
    assert "Invalid value for --user" in err
    assert recsys("erase")[0] == 2


def test_the_command_fails_with_one_sentence_without_a_lake_and_without_redis(recsys, config):
    folder = f"data_dir={config.data_dir}"
    code, _, err = recsys("erase", "--user", "1", "--set", folder)
    assert code == 1
    assert err.startswith("error: there is no lake at")
    fill(config)
    code, out, err = recsys("erase", "--user", "1", "--set", folder, "--set", "online.url=redis://127.0.0.1:1/0")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("error: Redis at online.url")


def test_the_printed_receipt_names_what_is_left_to_do():
    receipt = Receipt(
        user_id="[b]A[/b]", erased_at=0, online={"rows": 1234, "returned": 0, "stream_records": 0, "dead_letters": 0},
        offline={"users": {"rows": 1, "files": 1}}, authored_posts=0, releases=["r-1"], training=True, elapsed_s=2.0,
        quarantine={"rows": 0, "files": 0, "not_searched": ["lake/quarantine/users/[x].unreadable"]},
    )  # fmt: skip
    console = Console(record=True, width=200, file=io.StringIO())
    show_receipt(receipt, console)
    text = console.export_text()
    assert "user [b]A[/b] was erased at 1970-01-01 00:00:00 UTC" in text
    assert "1,234" in text
    assert "lake/quarantine/users/[x].unreadable" in text
    assert "these releases still contain this user: r-1; run `recsys train`, then delete their folders" in text
    assert "a training run is in progress" in text
    assert "posts written by this user" not in text


def test_in_a_served_world_an_erased_user_is_gone_after_the_next_training(small_config):
    config = small_config
    simulate_step(config, Progress())
    first = train(config, Progress()).version
    lake = Lake(config.lake_url)
    user = lake.read("actions", ["user_id"])["user_id"][0].as_py()
    before = {table: others(lake, table, user) for table in ("users", "follows", "blocks", "impressions", "actions")}
    with running_server(config) as url, httpx.Client(base_url=url, timeout=60) as http:
        feed = http.get("/v1/feed", params={"user_id": user}).json()
        items = [{**click(n, str(user)), "post_id": item["post_id"]} for n, item in enumerate(feed["items"][:5])]
        assert http.post("/v1/events", json=items).json()["accepted"] == 5
        receipt = http.delete(f"/v1/users/{user}").json()
        assert receipt["releases"] == [first]
        assert receipt["offline"]["actions"]["rows"] > 0
        assert receipt["online"]["returned"] >= 20
    assert {table: others(lake, table, user) for table in before} == before
    again = train(config, Progress()).version
    assert again != first
    with connect(config.online, config.data_dir) as connection:
        catalogue = Catalogue.load(config.releases_path / again / "catalogue")
        store = RedisStore(connection.client, catalogue, config.online)
        read = store.read_user(user, 0, WORLD_END)
        receipt = erase(config, connection.client, Clock(), str(user))
    assert len(read.history) == len(read.returned) == 0
    assert receipt.releases == [first]
    assert sum(removed.rows for removed in receipt.offline.values()) == 0
    assert receipt.online.model_dump() == {"rows": 0, "returned": 0, "stream_records": 0, "dead_letters": 0}


def others(lake, table, user):
    rows = lake.read(table)
    return rows.filter(pc.not_equal(rows["user_id"], user))
