"""USearch with its defaults (connectivity 16, expansion 128 when adding) and half precision off; what of the processor
it uses is part of each setting's name. See `search_curve`.
"""

import time

import numpy as np
from search_curve import N_CORES, k, one_core, point, posts, tell
from usearch.index import Index

start = time.perf_counter()
index = Index(ndim=posts.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=128)
index.add(np.arange(len(posts)), posts, threads=N_CORES)
build_s = time.perf_counter() - start
one_core()
curve = []
for factor in (1, 1.2, 1.5, 2, 3, 4, 6, 10):
    index.expansion_search = int(k * factor)
    curve.append(
        point(
            f"connectivity 16, expansion {int(k * factor)}, {index.hardware_acceleration}",
            lambda query: index.search(query, k, threads=1).keys,
        )
    )
    if curve[-1]["recall"] > 0.99:
        break
tell(curve, build_s)
