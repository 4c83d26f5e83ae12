"""ScaNN as its guide advises for this size: leaves twice the square root of the posts, four-bit codes of two dimensions
each with the anisotropic loss, re-ordering by the vectors; a grid of leaves searched and posts re-ordered, of which the
best front counts. See `search_curve`.
"""

import math
import time

import scann
from search_curve import k, one_core, point, posts, tell

leaves = round(2 * math.sqrt(len(posts)))
start = time.perf_counter()
index = (
    scann.scann_ops_pybind.builder(posts, k, "dot_product")
    .tree(leaves, leaves // 10, training_sample_size=min(len(posts), 250_000))
    .score_ah(2, anisotropic_quantization_threshold=0.2)
    .reorder(5 * k)
    .build()
)
build_s = time.perf_counter() - start
one_core()
curve = []
for share in (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3):
    for reordered in (1.5, 2, 3, 4, 5):
        searched, pre = max(1, round(leaves * share)), round(k * reordered)
        curve.append(
            point(
                f"{leaves} leaves, {searched} searched, {pre} re-ordered",
                lambda query, searched=searched, pre=pre: index.search(
                    query, final_num_neighbors=k, pre_reorder_num_neighbors=pre, leaves_to_search=searched
                )[0],
            )
        )
# Only settings that no other beats in both recall and speed.
front = [
    a for a in curve if not any(b["recall"] >= a["recall"] and b["queries_per_s"] > a["queries_per_s"] for b in curve)
]
tell(sorted(front, key=lambda a: a["recall"]), build_s)
