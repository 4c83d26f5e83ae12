"""The index's benchmark: what it is asked, how peers are read, and a whole small run."""

import json

import numpy as np
import pytest

from recsys.bench.retrieval import compare
from recsys.bench.retrieval import vectors as sources
from recsys.bench.retrieval.compare import at_recall, bench_retrieval
from recsys.bench.retrieval.live import bench_live
from recsys.config import IndexConfig
from recsys.errors import DataError
from recsys.evaluation.report.material import gather
from recsys.progress import Progress
from recsys.retrieval.index import faiss_index
from recsys.retrieval.index.fast_lists import inverted_file
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.index.live.segment import Segment
from recsys.retrieval.index.tuner import as_tuned
from recsys.retrieval.towers.freshness import INDEX_AGES
from recsys.types import HOUR


def quiet(done, total):
    pass


@pytest.fixture(scope="module")
def material(tiny_world):
    return gather(tiny_world)


def test_made_up_posts_are_as_many_as_asked_for_distinct_and_of_the_towers_size(material):
    made = sources.of_towers(material, 3000, quiet)
    assert made.posts.shape == (3000, material.towers.embedding_size)
    assert sources.n_distinct(made.posts) > 2990
    assert np.isfinite(made.posts).all()
    length = np.linalg.norm(made.posts[:, : len(material.towers.post_output_bias)], axis=1)
    np.testing.assert_allclose(length, 1, rtol=1e-4)


def test_users_are_those_of_the_release(material):
    queries = sources.users_of(material)
    moments, n, size = queries.shape
    assert moments == len(INDEX_AGES)
    assert 100 < n <= sources.N_QUERIES / len(INDEX_AGES)
    assert size == material.towers.embedding_size


def test_users_who_measure_are_asked_at_later_hours(material):
    made, queries = sources.of_towers(material, 100, quiet), sources.users_of(material)
    assert list(made.later) == list(sources.HOURS)
    np.testing.assert_array_equal(made.later[0.0], queries[0, 1::2])
    np.testing.assert_array_equal(made.later[24.0], queries[1, 1::2])
    assert sources.HOURS[0] == 0
    assert INDEX_AGES[1] == 24 * HOUR


def test_halves_are_of_different_users_and_both_of_all_moments():
    queries = np.arange(2 * 6, dtype=np.float32).reshape(2, 6, 1)
    tuning, measuring = sources.halves(queries)
    assert tuning[..., 0].tolist() == [[0, 2, 4], [6, 8, 10]]
    assert measuring[:, 0].tolist() == [1, 7, 3, 9, 5, 11]


def test_hard_vectors_have_length_one_and_use_every_direction():
    hard = sources.hard(5000)
    np.testing.assert_allclose(np.linalg.norm(hard.posts, axis=1), 1, rtol=1e-5)
    spread = np.linalg.eigvalsh(np.cov(hard.posts.T))
    assert spread[32] > 1e-4
    assert hard.queries.shape == (1, sources.N_QUERIES, 64)


def test_distinct_vectors_are_counted_by_value():
    some = np.random.default_rng(0).normal(size=(100, 7)).astype(np.float32)
    assert sources.n_distinct(np.concatenate([some, some[:30]])) == 100


def points(*pairs):
    return [{"recall": r, "p50_ms": 1000 / q, "queries_per_s": q} for r, q in pairs]


def test_a_peer_counts_at_our_recall_between_its_settings():
    told = at_recall(points((0.9, 400.0), (0.98, 100.0)), 0.94, 500)
    assert told["qps_1_core"] == pytest.approx(200, rel=0.01)
    assert told["recall@500"] == 0.94


def test_a_peer_that_always_finds_more_counts_with_its_fastest_setting():
    told = at_recall(points((0.97, 300.0), (0.99, 100.0)), 0.95, 500)
    assert (told["recall@500"], told["qps_1_core"]) == (0.97, 300.0)


def test_a_peer_that_never_finds_as_much_has_no_figure():
    told = at_recall(points((0.8, 900.0), (0.9, 500.0)), 0.95, 500)
    assert (told["recall@500"], told["qps_1_core"]) == (0.9, None)


def test_settings_that_others_beat_are_no_part_of_a_peers_curve():
    told = at_recall(points((0.93, 100.0), (0.9, 400.0), (0.98, 100.0), (0.97, 90.0)), 0.94, 500)
    assert told["qps_1_core"] == pytest.approx(200, rel=0.01)
    assert [point["recall"] for point in told["curve"]] == [0.9, 0.93, 0.97, 0.98]


def small(config):
    index = config.retrieval.index.model_copy(update={"exact_below": 1000})
    return config.model_copy(update={"retrieval": config.retrieval.model_copy(update={"index": index})})


