"""The exact scan: FAISS's flat index, every post scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import faiss as _typed_faiss
import numpy as np

from recsys.errors import ReleaseError
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.effort import Effort
from recsys.retrieval.towers.metric import METRIC
from recsys.types import Floats, Rows

faiss: Any = _typed_faiss
"""Untyped: its type hints leave out what its Python layer adds to the C++ interface."""

FAISS_METRIC = {"inner_product": faiss.METRIC_INNER_PRODUCT}[METRIC]
FILE = "index.faiss"


@dataclass(frozen=True, slots=True)
class Exact:
    """N vectors of D floats."""

    index: Any

    @property
    def n_posts(self) -> int:
        return int(self.index.ntotal)

    @property
    def embedding_size(self) -> int:
        return int(self.index.d)

    @property
    def n_lists(self) -> int:
        return 0

    @property
    def n_bytes(self) -> int:
        return 4 * self.n_posts * self.embedding_size

    @classmethod
    def build(cls, vectors: Floats) -> Self:
        index = faiss.IndexFlat(vectors.shape[1], FAISS_METRIC)
        index.add(np.ascontiguousarray(vectors, np.float32))
        return cls(index)

    def name(self, effort: Effort) -> str:
        return "exact"

    def sees_all(self, allowed: Bitmap | None, effort: Effort) -> bool:
        """Always true: every allowed post is scored."""
        return True

    def search(self, queries: Floats, k: int, allowed: Bitmap | None, effort: Effort) -> tuple[Floats, Rows]:
        selector = None if allowed is None else faiss.IDSelectorBitmap(allowed.bits)
        parameters = faiss.SearchParameters(sel=selector)
        scores, rows = self.index.search(queries, min(k, self.n_posts), params=parameters)
        return padded(scores, rows, k)

    def save(self, folder: Path) -> list[str]:
        """Write the file; returns its name."""
        faiss.write_index(self.index, str(folder / FILE))
        return [FILE]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a saved scan, memory-mapped and read-only.

        Raises: RuntimeError when FAISS cannot read it, ReleaseError when it is of another metric.
        """
        index = faiss.read_index(str(folder / FILE), faiss.IO_FLAG_MMAP_IFC)
        if index.metric_type != FAISS_METRIC:
            raise ReleaseError(f"{folder / FILE} must be built for {METRIC}, got FAISS metric {index.metric_type}")
        return cls(index)


def padded(scores: Floats, rows: np.ndarray, k: int) -> tuple[Floats, Rows]:
    """FAISS's answer as ours: (B, k') to (B, k), missing scores -inf and missing rows -1."""
    missing = ((0, 0), (0, k - rows.shape[1]))
    scores = np.where(rows >= 0, scores, -np.inf).astype(np.float32)
    return (
        np.pad(scores, missing, constant_values=-np.inf),
        np.pad(rows.astype(np.int32), missing, constant_values=-1),
    )
