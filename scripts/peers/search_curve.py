"""What the search peers share: words, timing on one core, recall. Not a script of its own.

Words: folder, k. The folder has `posts.npy` (N, D), `queries.npy` (M, D) and `kth.npy`, the exact k-th score of each
query by inner product. A peer builds with all cores and is then asked one query at a time on one core, each setting in
turn; the last line of stdout is JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

folder, k = Path(sys.argv[1]), int(sys.argv[2])
posts, queries, kth = (np.load(folder / f"{name}.npy") for name in ("posts", "queries", "kth"))
N_CORES = len(os.sched_getaffinity(0))


def one_core():
    """This thread, and those it starts, stay on one core from now on."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def point(name, ask, n_queries=None):
    """Recall and times of one setting on the first queries, on all for None; `ask(query)` gives up to k rows."""
    for query in queries[:20]:
        ask(query)
    found, times = 0, []
    for query, least in zip(queries[:n_queries], kth[:n_queries], strict=True):
        start = time.perf_counter()
        rows = ask(query)
        times.append(time.perf_counter() - start)
        rows = np.asarray(rows, np.int64)
        scores = posts[np.unique(rows[rows >= 0])] @ query
        found += min(np.count_nonzero(scores >= least - 1e-6 * abs(least)), k)
    return {
        "name": name,
        "recall": found / (k * len(times)),
        "p50_ms": float(np.median(times) * 1e3),
        "queries_per_s": len(times) / sum(times),
    }


def tell(curve, build_s):
    print(json.dumps({"curve": curve, "build_s": build_s}))
