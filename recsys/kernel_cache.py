"""Recompile a cached numba kernel when any file that it inlines from has changed.

numba checks only the kernel's own file, so it would load a kernel with outdated code inlined from other files. Here the
cache depends on the text of all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def source_stamp(files: Iterable[Path]) -> str:
    """SHA-256 of the text of these files."""
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def with_stamp(kernel: Any, stamp: str) -> Any:
    """The same compiled function (`cache=True`), which loads its cache only if it was saved with this stamp."""
    kernel._cache._cache_file._source_stamp = stamp
    return kernel
