"""ScaNN as its guide advises for this size: leaves twice the square root of the posts, four-bit codes of two dimensions
each with the anisotropic loss, re-ordering by the vectors; also twice as many leaves, re-ordering by a byte per
dimension, and posts that stand in a second leaf (SOAR). Of a grid of leaves searched and posts re-ordered the best
front of all counts. See `search_curve`.
"""

import math
import time

import scann
from scann.scann_ops.py.scann_builder import ReorderType
from search_curve import k, one_core, point, posts, tell

VARIANTS = {
    "": (2, {}, ReorderType.FLOAT32),
    "bytes": (2, {}, ReorderType.INT8),
    "more leaves, bytes": (4, {}, ReorderType.INT8),
    "SOAR, bytes": (2, {"soar_lambda": 1.5, "overretrieve_factor": 2.0}, ReorderType.INT8),
}
"""Leaves per square root of the posts, further settings of the tree, and what is re-ordered by."""
SHARES = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3)
REORDERED = (1.4, 2, 3, 4, 5)
N_FIRST = 250


def ask(index, searched, pre):
    return lambda query: index.search(
        query, final_num_neighbors=k, pre_reorder_num_neighbors=pre, leaves_to_search=searched
    )[0]


def front(curve):
    """Those that no other beats in both recall and speed."""
    return [
        a
        for a in curve
        if not any(b["recall"] >= a["recall"] and b["queries_per_s"] > a["queries_per_s"] for b in curve)
    ]


settings, build_s = {}, {}
for variant, (per_root, tree, reorder) in VARIANTS.items():
    leaves = round(per_root * math.sqrt(len(posts)))
    start = time.perf_counter()
    index = (
        scann.scann_ops_pybind.builder(posts, k, "dot_product")
        .tree(leaves, leaves // 10, training_sample_size=min(len(posts), 250_000), **tree)
        .score_ah(2, anisotropic_quantization_threshold=0.2)
        .reorder(5 * k, quantize=reorder)
        .build()
    )
    build_s[variant] = time.perf_counter() - start
    for share in SHARES:
        for reordered in REORDERED:
            searched, pre = max(1, round(leaves * share)), round(k * reordered)
            name = " ".join(filter(None, (variant, f"{leaves} leaves, {searched} searched, {pre} re-ordered")))
            settings[name] = ask(index, searched, pre)
one_core()
# Which are worth a longer look is seen on some of the queries.
worth = front([point(name, asked, N_FIRST) for name, asked in settings.items()])
curve = [point(one["name"], settings[one["name"]]) for one in worth]
tell(sorted(front(curve), key=lambda one: one["recall"]), build_s[""])
