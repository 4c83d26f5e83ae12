"""Add and delete posts while the index is rebuilt and swapped under traffic.

Takes vectors, gives figures of one run. As in a service, a real Redis carries the changes, a worker follows them by its
own position and searches all the time, and a builder process makes one segment after another from files and stream.
Here one process holds the worker and the traffic.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recsys.bench.own_redis import client_of, own_redis
from recsys.bench.retrieval import vectors as sources
from recsys.bench.retrieval.vectors import Vectors
from recsys.bench.world.simulate import existing_folder
from recsys.config import Config, IndexConfig
from recsys.errors import DataError
from recsys.evaluation.report.material import gather
from recsys.memory import peak_memory
from recsys.online.connection.client import connect
from recsys.online.stream.post_changes import PostChange, PostChanges
from recsys.progress import Progress
from recsys.retrieval.index import tuner
from recsys.retrieval.index.live.live import LiveIndex
from recsys.retrieval.index.live.segment import Segment, current
from recsys.retrieval.towers.freshness import N_PACES
from recsys.serving.processes.children import follow_parent
from recsys.steps import ensure_release
from recsys.types import Floats, Ids

_COME_EVERY_S, _GONE_EVERY_S = 0.02, 0.05
_CHECK_EVERY = 11
"""Every so many searches one is compared with an exact search. Prime, so that all queries get their turn."""
_SPARE = 40_000
"""Posts that are added during the run."""
_POLL_S = 0.05
"""Seconds between checks for a new segment."""
_GIVE_UP_S = 10.0


@dataclass
class _Seen:
    """Measurements of the threads of a run."""

    index: str
    """Of the first segment."""
    come_ms: list[float] = field(default_factory=list)
    gone_ms: list[float] = field(default_factory=list)
    recall: list[tuple[int, float]] = field(default_factory=list)
    """After how many swaps, and the share found."""
    search_ms: list[float] = field(default_factory=list)
    searches: int = 0
    failures: list[str] = field(default_factory=list)
    swaps: int = 0


def bench_live(config: Config, n_posts: int, n_swaps: int, k: int, progress: Progress) -> dict[str, Any]:
    """`post_to_retrievable_p99_ms`, `delete_to_gone_p99_ms`, `recall_during_rebuild`, `swaps`, `failed_requests`.

    A post counts as retrievable when a search with its own vector returns it, timed from before it is sent to the
    stream; as gone when that search no longer does. Recall compares searches with an exact search over the posts of
    that moment; `recall_during_rebuild` is the lowest mean between two swaps. A request fails when it raises, returns
    too few posts, a post twice, or one that was already gone.

    Raises: ReleaseError without a release, DependencyError when no redis-server can be started.
    """
    ensure_release(config, progress)
    with progress.stage("vectors of made-up posts") as report:
        material = gather(config)
        vectors = sources.of_towers(material, n_posts + _SPARE, report)
    users, _ = sources.halves(vectors.queries)
    with progress.stage("tune") as report:
        settings = tuner.for_rebuilding(vectors.posts[:n_posts], users, k, config.retrieval.index, report)
    with tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=existing_folder(config.data_dir)) as name:
        folder = Path(name)
        with own_redis(folder / "redis") as own, client_of(own) as client, peak_memory() as peak:
            bench = _Bench(own.url, PostChanges(client), vectors, n_posts, k, settings, folder)
            seen = _run(bench, n_swaps, progress)
    by_stretch: dict[int, list[float]] = {}
    for stretch, recall in seen.recall:
        by_stretch.setdefault(stretch, []).append(recall)
    means = {stretch: float(np.mean(values)) for stretch, values in by_stretch.items()}
    return {
        "posts": n_posts,
        "k": k,
        "index": seen.index,
        "post_to_retrievable_p50_ms": _percentile(seen.come_ms, 50),
        "post_to_retrievable_p99_ms": _percentile(seen.come_ms, 99),
        "delete_to_gone_p50_ms": _percentile(seen.gone_ms, 50),
        "delete_to_gone_p99_ms": _percentile(seen.gone_ms, 99),
        "recall_during_rebuild": round(min(means.values()), 4) if means else None,
        "recall_mean": round(float(np.mean([recall for _, recall in seen.recall])), 4) if seen.recall else None,
        "checked_searches": len(seen.recall),
        "swaps": seen.swaps,
        "requests": seen.searches,
        "failed_requests": len(seen.failures),
        "failures": seen.failures[:5],
        "search_p50_ms": _percentile(seen.search_ms, 50),
        "search_p99_ms": _percentile(seen.search_ms, 99),
        "posts_that_came": len(seen.come_ms),
        "posts_that_went": len(seen.gone_ms),
        "peak_memory_mb": peak.megabytes,
    }


class _Bench(NamedTuple):
    """What one run works with."""

    url: str
    """Of its own Redis."""
    changes: PostChanges
    vectors: Vectors
    n_posts: int
    """Of the first segment; the vectors behind them are of posts that come later."""
    k: int
    settings: IndexConfig
    folder: Path


def _run(bench: _Bench, n_swaps: int, progress: Progress) -> _Seen:
    """Start everything, let it run for so many swaps, stop everything."""
    url, changes, vectors, n_posts, k, settings, folder = bench
    users, queries = sources.halves(vectors.queries)
    segments = folder / "segments"
    ids = np.arange(n_posts, dtype=np.int64)
    language = np.zeros(n_posts, np.int32)
    first = Segment.build(ids, vectors.posts[:n_posts], language, users, k, settings, release="bench")
    live = LiveIndex(Segment.load(first.publish(segments)))
    live.search(queries[:1], k)  # compiles the kernels of a search, which takes longer than a post may
    seen, stop = _Seen(first.index.name), threading.Event()
    existing = _ExistingPosts(ids)
    works: list[Callable[[], None]] = [
        lambda: _follow(live, changes, stop),
        lambda: _swap(live, segments, seen, stop),
        lambda: _add_and_delete(live, changes, vectors.posts, n_posts, existing, k, seen, stop),
        lambda: _search(live, queries, k, existing, seen, stop),
    ]
    threads = [threading.Thread(target=_guarded(work, seen, stop)) for work in works]
    context = multiprocessing.get_context("spawn")
    builder = context.Process(target=_build, args=(url, segments, users, k, settings, n_swaps), daemon=True)
    builder.start()
    with progress.stage("live") as report:
        try:
            for thread in threads:
                thread.start()
            while builder.is_alive() and not stop.is_set():
                time.sleep(0.2)
                report(seen.swaps, n_swaps)
            deadline = time.monotonic() + _GIVE_UP_S
            while seen.swaps < n_swaps and time.monotonic() < deadline and not stop.is_set():
                time.sleep(_POLL_S)
            report(seen.swaps, n_swaps)
        finally:
            stop.set()
            builder.terminate()
            builder.join()
            for thread in threads:
                thread.join()
    return seen


@dataclass
class _ExistingPosts:
    """The posts that the traffic thread has added and not deleted."""

    ids: Ids
    gone: set[int] = field(default_factory=set)
    """Deleted, seen gone, and not added again."""


def _guarded(work: Callable[[], None], seen: _Seen, stop: threading.Event) -> Callable[[], None]:
    """Wrap a thread's work: a failure is counted and ends the run."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            seen.failures.append(f"{type(error).__name__}: {error}")
            stop.set()

    return run


