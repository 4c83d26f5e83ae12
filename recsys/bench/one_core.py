"""Run code on one core, and name the processor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import faiss as _typed_faiss
import llvmlite.binding as llvm  # type: ignore[import-untyped]
import threadpoolctl  # type: ignore[import-untyped]

faiss: Any = _typed_faiss


_VECTORS = ("avx512f", "avx2", "sse2", "sve", "neon")
"""Vector instruction sets, widest first, of x86 and of Arm."""


def processor() -> str:
    """The processor and its widest vectors, as `znver3, avx2`; ratios between programs depend on both."""
    has = llvm.get_host_cpu_features()
    return ", ".join([llvm.get_host_cpu_name(), *[name for name in _VECTORS if has.get(name)][:1]])


@contextmanager
def one_core() -> Iterator[None]:
    """Pin this thread to one core while the block runs, and give numerical libraries one thread."""
    cores, threads = os.sched_getaffinity(0), faiss.omp_get_max_threads()
    os.sched_setaffinity(0, {min(cores)})
    faiss.omp_set_num_threads(1)
    try:
        with threadpoolctl.threadpool_limits(1):
            yield
    finally:
        faiss.omp_set_num_threads(threads)
        os.sched_setaffinity(0, cores)
