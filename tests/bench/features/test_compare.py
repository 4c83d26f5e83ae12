"""The benchmark of features on a thousandth of its size: figures are there, and values are those of the definition."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.bench.features import point_in_time
from recsys.bench.features.compare import bench_features
from recsys.bench.features.online_read import Rounds, bench_online_read
from recsys.bench.features.point_in_time import ITEM, counts, write_tables
from recsys.bench.features.random_log import END, LogSizes, make_catalogue, make_events, stream_events
from recsys.bench.own_redis import client_of, own_redis
from recsys.bench.peers import Peers
from recsys.cli import main
from recsys.features.point_in_time import snapshot
from recsys.online.load import SnapshotReach, load_snapshot
from recsys.progress import Progress
from recsys.types import SECOND

ROOT = Path(__file__).resolve().parents[3]
PEERS = ROOT / ".venv-peers"
needs_peers = pytest.mark.skipif(not (PEERS / "bin" / "python").exists(), reason="make bench-peers was not run")

FIGURES = {
    "point_in_time": {"rows_per_s", "duckdb_rows_per_s", "polars_rows_per_s", "ratio_to_best"},
    "online_read_500": {"p50_ms", "p99_ms", "floor_p50_ms", "ratio_to_floor", "feast_p50_ms", "ratio_to_feast"},
    "stream": {"events_per_s", "click_to_feature_p99_ms"},
}
OF_PEERS = {"duckdb_rows_per_s", "polars_rows_per_s", "ratio_to_best", "feast_p50_ms", "ratio_to_feast"}


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    return tmp_path_factory.mktemp("around")


@pytest.fixture(scope="module")
def without_peers(around):
    return bench_features(around / "data", 0.001, around / "no-peers", Progress())


def expected_counts(events, queries):
    """The definition, query by query."""
    item, time = (np.asarray(events[name]) for name in ("entity_id", "time"))
    found = np.zeros((len(queries), 3))
    for row, (asked, now) in enumerate(zip(queries["entity_id"].to_pylist(), queries["time"].to_pylist(), strict=True)):
        age = now - time[(item == asked) & (time < now)]
        found[row] = [(0.5 ** (age / half_life)).sum() for half_life in ITEM.half_lives]
    return found


def small_tables(folder):
    """Twenty seconds, so that many events and queries fall on the same moment."""
    write_tables(folder, 0.0001, span=20)
    return [pa.ipc.open_file(str(folder / f"{name}.arrow")).read_all() for name in ("events", "queries")]


def fake_peers(folder, script):
    """An environment whose Python runs this shell script."""
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o700)
    return Peers(folder, Progress())


def test_the_command_prints_every_figure(around, small, capsys, monkeypatch):
    figures = {part: dict.fromkeys(names, 1.5) for part, names in FIGURES.items()}
    asked = []
    monkeypatch.setattr("recsys.bench.features.compare.bench_features", lambda *words: asked.append(words) or figures)
    with pytest.raises(SystemExit) as end:
        main(["bench", "features", "--scale", "0.5", "--peers", str(around / "peers"), *small, "--json"])
    assert end.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures
    assert asked[0][1:3] == (0.5, around / "peers")


def test_every_figure_is_there_and_those_of_absent_peers_are_null(without_peers):
    for part, names in FIGURES.items():
        assert without_peers[part].keys() >= names
        for name in names:
            assert (without_peers[part][name] is None) == (name in OF_PEERS), name


def test_nothing_is_left_beside_the_data_folder(without_peers, around):
    assert list(around.iterdir()) == []


def test_figures_are_of_work_that_was_done(without_peers):
    assert without_peers["online_read_500"]["max_relative_difference"] < 1e-12
    assert without_peers["stream"]["events_in_lake"] == without_peers["stream"]["events"] > 0
    assert without_peers["stream"]["probes"] >= 5


def test_ratios_are_ours_over_theirs(without_peers):
    read = without_peers["online_read_500"]
    assert read["ratio_to_floor"] == pytest.approx(read["p50_ms"] / read["floor_p50_ms"], abs=1e-3)


def test_counts_are_those_of_the_definition(tmp_path):
    events, queries = small_tables(tmp_path)
    assert counts(events, queries) == pytest.approx(expected_counts(events, queries), rel=1e-12)


def test_some_events_and_queries_fall_on_the_same_moment(tmp_path):
    events, queries = small_tables(tmp_path)
    at = [
        set(zip(*(table[name].to_pylist() for name in ("entity_id", "time")), strict=True))
        for table in (events, queries)
    ]
    assert at[0] & at[1]


@needs_peers
@pytest.mark.parametrize("name", point_in_time.PEERS)
def test_a_peer_counts_the_same_however_it_counts(name, tmp_path):
    events, queries = small_tables(tmp_path)
    np.save(tmp_path / "ours.npy", expected_counts(events, queries))
    told = Peers(PEERS, Progress()).run(f"{name}_as_of.py", tmp_path, point_in_time.START, *ITEM.half_lives)
    assert told["max_relative_difference"] < 1e-9
    assert len(told["seconds"]) >= 2


@needs_peers
def test_feast_reads_the_same_counts(tmp_path):
    sizes = LogSizes.at(0.001)
    catalogue = make_catalogue(tmp_path / "lake", sizes)
    loaded = snapshot(catalogue, make_events(sizes), 1)
    with own_redis(tmp_path / "redis") as own, client_of(own) as client:
        load_snapshot(client, catalogue, loaded, own.config, SnapshotReach("", END))
        figures = bench_online_read(
            own,
            client,
            catalogue,
            loaded,
            Rounds(2, 10),
            tmp_path / "feast",
            Peers(PEERS, Progress()),
            lambda done, total: None,
        )
    assert figures["feast"]["max_relative_difference"] < 1e-9
    assert figures["ratio_to_feast"] == pytest.approx(figures["p50_ms"] / figures["feast_p50_ms"], abs=1e-4)


@needs_peers
def test_a_peer_that_counts_something_else_is_told(tmp_path):
    events, queries = small_tables(tmp_path)
    np.save(tmp_path / "ours.npy", expected_counts(events, queries) + 0.1)
    told = Peers(PEERS, Progress()).run("polars_as_of.py", tmp_path, point_in_time.START, *ITEM.half_lives)
    assert told["max_relative_difference"] > 0.001


def test_the_peers_best_formulation_counts(tmp_path):
    printed = json.dumps(
        {
            "version": "1", "seconds": {"slow": 4.0, "quick": 2.0}, "cpu_seconds": {},
            "max_relative_difference": 0, "peak_memory_mb": 1,
        }
    )  # fmt: skip
    peers = fake_peers(tmp_path, f"echo '{printed}'")
    (tmp_path / "tables").mkdir()
    figures = point_in_time.bench_point_in_time(tmp_path / "tables", 0.0001, peers, lambda done, total: None)
    n_rows = figures["events"] + figures["queries"]
    assert figures["duckdb_rows_per_s"] == figures["polars_rows_per_s"] == n_rows / 2
    assert figures["peers"]["duckdb"]["best_formulation"] == "quick"
    assert figures["ratio_to_best"] == pytest.approx(figures["rows_per_s"] / (n_rows / 2), rel=1e-2)


@pytest.mark.parametrize("script", ["echo no JSON", "exit 0", "echo '{}'; exit 3"])
def test_a_peer_that_fails_costs_only_its_own_figures(tmp_path, script):
    assert fake_peers(tmp_path, script).run("polars_as_of.py") is None


def test_a_peer_that_fails_is_told_with_its_last_words(tmp_path, capsys):
    fake_peers(tmp_path, "echo loading >&2; echo no redis here >&2; exit 1").run("feast_read.py")
    assert "feast_read.py failed, its figures stay empty: no redis here" in capsys.readouterr().err


def test_data_are_the_same_in_every_run(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_tables(tmp_path / name, 0.0001)
    for name in ("events.arrow", "queries.arrow"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    sizes = LogSizes.at(0.001)
    assert np.array_equal(make_events(sizes).post_row, make_events(sizes).post_row)


def test_streamed_events_have_ids_of_their_own_and_leave_fresh_posts_alone(tmp_path):
    sizes = LogSizes.at(0.001)
    catalogue = make_catalogue(tmp_path, sizes)
    events = list(stream_events(catalogue, sizes, 7, 500, END + SECOND))
    assert [event.event_id for event in events] == list(range(7, 507))
    fresh = set(catalogue.post_id[-sizes.fresh_posts :].tolist())
    assert not fresh & {event.post_id for event in events}
    assert not fresh & set(catalogue.post_id[make_events(sizes).post_row].tolist())


def test_the_benchmarks_redis_answers_on_both_ways_and_ends_with_the_block(tmp_path):
    with own_redis(tmp_path / "redis") as own, client_of(own) as client:
        client.set("a", "b")
        answer = subprocess.run(
            ["/bin/bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{own.port}; printf 'GET a\\r\\n' >&3; head -c 7 <&3"],
            capture_output=True, check=True,
        )  # fmt: skip
        assert answer.stdout == b"$1\r\nb\r\n"
        socket = Path(own.url.removeprefix("unix://").partition("?")[0])
        assert socket.exists()
    assert not socket.exists()
