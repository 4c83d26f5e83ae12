"""Work on one core: what a benchmark of single searches measures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _typed_faiss
import threadpoolctl  # type: ignore[import-untyped]

faiss: Any = _typed_faiss


@contextmanager
def one_core() -> Iterator[None]:
    """This thread stays on one core while the block runs, and numerical libraries use no other thread."""
    cores, threads = os.sched_getaffinity(0), faiss.omp_get_max_threads()
    os.sched_setaffinity(0, {min(cores)})
    faiss.omp_set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        faiss.omp_set_num_threads(threads)
        os.sched_setaffinity(0, cores)
