"""FAISS's own factory strings, built as anyone would, without moving vectors: the baseline of the index benchmark.

Searched one query at a time on one core, deleted posts filtered inside the search. Takes posts and exact answers, gives
recall and times of each setting that no other beats in both.
"""

from __future__ import annotations

import math
import time
from typing import Any

import faiss as _typed_faiss
import numpy as np

from recsys.bench.one_core import one_core
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.tuner import ExactAnswers
from recsys.types import Floats

faiss: Any = _typed_faiss

SHARES = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.125, 0.16)
"""Shares of the lists that are visited."""
_REFINED = (1.5, 2.0)
"""Posts scored exactly for each result, behind the four-bit codes."""


def faiss_curves(
    posts: Floats, allowed: Bitmap, truth: ExactAnswers, n_queries: int
) -> dict[str, list[dict[str, Any]]]:
    """Curves of two factory strings: a byte per dimension, and four bits with fast scan and exact refinement.

    Args:
        posts: (N, D).
        truth: queries and exact answers; the first `n_queries` are asked.
    Returns: factory string to points of `recall`, `p50_ms` and `queries_per_s`, by recall.
    """
    n, size = posts.shape
    n_lists = round(2 * math.sqrt(n))
    curves = {}
    for key in (f"IVF{n_lists},SQ8", f"IVF{n_lists},PQ{size}x4fsr,RFlat"):
        index = faiss.index_factory(size, key, faiss.METRIC_INNER_PRODUCT)
        faiss.extract_index_ivf(index).cp.max_points_per_centroid = 64
        index.train(posts[np.random.default_rng(3).permutation(n)[: 64 * n_lists]])
        index.add(posts)
        visited = [max(1, round(share * n_lists)) for share in SHARES]
        with one_core():
            points: list[dict[str, Any]] = [
                {"name": f"{key}, nprobe {nprobe}" + (f", refine {refined:g}" if refined else "")}
                | _point(index, _parameters(nprobe, allowed, refined), posts, truth.first(n_queries))
                for refined in (_REFINED if "RFlat" in key else (None,))
                for nprobe in visited
            ]
        curves[key] = front(points)
    return curves


def front(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The points that no other beats in both recall and speed, by recall."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (-point["queries_per_s"], -point["recall"])):
        if not best or point["recall"] > best[-1]["recall"]:
            best.append(point)
    return best


def _parameters(nprobe: int, allowed: Bitmap, refined: float | None) -> Any:
    selector = faiss.IDSelectorBitmap(allowed.bits)
    lists = faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
    return lists if refined is None else faiss.IndexRefineSearchParameters(k_factor=refined, base_index_params=lists)


def _point(index: Any, parameters: Any, posts: Floats, truth: ExactAnswers) -> dict[str, float]:
    times, rows = [], []
    for i in range(len(truth.queries)):
        start = time.perf_counter()
        rows.append(index.search(truth.queries[i : i + 1], truth.k, params=parameters)[1][0])
        times.append(time.perf_counter() - start)
    return {
        "recall": round(float(truth.recall(posts, np.array(rows)).mean()), 4),
        "p50_ms": round(float(np.median(times)) * 1e3, 4),
        "queries_per_s": round(len(times) / sum(times), 1),
    }
