"""Compile the world's kernels once, then load them from numba's cache.

Takes a function, gives its compiled form. It does not know what the function computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from recsys.kernel_cache import source_stamp, with_stamp


def jit_of(folder: Path, allocates: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """A compiling decorator for functions that call each other across the files below one folder.

    The cache depends on the text of all these files (`kernel_cache`), so an edit of the choice model recompiles every
    kernel.

    Args:
        allocates: whether the functions create arrays. Functions that do not are compiled without reference counting:
            counting the truth's arrays up and down at every call costs more than the choice model itself. numba
            refuses to compile such a function if it allocates.
    """
    stamp = source_stamp(sorted(folder.rglob("*.py")))

    def jit(function: Callable[..., Any]) -> Any:
        njit: Any = numba.njit  # numba's type stubs lack _nrt
        return with_stamp(njit(cache=True, nogil=True, error_model="numpy", _nrt=allocates)(function), stamp)

    return jit


JIT = jit_of(Path(__file__).parent)
JIT_ALLOCATING = jit_of(Path(__file__).parent, allocates=True)
