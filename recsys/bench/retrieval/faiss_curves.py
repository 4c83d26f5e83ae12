"""FAISS's own large indexes, asked as ours is: one query at a time on one core, deleted posts left out inside.

Takes posts and exact answers, gives recall and times of each setting that no other beats in both. It does not know what
the posts are.
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
"""Of the lists, visited."""
_REFINED = (1.5, 2.0)
"""Posts scored exactly for each result, behind the four-bit codes."""


def faiss_curves(
    posts: Floats, allowed: Bitmap, truth: ExactAnswers, n_queries: int
) -> dict[str, list[dict[str, Any]]]:
    """Inverted lists with a byte per dimension, and with four bits, fast scan and exact refinement."""
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
        curves[key] = sorted(
            (
                one
                for one in points
                if not any(
                    other["recall"] >= one["recall"] and other["queries_per_s"] > one["queries_per_s"]
                    for other in points
                )
            ),
            key=lambda one: one["recall"],
        )
    return curves


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
