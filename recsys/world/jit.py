"""How the world's kernels are compiled: once, then loaded from numba's cache.

Takes a function, gives its compiled form. It does not know what the function computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from recsys.kernel_cache import stamp_of, stamped


def jit_of(folder: Path, allocates: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """A compiling decorator for functions that use each other across the files of one folder and those below.

    The whole folder's text counts (`kernel_cache`), so an edit of the choice model reaches every kernel.

    Args:
        allocates: whether the functions make arrays. Those that do not are compiled without reference counting:
            handing the truth's arrays from function to function would otherwise count each of them up and down, which
            costs more than the choice model itself. numba refuses such a function when it allocates after all.
    """
    stamp = stamp_of(sorted(folder.rglob("*.py")))

    def jit(function: Callable[..., Any]) -> Any:
        njit: Any = numba.njit  # its stubs do not know _nrt
        return stamped(njit(cache=True, nogil=True, error_model="numpy", _nrt=allocates)(function), stamp)

    return jit


JIT = jit_of(Path(__file__).parent)
JIT_ALLOCATING = jit_of(Path(__file__).parent, allocates=True)
