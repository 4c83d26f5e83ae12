"""The index beside its peers: FAISS's own indexes, hnswlib, USearch and ScaNN.

Takes vectors and queries, gives recall, times and memory of the tuned fast lists and of FAISS as the product builds it,
measured on queries that tuned nothing, on one core, one query at a time, with deleted posts filtered inside the search.
The peers search the same posts without a filter. ScaNN, whose build knows nothing of queries, is also given posts and
queries moved into the space that our lists are built in (`index/space.py`), inner products unchanged. All figures come
from one run on one machine; compare ratios.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bench.one_core import one_core, processor
from recsys.bench.peers import Peers
from recsys.bench.retrieval import vectors as sources
from recsys.bench.retrieval.faiss_curves import faiss_curves, front
from recsys.bench.retrieval.plot import draw
from recsys.bench.retrieval.vectors import Vectors
from recsys.bench.world.simulate import existing_folder
from recsys.config import Config
from recsys.errors import DataError
from recsys.evaluation.report.material import gather
from recsys.memory import peak_memory
from recsys.progress import Progress
from recsys.retrieval.index import tuner
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.index import PostIndex
from recsys.retrieval.index.space import Space
from recsys.steps import ensure_release
from recsys.types import Floats

DELETED = 0.01
RETURNED = 1000
"""Posts returned to a user before; as many as the online store remembers by default."""
PEERS = ("hnswlib", "usearch", "scann")
SCANN_MOVED = "scann_moved"
LARGEST_FOR_PEERS = 1_000_000
"""Above so many posts the peers' graphs would take hours to build."""
_EXACT_QUERIES = 50
_PLOT_QUERIES = 200
"""Queries per configuration of the picture; the chosen one gets all."""


def bench_retrieval(
    config: Config, n_posts: int, k: int, files: tuple[Path, Path] | None, peers_folder: Path | None, progress: Progress
) -> dict[str, Any]:
    """The figures of one set of vectors, and under `hard` those of as many hard ones; with a picture beside the data.

    Without files, simulates and trains first where that was not done yet, and says so.

    Args:
        files: posts and queries as .npy, instead of those of the current release's towers.
        peers_folder: the environment of `make bench-peers`; without it the peers' figures are None.
    Raises: DataError when files do not fit.
    """
    plot = config.data_dir / "retrieval.png"
    peers = Peers(peers_folder, progress)
    with peak_memory() as peak:
        if files:
            given = sources.from_files(*files)
        else:
            ensure_release(config, progress)
            with progress.stage("vectors of made-up posts") as report:
                given = sources.of_towers(gather(config), n_posts, report)
        figures = _bench(given, k, config, peers, progress)
        del given
        hard = _bench(sources.hard(figures["posts"]), k, config, peers, progress)
    draw({"trained towers" if not files else files[0].stem: figures, "hard vectors": hard}, k, plot)
    about = {"processor": processor(), "plot": str(plot), "peak_memory_mb": peak.megabytes}
    return figures | {"hard": hard} | about


