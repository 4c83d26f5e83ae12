"""Fast lists for the tuner: the variants to build and the cost of a search.

Costs come from a model of bytes and rows read, not from a clock, so that the same vectors always give the same index.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

from recsys.config import IndexConfig
from recsys.progress import Report
from recsys.retrieval.index.effort import Effort
from recsys.retrieval.index.fast_lists.inverted_file import InvertedFile
from recsys.retrieval.index.fast_lists.quantizer import Prepared
from recsys.types import Floats

CODE_BYTES = (16, 24, 32)
"""Code lengths that the tuner tries."""
REFINES = (1.4, 1.7, 2.0, 2.5, 3.0, 4.0, 6.0)
"""Posts rescored per result that the tuner tries."""

# Nanoseconds on one core with 512-bit vectors, fitted to 144 kinds of searches of 1, 3 and 10 million synthetic posts.
# Eight of ten predictions are within 10%. Only the proportions matter: they weigh the parts of a search.
_PER_SEARCH = 8_000.0
_PER_CENTRE_BYTE = 0.032
_PER_CODE_BYTE = 0.046
_PER_LANE = 0.044
_PER_RESCORED = 30.0
"""Among a million posts."""
_PER_RESCORED_TENFOLD = 31.0
"""Added for every factor of ten in the number of posts: more posts mean more cache misses."""
_LEAST_PER_RESCORED = 10.0


prepare = Prepared.of
"""`prepare(vectors, queries)` computes what all variants share."""


def variants(
    posts: Prepared, n_lists: int, config: IndexConfig, report: Report
) -> Iterator[tuple[InvertedFile, float]]:
    """Build `n_lists` lists with each code length that fits the memory limit; the shortest is always built.

    Yields: the lists and the seconds to build them, clustering included.
    """
    start = time.perf_counter()
    lists = InvertedFile.grouped(posts, n_lists, report)
    grouped_s = time.perf_counter() - start
    for code_bytes in CODE_BYTES:
        if code_bytes == CODE_BYTES[0] or lists.n_bytes_with(code_bytes) <= config.max_bytes * lists.n_posts:
            start = time.perf_counter()
            coded = lists.coded(posts, code_bytes)
            yield coded, grouped_s + time.perf_counter() - start


def as_set(posts: Prepared, n_lists: int, config: IndexConfig) -> InvertedFile:
    """Build the lists that the settings describe, without tuning."""
    return InvertedFile.grouped(posts, n_lists).coded(posts, config.code_bytes)


def cost_ns(lists: InvertedFile, queries: Floats, effort: Effort, k: int) -> float:
    """Modelled cost of one search with this effort, in nanoseconds; the mean over these queries, (M, D)."""
    read = lists.visited(queries, effort)
    return least_cost_ns(lists.n_lists, lists.embedding_size, lists.n_posts, effort.refine * k) + (
        (_PER_CODE_BYTE * lists.code_bytes + _PER_LANE) * read
    )


def least_cost_ns(n_lists: int, size: int, n_posts: int, rescored: float) -> float:
    """Modelled cost of a search that visits no list, in nanoseconds: a lower bound for any search."""
    per_rescored = _PER_RESCORED + _PER_RESCORED_TENFOLD * math.log10(max(n_posts, 1) / 1e6)
    return _PER_SEARCH + _PER_CENTRE_BYTE * 4 * n_lists * size + max(per_rescored, _LEAST_PER_RESCORED) * rescored
