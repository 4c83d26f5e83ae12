"""When compiled loops in numba's cache are too old.

numba trusts a cached kernel as long as the kernel's own file is unchanged, although what it inlined from others may be
old. Here the text of all of them counts. It does not know what a kernel computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def stamp_of(files: Iterable[Path]) -> str:
    """Changes with the text of any of these files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def stamped(kernel: Any, stamp: str) -> Any:
    """The same compiled function (`cache=True`), loaded from the cache only if it was saved with this stamp."""
    kernel._cache._cache_file._source_stamp = stamp
    return kernel