def _bench(vectors: Vectors, k: int, config: Config, peers: Peers, progress: Progress) -> dict[str, Any]:
    posts, (tuning_queries, queries) = vectors.posts, sources.halves(vectors.queries)
    if len(posts) <= k:
        raise DataError(
            f"a search for {k} needs more posts than that, got {len(posts)}; give more (--posts, --vectors) or lower "
            "--k"
        )
    settings = config.retrieval.index.model_copy(update={"kind": "fast_lists", "tuned": True})
    with progress.stage(f"tune fast lists on {vectors.name} vectors") as report:
        # Above that size the picture leaves out what the cost model rejects: trying it takes too long.
        small = len(posts) <= LARGEST_FOR_PEERS
        tuned = tuner.tune(posts, tuning_queries, k, settings, report, thorough=small)
    chosen = tuned.chosen
    allowed = Bitmap.of(np.random.default_rng(1).random(len(posts)) >= DELETED)
    exact = next(trial for trial in tuned.trials if trial.index.is_exact)
    with progress.stage("exact answers"):
        truth = tuner.ExactAnswers.of(exact.index, queries, k, allowed)
        undeleted = tuner.ExactAnswers.of(exact.index, queries, k)
    recall = truth.recall(posts, chosen.index.search(queries, k, allowed)[1])
    with progress.stage("time") as report, one_core():
        exact = tuner.measure(exact, queries[:_EXACT_QUERIES], k, allowed)
        rounds = [tuner.measure(chosen, queries, k, allowed)]
        trials, some = [], truth.first(_PLOT_QUERIES)
        for number, trial in enumerate(tuned.trials):
            trials.append(_point(trial, exact, posts, some, allowed))
            report(number + 1, len(tuned.trials))
        rounds.append(tuner.measure(chosen, queries, k, allowed))
    figures: dict[str, Any] = {
        "posts": len(posts),
        "k": k,
        "embedding_size": posts.shape[1],
        "distinct_vectors": sources.n_distinct(posts),
        "exact_p50_ms": _rounded(exact.p50_ms),
        "chosen": {
            "name": chosen.name,
            f"recall@{k}": round(float(recall.mean()), 4),
            "bytes_per_vector": round(chosen.bytes_per_vector, 1),
            "build_s": round(chosen.build_s, 1),
            "why": tuned.why,
        },
        "trials": trials,
    }
    with progress.stage("filters, later hours"):
        figures["filtered"] = _with_filter(chosen, exact, posts, queries, k)
        figures["returned_before"] = _with_best_left_out(chosen, exact, posts, queries, k)
        figures["as_time_passes"] = _as_time_passes(chosen, exact, vectors, k, allowed)
    figures["faiss"] = _faiss(vectors, exact, truth, allowed, config, progress)
    curves: dict[str, Any] = dict.fromkeys((*PEERS, SCANN_MOVED))
    if small:
        curves |= _peer_curves(posts, undeleted, PEERS, config.data_dir, peers, progress)
        space = Space.fit(posts, tuning_queries.reshape(-1, posts.shape[1]))
        moved, seen = posts @ space.to_place, undeleted.queries @ space.to_seen
        of_moved = tuner.ExactAnswers.of(PostIndex.exact(moved), seen, k)
        found = _peer_curves(moved, of_moved, ("scann",), config.data_dir, peers, progress)
        curves[SCANN_MOVED] = found["scann"]
    # The rounds lie minutes apart, since a machine is not equally fast at all times.
    with one_core():
        rounds.append(tuner.measure(chosen, queries, k, allowed))
    figures["chosen"] |= _middle(rounds)
    at = figures["chosen"][f"recall@{k}"]
    figures["peers"] = {name: None if curve is None else at_recall(curve, at, k) for name, curve in curves.items()}
    best = [peer["qps_1_core"] for peer in figures["peers"].values() if peer and peer["qps_1_core"]]
    figures["ratio_to_best_peer"] = _rounded(figures["chosen"]["qps_1_core"] / max(best)) if best else None
    # Print now: the second set takes as long again and may be interrupted.
    progress.say(f"{vectors.name}: {figures['chosen']}, ratio to the best peer {figures['ratio_to_best_peer']}")
    return figures


def _faiss(
    vectors: Vectors, exact: tuner.Trial, truth: tuner.ExactAnswers, allowed: Bitmap, config: Config, progress: Progress
) -> dict[str, Any]:
    """FAISS as the product builds and tunes it, and beside it FAISS's own factory strings as anyone would build them.

    Returns: the figures of the chosen index, and `curves`: name to points of recall and time.
    """
    posts, k, some = vectors.posts, truth.k, truth.first(_PLOT_QUERIES)
    settings = config.retrieval.index.model_copy(update={"kind": "faiss", "tuned": True})
    with progress.stage(f"tune FAISS on {vectors.name} vectors") as report:
        tuned = tuner.tune(posts, sources.halves(vectors.queries)[0], k, settings, report)
    chosen = tuned.chosen
    recall = truth.recall(posts, chosen.index.search(truth.queries, k, allowed)[1])
    with progress.stage("time FAISS") as report, one_core():
        measured = tuner.measure(chosen, truth.queries, k, allowed)
        points = []
        for number, trial in enumerate(tuned.trials[1:]):
            points.append(_point(trial, exact, posts, some, allowed))
            report(number + 1, len(tuned.trials) - 1)
    curves = {"tuned": front(points)}
    if len(posts) <= LARGEST_FOR_PEERS:
        with progress.stage("FAISS's own indexes"):
            curves |= faiss_curves(posts, allowed, truth, _PLOT_QUERIES)
    return {
        "name": chosen.name,
        f"recall@{k}": round(float(recall.mean()), 4),
        "p50_ms": _rounded(measured.p50_ms),
        "p99_ms": _rounded(measured.p99_ms),
        "qps_1_core": _rounded(measured.queries_per_s),
        "bytes_per_vector": round(chosen.bytes_per_vector, 1),
        "build_s": round(chosen.build_s, 1),
        "why": tuned.why,
        "filtered": _with_filter(chosen, exact, posts, truth.queries, k),
        "returned_before": _with_best_left_out(chosen, exact, posts, truth.queries, k),
        "as_time_passes": _as_time_passes(chosen, exact, vectors, k, allowed),
        "curves": curves,
    }


def _point(
    trial: tuner.Trial, exact: tuner.Trial, posts: Floats, some: tuner.ExactAnswers, allowed: Bitmap
) -> dict[str, Any]:
    """Recall and times of a trial on queries it was not tuned with; its lower bound is of the tuning queries."""
    timed = exact if trial.index.is_exact else tuner.measure(trial, some.queries, some.k, allowed)
    rows = trial.index.search(some.queries, some.k, allowed)[1]
    figures = replace(timed, recall=float(some.recall(posts, rows).mean())).figures()
    return {name: value for name, value in figures.items() if name != "recall_lower_bound"}


