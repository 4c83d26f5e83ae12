"""How the world's kernels are compiled: once, then loaded from numba's cache.

Takes a function, gives its compiled form. It does not know what the function computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def jit_of(folder: Path, allocates: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """A compiling decorator for functions that use each other across the files of one folder.

    numba trusts a cached kernel as long as the kernel's own file is unchanged, although what it inlined from others
    may be old. Here the whole folder's text counts, so an edit of the choice model reaches every kernel.

    Args:
        allocates: whether the functions make arrays. Those that do not are compiled without reference counting:
            handing the truth's arrays from function to function would otherwise count each of them up and down, which
            costs more than the choice model itself. numba refuses such a function when it allocates after all.
    """
    stamp = hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()

    def jit(function: Callable[..., Any]) -> Any:
        njit: Any = numba.njit  # its stubs do not know _nrt
        kernel = njit(cache=True, nogil=True, error_model="numpy", _nrt=allocates)(function)
        kernel._cache._cache_file._source_stamp = stamp
        return kernel

    return jit


JIT = jit_of(Path(__file__).parent)
JIT_ALLOCATING = jit_of(Path(__file__).parent, allocates=True)
