"""How the inner loops of a search are compiled: once, then loaded from numba's cache.

Takes a function, gives its compiled form. It does not know what the function computes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from recsys.kernel_cache import source_stamp, with_stamp

_FILES = ("search_kernel.py", "simd.py", "top_k_kernel.py")
"""Those whose functions are made of each other."""
_STAMP = source_stamp([Path(__file__).with_name(name) for name in (*_FILES, Path(__file__).name)])
_NJIT: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
"""Sums in any order, so that they become vector instructions; every number that comes in is finite."""


def jit(function: Callable[..., Any]) -> Any:
    """Compiled, anew when the text of any of these files has changed."""
    return with_stamp(_NJIT(function), _STAMP)