def _follow(live: LiveIndex, changes: PostChanges, stop: threading.Event) -> None:
    while not stop.is_set():
        for change in changes.read(live.position, block_ms=50):
            live.apply(change)


def _swap(live: LiveIndex, segments: Path, seen: _Seen, stop: threading.Event) -> None:
    name = current(segments)
    while not stop.wait(_POLL_S):
        newest = current(segments)
        if newest != name and newest is not None:
            live.swap(Segment.load(newest))
            name = newest
            seen.swaps += 1


def _add_and_delete(
    live: LiveIndex, changes: PostChanges, posts: Floats, n_posts: int, existing: _ExistingPosts, k: int, seen: _Seen,
    stop: threading.Event,
) -> None:  # fmt: skip
    """Add one post after another and delete one now and then; wait for each."""
    rng = np.random.default_rng(7)
    number, next_gone = 0, time.monotonic()
    while not stop.is_set():
        post = n_posts + number % _SPARE
        number += 1
        existing.gone.discard(post)
        start = time.perf_counter()
        changes.append(post, posts[post])
        if not _until(live, post, posts[post], k, True, stop):
            seen.failures.append(f"post {post} did not become retrievable")
        elif not stop.is_set():
            seen.come_ms.append((time.perf_counter() - start) * 1e3)
        if time.monotonic() >= next_gone:
            next_gone += _GONE_EVERY_S
            leaves = int(rng.choice(n_posts)) if number % 2 else post
            if not _is_found(live, leaves, posts[leaves], k):
                continue  # a search for its own vector does not return it, so its deletion could not be observed
            start = time.perf_counter()
            changes.append(leaves, None)
            if not _until(live, leaves, posts[leaves], k, False, stop):
                seen.failures.append(f"post {leaves} did not go")
            elif not stop.is_set():
                seen.gone_ms.append((time.perf_counter() - start) * 1e3)
                existing.gone.add(leaves)
        stop.wait(_COME_EVERY_S)