def test_a_whole_run_of_outside_vectors_has_every_figure(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", 1)  # or so few posts would all be scored, not found in lists
    monkeypatch.setattr(sources, "N_QUERIES", 400)
    monkeypatch.setattr(compare, "_PLOT_QUERIES", 40)
    rng = np.random.default_rng(3)
    np.save(tmp_path / "posts.npy", rng.normal(size=(4000, 16)).astype(np.float64))
    np.save(tmp_path / "users.npy", rng.normal(size=(400, 16)).astype(np.float32))
    config = small(tiny_world).model_copy(update={"data_dir": tmp_path})
    figures = bench_retrieval(config, 0, 50, (tmp_path / "posts.npy", tmp_path / "users.npy"), None, Progress())
    assert (figures["posts"], figures["distinct_vectors"], figures["embedding_size"]) == (4000, 4000, 16)
    for part in (figures, figures["hard"]):
        assert part["chosen"]["recall@50"] >= 0.94
        assert part["chosen"]["qps_1_core"] > 0
        assert part["peers"] == {"hnswlib": None, "usearch": None, "scann": None, "scann_moved": None}
        assert part["ratio_to_best_peer"] is None
        assert part["as_time_passes"] is None
        assert part["filtered"]["recall@50"] > 0.9
        assert part["returned_before"]["best_left_out"] == 1000
        assert part["returned_before"]["recall@50"] > 0.9
        assert part["faiss"]["name"].startswith("IVF")
        assert part["faiss"]["recall@50"] >= 0.94
        assert part["faiss"]["p50_ms"] > 0
        assert part["faiss"]["build_s"] > 0
        assert {"tuned"} < part["faiss"]["curves"].keys()
        for curve in part["faiss"]["curves"].values():
            recalls = [point["recall"] for point in curve]
            assert len(recalls) > 0
            assert recalls == sorted(recalls)
    assert (tmp_path / "retrieval.png").read_bytes()[:4] == b"\x89PNG"
    assert figures["processor"].count(",") <= 1
    json.dumps(figures, allow_nan=False)


@pytest.mark.parametrize(
    ("posts", "users", "rule"),
    [
        (np.ones((100, 4)), np.ones((50, 5)), "vectors as long as"),
        (np.ones((100, 4), np.int64), np.ones((50, 4)), "matrix of floats"),
        (np.ones(100), np.ones((50, 4)), "matrix of floats"),
        (np.ones((0, 4)), np.ones((50, 4)), "matrix of floats"),
        (np.full((100, 4), np.nan), np.ones((50, 4)), "finite numbers"),
        (np.full((100, 4), 1e300), np.ones((50, 4)), "finite numbers"),
        (np.ones((100, 4)), np.ones((5, 4)), "at least 40 vectors"),
    ],
)
def test_files_that_do_not_hold_vectors_are_refused(tmp_path, posts, users, rule):
    np.save(tmp_path / "posts.npy", posts)
    np.save(tmp_path / "users.npy", users)
    with pytest.raises(DataError, match=rule):
        sources.from_files(tmp_path / "posts.npy", tmp_path / "users.npy")


def test_a_file_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "x.npy").write_text("no")
    with pytest.raises(DataError, match=r"must be a \.npy file"):
        sources.from_files(tmp_path / "x.npy", tmp_path / "x.npy")


def test_more_results_than_posts_are_refused(tiny_world, tmp_path):
    for name, n in (("posts", 100), ("users", 50)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32))
    files = tmp_path / "posts.npy", tmp_path / "users.npy"
    with pytest.raises(DataError, match="needs more posts than that, got 100"):
        bench_retrieval(tiny_world, 0, 100, files, None, Progress())


def live_segment(posts, users, config):
    languages = np.zeros(len(posts), np.int32)
    return Segment.build(np.arange(len(posts)), posts, languages, users, 50, config, "r-1").index


def test_live_segments_of_fewer_posts_are_built_as_the_tuned_one_was():
    rng = np.random.default_rng(5)
    posts, users = (rng.normal(size=(n, 16)).astype(np.float32) for n in (3600, 100))
    settings = IndexConfig(kind="fast_lists")
    tuned = PostIndex.build(
        posts, users, settings.model_copy(update={"nlist_factor": 2.0, "code_bytes": 24, "refine_factor": 1.7})
    )
    index = live_segment(posts[:2500], users, as_tuned(settings, tuned))
    assert (tuned.segment.n_lists, index.segment.n_lists) == (120, 100)
    assert index.effort.lists / 100 == pytest.approx(tuned.effort.lists / 120, rel=0.1)
    assert (index.segment.code_bytes, index.effort.refine) == (24, 1.7)


def test_live_segments_by_faiss_are_built_as_the_tuned_one_was():
    rng = np.random.default_rng(5)
    posts, users = (rng.normal(size=(n, 16)).astype(np.float32) for n in (3600, 100))
    tuned = PostIndex.build(posts, users, IndexConfig(kind="faiss", nlist_factor=2.0, refine_factor=1.5))
    index = live_segment(posts[:2500], users, as_tuned(IndexConfig(), tuned))
    assert (index.kind, index.segment.n_lists, index.effort.refine) == ("faiss", 100, 1.5)


def test_live_segments_are_lists_also_where_an_exact_scan_was_tuned():
    posts = np.random.default_rng(5).normal(size=(100, 16)).astype(np.float32)
    assert not live_segment(posts, posts, as_tuned(IndexConfig(), PostIndex.exact(posts))).is_exact


def with_kind(config, kind):
    index = config.retrieval.index.model_copy(update={"kind": kind})
    return config.model_copy(update={"retrieval": config.retrieval.model_copy(update={"index": index})})


@pytest.mark.parametrize("kind", ["faiss", "fast_lists"])
def test_posts_come_and_go_while_segments_are_swapped(tiny_world, kind, monkeypatch):
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", 1)  # or so few posts would all be scored, not found in lists
    monkeypatch.setattr(faiss_index, "SCORE_ALL_BELOW", 1)
    figures = bench_live(with_kind(tiny_world, kind), 3000, 3, 50, Progress())
    assert figures["index"].startswith("IVF") == (kind == "faiss")
    assert figures["failures"] == []
    assert (figures["swaps"], figures["failed_requests"]) == (3, 0)
    assert figures["recall_during_rebuild"] > 0.9
    assert figures["posts_that_came"] > 5
    assert 0 < figures["post_to_retrievable_p99_ms"] < 5000
    assert 0 < figures["delete_to_gone_p99_ms"] < 5000