def _as_time_passes(
    chosen: tuner.Trial, exact: tuner.Trial, vectors: Vectors, k: int, allowed: Bitmap
) -> list[dict[str, Any]] | None:
    """Recall and time so many hours after the end of the logs; None where time changes nothing."""
    return [
        {"hours": hours} | _found(chosen, exact, vectors.posts, users[:_PLOT_QUERIES], k, allowed)
        for hours, users in vectors.later.items()
    ] or None


def _middle(rounds: list[tuner.Trial]) -> dict[str, Any]:
    """Figures of the round whose p50 is the median, and every round's p50."""
    by_p50 = sorted(rounds, key=lambda trial: trial.p50_ms or 0.0)
    middle = by_p50[len(rounds) // 2]
    return {
        "p50_ms": _rounded(middle.p50_ms),
        "p99_ms": _rounded(middle.p99_ms),
        "qps_1_core": _rounded(middle.queries_per_s),
        "p50_ms_of_rounds": [_rounded(trial.p50_ms) for trial in rounds],
    }


def _with_filter(
    chosen: tuner.Trial, exact: tuner.Trial, posts: Floats, queries: Floats, k: int, share: float = 0.2
) -> dict[str, Any]:
    """The chosen index under a filter that allows a random fifth of the posts."""
    allowed = Bitmap.of(np.random.default_rng(2).random(len(posts)) < share)
    return {"share": share} | _found(chosen, exact, posts, queries[:_PLOT_QUERIES], k, allowed)


def _found(
    chosen: tuner.Trial, exact: tuner.Trial, posts: Floats, queries: Floats, k: int, allowed: Bitmap
) -> dict[str, Any]:
    """Recall of the chosen index on these queries, and the time of one."""
    truth = tuner.ExactAnswers.of(exact.index, queries, k, allowed)
    recall = truth.recall(posts, chosen.index.search(queries, k, allowed)[1])
    with one_core():
        timed = tuner.measure(chosen, queries, k, allowed)
    return {f"recall@{k}": round(float(recall.mean()), 4), "p50_ms": _rounded(timed.p50_ms)}


def _with_best_left_out(
    chosen: tuner.Trial, exact: tuner.Trial, posts: Floats, queries: Floats, k: int
) -> dict[str, Any]:
    """The chosen index when each query's best posts are left out, as for a user who was shown them before."""
    some, left_out = queries[:_PLOT_QUERIES], min(RETURNED, len(posts) - k)
    best, rows = exact.index.search(some, left_out + k)
    everything = Bitmap.of(np.ones(len(posts), bool))
    recall, times = [], []
    with one_core():
        for query, kth, without in zip(some[:, None], best[:, -1:], rows[:, :left_out], strict=True):
            allowed = everything.without(without)
            start = time.perf_counter()
            _, found = chosen.index.search(query, k, allowed)
            times.append(time.perf_counter() - start)
            recall.append(tuner.ExactAnswers(query, k, kth).recall(posts, found)[0])
    p50_ms = float(np.median(times)) * 1e3
    return {"best_left_out": left_out, f"recall@{k}": round(float(np.mean(recall)), 4), "p50_ms": _rounded(p50_ms)}


def _peer_curves(
    posts: Floats, truth: tuner.ExactAnswers, names: tuple[str, ...], beside: Path, peers: Peers, progress: Progress
) -> dict[str, list[dict[str, Any]] | None]:
    """Each peer's settings with their recall and times; None for a peer that is not installed."""
    curves: dict[str, list[dict[str, Any]] | None] = {}
    with tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=existing_folder(beside)) as name:
        folder = Path(name)
        for part, array in (("posts", posts), ("queries", truth.queries), ("kth", truth.kth)):
            np.save(folder / f"{part}.npy", array)
        for peer in names:
            with progress.stage(peer):
                told = peers.run(f"{peer}_search.py", folder, truth.k)
            curves[peer] = None if told is None else told["curve"]
    return curves


def at_recall(curve: list[dict[str, Any]], recall: float, k: int) -> dict[str, Any]:
    """A peer's figures at this recall, interpolated on the front of its curve.

    Logarithms of times are interpolated between the two settings around the recall. Below the curve its lowest setting
    counts; above it `qps_1_core` is None.
    """
    curve = sorted(curve, key=lambda point: point["recall"])
    best = front(curve)
    place = np.array([point["recall"] for point in best])
    if place[-1] < recall:
        last = best[-1]
        most = {f"recall@{k}": round(last["recall"], 4), "p50_ms": _rounded(last["p50_ms"])}
        return most | {"qps_1_core": None, "curve": curve}

    def between(name: str) -> float:
        return float(np.exp(np.interp(recall, place, np.log([point[name] for point in best]))))

    return {
        f"recall@{k}": round(max(recall, float(place[0])), 4),
        "p50_ms": _rounded(between("p50_ms")),
        "qps_1_core": _rounded(between("queries_per_s")),
        "curve": curve,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