def _until(live: LiveIndex, post: int, vector: Floats, k: int, found: bool, stop: threading.Event) -> bool:
    deadline = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < deadline and not stop.is_set():
        if _is_found(live, post, vector, k) == found:
            return True
        time.sleep(0.001)
    return stop.is_set()


def _is_found(live: LiveIndex, post: int, vector: Floats, k: int) -> bool:
    """Whether a search with the post's own vector, without freshness, returns it."""
    taste = np.append(vector[:-N_PACES], np.zeros(N_PACES, np.float32))[None, :]
    return bool(post in live.search(taste, k)[1][0])


def _search(
    live: LiveIndex, queries: Floats, k: int, existing: _ExistingPosts, seen: _Seen, stop: threading.Event
) -> None:
    """Search in a loop with short pauses; compare every `_CHECK_EVERY`-th search with an exact one."""
    while not stop.is_set():
        query = queries[seen.searches % len(queries)][None, :]
        gone = set(existing.gone)
        stretch = seen.swaps
        start = time.perf_counter()
        ids = live.search(query, k)[1][0]
        seen.search_ms.append((time.perf_counter() - start) * 1e3)
        seen.searches += 1
        if (ids < 0).any() or len(np.unique(ids)) < k:
            seen.failures.append(f"search {seen.searches} gave {len(np.unique(ids[ids >= 0]))} posts")
        elif gone.intersection(ids.tolist()) & existing.gone:
            seen.failures.append(f"search {seen.searches} gave a post that was gone")
        if seen.searches % _CHECK_EVERY == 0:
            seen.recall.append((stretch, _recall(live, query, ids, k)))
        stop.wait(0.002)


def _recall(live: LiveIndex, query: Floats, found: Ids, k: int) -> float:
    """Share of the k found that score at least the k-th score of an exact search over the existing posts."""
    ids, vectors = live.existing_posts()
    scores = vectors @ query[0]
    kth = np.partition(scores, -k)[-k]
    return float(np.count_nonzero(np.isin(ids, found) & (scores >= kth - 1e-6 * abs(kth)))) / k


def _build(url: str, segments: Path, users: Floats, k: int, settings: IndexConfig, n_swaps: int) -> None:
    """Build segments in a loop, each from the one before and the stream's changes since. Runs in its own process."""
    follow_parent()
    from recsys.config import OnlineConfig

    with connect(OnlineConfig(url=url), Path()) as connection:
        changes = PostChanges(connection.client)
        for _ in range(n_swaps):
            path = current(segments)
            if path is None:
                raise DataError(f"{segments} must have a current segment to build the next one from, got none")
            segment = Segment.load(path)
            told: list[PostChange] = []
            while not told:
                told = changes.read(segment.position, count=1_000_000, block_ms=1000)
            segment.with_changes(told, users, k, settings).publish(segments)
            changes.trim(segment.position)  # whoever is behind the segment before the current one takes the current one
            time.sleep(2 * _POLL_S)  # so that each segment is searched before the next one comes


def _percentile(values: list[float], q: float) -> float | None:
    return round(float(np.percentile(values, q)), 3) if values else None
