"""hnswlib as its authors advise: M 16, ef_construction 200, and ef at search from k upward. See `search_curve`."""

import time

import hnswlib
import numpy as np
from search_curve import N_CORES, k, one_core, point, posts, tell

start = time.perf_counter()
index = hnswlib.Index(space="ip", dim=posts.shape[1])
index.init_index(max_elements=len(posts), M=16, ef_construction=200, random_seed=1)
index.add_items(posts, np.arange(len(posts)), num_threads=N_CORES)
build_s = time.perf_counter() - start
one_core()
curve = []
for ef in (1, 1.2, 1.5, 2, 3, 4, 6, 10):
    index.set_ef(int(k * ef))
    curve.append(point(f"M 16, ef {int(k * ef)}", lambda query: index.knn_query(query, k=k, num_threads=1)[0][0]))
    if curve[-1]["recall"] > 0.99:
        break
tell(curve, build_s)
