"""The nearest-neighbour index over post vectors: exact for small catalogues, inverted lists with one byte per dimension
for large ones.

Takes vectors in order of catalogue row, gives the best rows for a query by `metric.METRIC`. An index never changes
after it is built: posts that must not appear are left out by a mask that travels with each search, and so do the
search's parameters. Of the vectors' meaning it knows only that the last dimensions are freshness.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import faiss as _typed_faiss
import numpy as np

from recsys.config import IndexConfig
from recsys.errors import DataError, ReleaseError
from recsys.retrieval import freshness
from recsys.retrieval.metric import METRIC
from recsys.types import Floats, Mask, Rows

faiss: Any = _typed_faiss
"""Untyped: its type hints leave out what its Python layer adds to the C++ interface."""

_FAISS_METRIC = {"inner_product": faiss.METRIC_INNER_PRODUCT}[METRIC]
_TRAINING_ROWS_PER_LIST = 64
_RANGE_ROWS = 100_000
"""Posts, at most about twice as many, that set the ranges of the bytes."""

_FILE = "index.faiss"
_AGAIN = "run `recsys train` again"


@dataclass(frozen=True, slots=True)
class PostIndex:
    """N vectors of D dimensions, searchable; safe to share between threads."""

    index: Any
    nprobe: int
    """Inverted lists a search visits at first; 0 for an exact index."""

    @property
    def n_posts(self) -> int:
        return int(self.index.ntotal)

    @property
    def embedding_size(self) -> int:
        return int(self.index.d)

    @property
    def is_exact(self) -> bool:
        return self.nprobe == 0

    @classmethod
    def build(cls, vectors: Floats, config: IndexConfig) -> Self:
        """Index these vectors; row r is result r. The same vectors give the same bytes.

        Args:
            vectors: (N, D), finite.
        Raises: DataError when there is none or one is not finite.
        """
        n, size = vectors.shape
        if not n:
            raise DataError("an index needs at least one post, got 0; run `recsys simulate` or import posts")
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            raise DataError(f"post vectors must be finite, got {len(bad)} that are not (first: row {bad[0]}); {_AGAIN}")
        vectors = np.ascontiguousarray(vectors, np.float32)
        if n < config.exact_below:
            index = faiss.IndexFlatIP(size)
            index.add(vectors)
            return cls(index, 0)
        n_lists = max(1, min(round(config.nlist_factor * n**0.5), n))
        return cls(_inverted_lists(vectors, n_lists), max(1, round(config.nprobe_share * n_lists)))

    def search(self, queries: Floats, k: int, allowed: Mask | None = None) -> tuple[Floats, Rows]:
        """The best k posts of each query, best first.

        Args:
            queries: (B, D), finite.
            allowed: posts that may appear, (N,); None allows all.
        Returns: scores (B, k), -inf padded, and rows (B, k), -1 padded where fewer posts are allowed.
        Raises: DataError when a shape is wrong or a query is not finite.
        """
        if queries.ndim != 2 or queries.shape[1] != self.embedding_size:
            raise DataError(f"queries must have {self.embedding_size} dimensions, got shape {queries.shape}")
        if not np.isfinite(queries).all():
            raise DataError("user vectors must be finite; " + _AGAIN)
        if allowed is not None and allowed.shape != (self.n_posts,):
            raise DataError(f"the mask must cover the index's {self.n_posts} posts, got shape {allowed.shape}")
        n_allowed = self.n_posts if allowed is None else int(np.count_nonzero(allowed))
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int32)
        wanted = min(k, n_allowed)
        if not wanted or not len(queries):
            return scores, rows
        selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        queries = np.ascontiguousarray(queries, np.float32)
        pending, nprobe = np.arange(len(queries)), self.nprobe
        while len(pending):
            found_scores, found = self.index.search(queries[pending], wanted, params=self._parameters(selector, nprobe))
            rows[pending, :wanted] = found
            scores[pending, :wanted] = np.where(found >= 0, found_scores, -np.inf)
            # The visited lists may hold too few allowed posts; then more are visited.
            pending = pending[found[:, -1] < 0]
            nprobe = min(nprobe * 4, self.index.nlist) if nprobe else 0
        return scores, rows

    def _parameters(self, selector: Any, nprobe: int) -> Any:
        if self.is_exact:
            return faiss.SearchParameters(sel=selector)
        return faiss.SearchParametersIVF(sel=selector, nprobe=nprobe)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self.index, str(folder / _FILE))
        about = {
            "metric": METRIC,
            "n_posts": self.n_posts,
            "embedding_size": self.embedding_size,
            "nprobe": self.nprobe,
            "bytes": (folder / _FILE).stat().st_size,
        }
        (folder / "index.json").write_text(json.dumps(about))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a saved index; its vectors are memory-mapped, read-only.

        Raises: ReleaseError when it is missing, truncated, built for another metric or not what its description says.
        """
        path = folder / _FILE
        try:
            about = json.loads((folder / "index.json").read_text())
            size = path.stat().st_size
            # A mapped file that is too short would kill the process when it is read, so its length is checked first.
            if size != about["bytes"]:
                raise ReleaseError(f"{path} must have {about['bytes']} bytes, got {size}; {_AGAIN}")
            if about["metric"] != METRIC:
                raise ReleaseError(f"{path} must be built for {METRIC}, got {about['metric']}; {_AGAIN}")
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
            nprobe = int(about["nprobe"])
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise ReleaseError(
                f"the index in {folder} cannot be read ({' '.join(str(error).split())}); {_AGAIN}"
            ) from None
        if index.metric_type != _FAISS_METRIC:
            raise ReleaseError(f"{path} must be built for {METRIC}, got FAISS metric {index.metric_type}; {_AGAIN}")
        if (index.ntotal, index.d) != (about["n_posts"], about["embedding_size"]):
            raise ReleaseError(
                f"{path} must hold {about['n_posts']} posts of {about['embedding_size']} dimensions, "
                f"got {index.ntotal} of {index.d}; {_AGAIN}"
            )
        return cls(index, nprobe)


