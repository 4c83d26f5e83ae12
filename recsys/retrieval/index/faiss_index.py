"""FAISS's inverted lists: the index of large catalogues.

Takes vectors and a sample of queries, gives a segment of the index. Three things differ from a plain
`index_factory(...).train(...).add(...)`. Together they find .95 of the best 500 of a million at the worst moment with
ten of a thousand lists visited; a plain index finds .61 with as many.

    1. Posts and queries are moved into a space in which queries point in all directions equally (`space`); inner
       products stay what they are, and distance between posts becomes the difference of their scores.
    2. Lists are made by distance in that space (k-means, L2), so that posts with similar scores share a list.
    3. A search then visits the lists whose centres have the largest inner product with the query.

Filters work inside the search (`IDSelectorBitmap`); search parameters travel with the call, the index never changes.

Sources: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011 (inverted lists, residual
codes); Andre, Kermarrec, Le Scouarnec, "Cache locality is not enough", VLDB 2015 (4-bit fast scan); Douze et al., "The
Faiss library", 2024.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import faiss as _typed_faiss
import numpy as np

from recsys.config import IndexConfig
from recsys.errors import DataError, ReleaseError
from recsys.progress import Report
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.clustering import cluster
from recsys.retrieval.index.effort import SCORE_ALL_BELOW, Effort
from recsys.retrieval.index.exact import FAISS_METRIC, FILE, padded
from recsys.retrieval.index.space import SAMPLE, Space, some_of
from recsys.retrieval.towers.metric import METRIC
from recsys.types import Floats, Rows

faiss: Any = _typed_faiss

CODES = "PQ{size}x4fsr,Refine(SQfp16)"
"""Codes of the posts: 4-bit product quantisation of the difference from the centre, scored by vector instructions; the
best are rescored with half-precision floats. `RFlat` (float32) has the same recall for 128 bytes more a post,
`Refine(SQ8)` up to .01 less recall for 64 bytes less."""
REFINES = (1.5, 2.0, 3.0, 5.0)
"""Posts rescored per result that the tuner tries."""
_LEAST_TRAINING_ROWS = 1024
_ADDED_AT_ONCE = 100_000

# Nanoseconds of a search on one core with 512-bit vectors, fitted to searches of a million posts; they only rank
# configurations, so that the same vectors give the same index on every machine.
_PER_SEARCH = 110_000.0
_PER_CENTRE_BYTE = 0.08
_PER_CODE_BYTE = 0.125
_PER_RESCORED = 130.0


class Moved(NamedTuple):
    """Posts and the space that their lists are made in."""

    vectors: Floats
    """(N, D)."""
    space: Space


@dataclass(frozen=True, slots=True)
class FaissIndex:
    """N posts in FAISS's inverted lists. Nothing in it changes; safe to share between threads."""

    index: Any
    """An IVF index, or one inside an `IndexRefine`."""
    space: Space
    factory: str
    """FAISS's name for it, as `IVF2000,PQ64x4fsr,Refine(SQfp16)`."""

    @property
    def n_posts(self) -> int:
        return int(self.index.ntotal)

    @property
    def embedding_size(self) -> int:
        return int(self.index.d)

    @property
    def n_lists(self) -> int:
        return int(self._ivf.nlist)

    @property
    def n_bytes(self) -> int:
        """Memory: codes and ids, what refining reads, and the centres."""
        per_post = int(self._ivf.code_size) + 8 + (int(self._refined.sa_code_size()) if self._is_refined else 0)
        return per_post * self.n_posts + 4 * self.n_lists * self.embedding_size

    @property
    def _ivf(self) -> Any:
        return faiss.extract_index_ivf(self.index)

    @property
    def _is_refined(self) -> bool:
        return hasattr(self.index, "refine_index")

    @property
    def _refined(self) -> Any:
        return faiss.downcast_index(self.index.refine_index)

    def name(self, effort: Effort) -> str:
        return f"{self.factory}, {effort.lists} visited" + (
            f", {effort.refine:g} rescored per result" if self._is_refined else ""
        )

    @classmethod
    def build(cls, posts: Moved, factory: str, report: Report = lambda done, total: None) -> Self:
        """Train and fill FAISS's lists. The same vectors and queries give the same index on the same machine.

        Args:
            factory: FAISS's factory string; it must begin with `IVF`.
        Raises: DataError when FAISS does not know the string, or N is too small for it.
        """
        vectors, space = posts
        n, size = vectors.shape
        try:
            index = faiss.index_factory(size, factory, FAISS_METRIC)
            ivf = faiss.downcast_index(faiss.extract_index_ivf(index))
        except RuntimeError as error:
            raise DataError(
                f"retrieval.index.factory must be a string that FAISS knows for {size} dimensions, got {factory!r} "
                f"({_short(error)}); leave it empty for the tuner's choice"
            ) from None
        if ivf.nlist > n:
            raise DataError(
                f"retrieval.index.factory must not have more lists than posts, got {factory!r} for {n}; lower it"
            )
        if hasattr(ivf, "do_polysemous_training"):
            # FAISS would order 8-bit codes for polysemous search, seconds per byte of a code; nothing here uses it.
            ivf.do_polysemous_training = False
        kmeans = cluster(space, vectors, ivf.nlist)
        # Posts go to the list with the nearest centre ...
        _set_quantizer(ivf, faiss.IndexFlatL2(size), kmeans.centroids)
        sample = some_of(vectors, SAMPLE)
        # FAISS wants several posts for each of a code's 16 levels; of few posts each counts several times.
        index.train(space.place(sample[np.arange(max(len(sample), _LEAST_TRAINING_ROWS)) % len(sample)]))
        for start in range(0, n, _ADDED_AT_ONCE):
            part = slice(start, min(start + _ADDED_AT_ONCE, n))
            index.add(space.place(vectors[part]))
            report(part.stop, n)
        # ... and queries to the lists whose centres score best.
        _set_quantizer(ivf, faiss.IndexFlatIP(size), kmeans.centroids)
        return cls(index, space, factory)

    def search(self, queries: Floats, k: int, allowed: Bitmap | None, effort: Effort) -> tuple[Floats, Rows]:
        """As `PostIndex.search`, of the lists visited."""
        scores, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int32)
        index, parameters = self._asked(k, allowed, effort)
        # One by one: FAISS picks another algorithm for many queries, and a product of matrices rounds otherwise.
        for i in range(len(queries)):
            # Freshness far from the build makes numbers so large that products would leave float32.
            largest = np.maximum(np.abs(queries[i : i + 1]).max(), np.float32(1e-30))
            seen = np.ascontiguousarray((queries[i : i + 1] / largest) @ self.space.to_seen)
            if not seen.any():  # all posts tie; fast scan needs some direction to find any
                seen += 1
            found, found_rows = index.search(seen, min(k, self.n_posts), params=parameters)
            found, rows[i : i + 1] = padded(found, found_rows, k)
            scores[i : i + 1] = found * largest
        return scores, rows

    def sees_all(self, allowed: Bitmap | None, effort: Effort) -> bool:
        """Whether a search looks at all allowed posts, so that a more thorough one would find no more."""
        share = 1.0 if allowed is None else allowed.share
        return self._scores_allowed(allowed) or effort.lists_with(share) >= self.n_lists

    def _scores_allowed(self, allowed: Bitmap | None) -> bool:
        return self._is_refined and allowed is not None and allowed.share * self.n_posts < SCORE_ALL_BELOW

    def _asked(self, k: int, allowed: Bitmap | None, effort: Effort) -> tuple[Any, Any]:
        """The FAISS index to search, and its search parameters."""
        share, selector = (1.0, None) if allowed is None else (allowed.share, faiss.IDSelectorBitmap(allowed.bits))
        if self._scores_allowed(allowed):
            return self._refined, faiss.SearchParameters(sel=selector)
        # The posts left out were returned to this user before and are mostly the best matches: search as deep as for
        # k and these together.
        deeper = 1.0 + (0 if allowed is None else allowed.n_left_out) / k
        n_lists = min(round(effort.lists_with(share) * deeper), self.n_lists)
        of_lists = faiss.SearchParametersIVF(nprobe=n_lists, sel=selector)
        if not self._is_refined:
            return self.index, of_lists
        return self.index, faiss.IndexRefineSearchParameters(
            k_factor=effort.refine * deeper, base_index_params=of_lists
        )

    def save(self, folder: Path) -> list[str]:
        """Write the files; returns their names."""
        faiss.write_index(self.index, str(folder / FILE))
        names = [f"{name}.npy" for name in self.space.save(folder)]
        (folder / "factory.txt").write_text(self.factory)
        return [FILE, *names, "factory.txt"]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Memory-mapped, read-only; codes of fast scan are copied (some 40 bytes a post), which FAISS cannot map.

        Raises: RuntimeError when FAISS cannot read it, OSError or ValueError when a file is missing or truncated,
            ReleaseError when it is of another metric.
        """
        index = faiss.read_index(str(folder / FILE), faiss.IO_FLAG_MMAP_IFC)
        if index.metric_type != FAISS_METRIC:
            raise ReleaseError(f"{folder / FILE} must be built for {METRIC}, got FAISS metric {index.metric_type}")
        loaded = cls(index, Space.load(folder), (folder / "factory.txt").read_text())
        if loaded.space.to_seen.shape != (index.d, index.d):
            raise ReleaseError(
                f"to_seen of the index in {folder} must be {(index.d,) * 2}, got {loaded.space.to_seen.shape}"
            )
        return loaded


def _set_quantizer(ivf: Any, quantizer: Any, centres: Floats) -> None:
    """Let this flat index hold the centres of an IVF index."""
    quantizer.add(centres)
    ivf.quantizer = quantizer
    # FAISS must not free an object that Python owns, and Python must keep it as long as the index.
    ivf.own_fields = False
    quantizer.this.disown()
    ivf.own_fields = True


def prepare(vectors: Floats, queries: Floats) -> Moved:
    """Fit the space and move the posts into it.

    Args:
        vectors: (N, D), finite, N > 0.
        queries: a sample of queries, (M, D), finite, M > 0.
    Raises: DataError when most places are too large for float32 distances.
    """
    return Moved(vectors, Space.fit(vectors, queries).within_one(vectors))


def variants(posts: Moved, n_lists: int, config: IndexConfig, report: Report) -> Iterator[tuple[FaissIndex, float]]:
    """Build an index with `n_lists` lists; gives it and the seconds it took."""
    start = time.perf_counter()
    index = as_set(posts, n_lists, config, report)
    yield index, time.perf_counter() - start


def as_set(posts: Moved, n_lists: int, config: IndexConfig, report: Report = lambda done, total: None) -> FaissIndex:
    """Build the index that the settings describe, without tuning."""
    size = posts.vectors.shape[1]
    return FaissIndex.build(posts, config.factory or f"IVF{n_lists}," + CODES.format(size=size), report)


def lists_of(factory: str) -> int:
    """Number of lists in a factory string: 2000 for `IVF2000,PQ64x4fsr,RFlat`."""
    found = re.match(r"IVF(\d+),", factory)
    if found is None:
        raise ValueError(f"a factory string must begin with IVF and a number, got {factory!r}")
    return int(found[1])


def cost_ns(index: FaissIndex, queries: Floats, effort: Effort, k: int) -> float:
    """Modelled cost of one search with this effort. `queries` are not used: lists are of similar length."""
    visited = min(effort.lists, index.n_lists) * index.n_posts / index.n_lists
    code_bytes = int(index._ivf.code_size)
    return least_cost_ns(index.n_lists, index.embedding_size, index.n_posts, effort.refine * k) + (
        _PER_CODE_BYTE * code_bytes * visited
    )


def least_cost_ns(n_lists: int, size: int, n_posts: int, rescored: float) -> float:
    """Lower bound of the modelled cost: a search that visits no list."""
    return _PER_SEARCH + _PER_CENTRE_BYTE * 4 * n_lists * size + _PER_RESCORED * rescored


def _short(error: Exception) -> str:
    """FAISS's error text without its C++ location."""
    return str(error).split(": ", 1)[-1].splitlines()[0][:120]
