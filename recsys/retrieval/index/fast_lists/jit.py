"""Compile the inner loops of a search once, then load them from numba's cache.

Takes a function, gives its compiled form.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from recsys.kernel_cache import source_stamp, with_stamp

_FILES = ("search_kernel.py", "simd.py", "top_k_kernel.py")
"""Files whose compiled functions call each other: a change to one recompiles all."""
_STAMP = source_stamp([Path(__file__).with_name(name) for name in (*_FILES, Path(__file__).name)])
_NJIT: Any = numba.njit(cache=True, nogil=True, error_model="numpy", fastmath=True)
"""`fastmath` lets sums run in any order, so that they become vector instructions. It requires finite inputs."""


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function. The cache is invalidated when the text of any of `_FILES` or of this file changes."""
    return with_stamp(_NJIT(function), _STAMP)