def _inverted_lists(vectors: Floats, n_lists: int) -> Any:
    """Lists of posts that score alike, one byte per dimension of each post's distance from its list's centre."""
    seen = _as_users_see(vectors)
    kmeans = faiss.Kmeans(
        seen.shape[1],
        n_lists,
        niter=10,
        seed=1,
        max_points_per_centroid=_TRAINING_ROWS_PER_LIST,
        min_points_per_centroid=1,
    )
    kmeans.train(seen)
    list_of = kmeans.index.search(seen, 1)[1][:, 0].astype(np.int64)
    centres = np.zeros((n_lists, vectors.shape[1]))
    np.add.at(centres, list_of, vectors)
    centres /= np.maximum(np.bincount(list_of, minlength=n_lists), 1)[:, None]
    index = faiss.index_factory(vectors.shape[1], f"IVF{n_lists},SQ8", _FAISS_METRIC)
    index.quantizer.add(centres.astype(np.float32))
    index.train(vectors[:: max(1, len(vectors) // _RANGE_ROWS)])  # the bytes' ranges only: the centres are there
    rows = np.arange(len(vectors), dtype=np.int64)
    index.add_core(len(vectors), faiss.swig_ptr(vectors), faiss.swig_ptr(rows), faiss.swig_ptr(list_of))
    return index


def _as_users_see(vectors: Floats) -> Floats:
    """Vectors scaled so that distance between posts is difference in score, over users at the time of the build.

    A user's output has length 1 and any direction, so each of its K dimensions counts for 1 / K (squared); freshness
    enters every user's score alike, as the sum of its dimensions. Lists made without this mix fresh posts with old ones
    and a search must visit most of them.
    """
    n_output = vectors.shape[1] - freshness.N_PACES
    fresh = vectors[:, n_output:].sum(axis=1, keepdims=True)
    return np.ascontiguousarray(np.hstack([vectors[:, :n_output] / np.float32(max(n_output, 1) ** 0.5), fresh]))
