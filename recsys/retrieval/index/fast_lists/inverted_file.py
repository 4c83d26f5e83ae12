"""Inverted lists of four-bit codes: how posts are put into lists, coded, and searched.

Takes vectors in order of catalogue row and a sample of the queries to come, gives a segment of the index. Posts that
score alike for those queries share a list. What a post adds to its list's centre is coded in numbers of four bits:
directions in which posts differ much, as queries see it, get two of them, others one, the least none. A search scores
the codes of the best lists (`scan`), then the best of those by a byte per dimension. It does not know posts or users.

Sources: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011, section IV (inverted
file, coding what the centre leaves), and "Searching in one billion vectors: re-rank with source coding", ICASSP 2011;
Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020 (what counts is the
error of the score, not of the vector).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import faiss as _typed_faiss
import numpy as np

from recsys.errors import ReleaseError
from recsys.progress import Report
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.effort import Effort
from recsys.retrieval.index.fast_lists import search_kernel
from recsys.retrieval.index.fast_lists.quantizer import Bytes, Prepared, choose_numbers, chunks, encode
from recsys.retrieval.index.fast_lists.simd import LANES, TURN
from recsys.retrieval.index.fast_lists.top_k_kernel import unsorted
from recsys.retrieval.index.space import SAMPLE, some_of
from recsys.types import Floats, Ids, Rows

faiss: Any = _typed_faiss
"""Untyped: its type hints leave out what its Python layer adds to the C++ interface."""

_TRAINING_ROWS_PER_LIST = 96
"""Posts that a centre is made of. With 64 a search reads 3% more codes for the same recall, with 160 hardly fewer."""
_ROUNDS = 10
FEW = 16_000
"""Where fewer posts may appear, all of them are scored: no search with such a filter is quicker."""


@dataclass(frozen=True, slots=True)
class InvertedFile:
    """L lists of N posts, P bytes a code. Nothing in it changes; arrays may be memory-mapped."""

    to_seen: Floats
    """Queries times this are queries as lists see them, (D, D)."""
    centres: Floats
    """(L, D)."""
    starts: Ids
    """First block of each list, (L + 1,)."""
    sizes: Rows
    """Posts of each list, (L,)."""
    number_of: Rows
    """Dimension that each number of a code is of, (2 P,)."""
    step: Floats
    """What one step of each number stands for, (2 P,)."""
    codes: Bytes
    """Numbers of a code four to two bytes, low halves first, (blocks, P / 2, `LANES`, 2)."""
    rows: Rows
    """Post at each lane, -1 at empty ones, (blocks * LANES,)."""
    kept: Bytes
    """As of `Prepared`, (N, D), and `kept_scale`, (2, D)."""
    kept_scale: Floats

    @property
    def n_posts(self) -> int:
        return len(self.kept)

    @property
    def embedding_size(self) -> int:
        return int(self.kept.shape[1])

    @property
    def n_lists(self) -> int:
        return len(self.centres)

    @property
    def code_bytes(self) -> int:
        """P."""
        return len(self.step) // 2

    @property
    def n_bytes(self) -> int:
        return sum(int(getattr(self, column.name).nbytes) for column in fields(self))

    def n_bytes_with(self, code_bytes: int) -> int:
        """Memory with codes of another length."""
        per_byte = len(self.rows) + 2 * (self.step.itemsize + self.number_of.itemsize)
        return self.n_bytes + (code_bytes - self.code_bytes) * per_byte

    @classmethod
    def grouped(cls, posts: Prepared, n_lists: int, report: Report = lambda done, total: None) -> Self:
        """Lists of these posts, to be `coded`; the same vectors and queries give the same lists on the same machine."""
        n, size = posts.vectors.shape
        places = posts.space.place(some_of(posts.vectors, _TRAINING_ROWS_PER_LIST * n_lists))
        kmeans = faiss.Kmeans(
            size, n_lists, niter=_ROUNDS, seed=1, min_points_per_centroid=1,
            max_points_per_centroid=_TRAINING_ROWS_PER_LIST,
        )  # fmt: skip
        kmeans.train(places)
        list_of = np.empty(n, np.int32)
        for part in chunks(n):
            list_of[part] = kmeans.index.search(posts.space.place(posts.vectors[part]), 1)[1][:, 0]
            report(part.stop, n)
        sizes = np.bincount(list_of, minlength=n_lists).astype(np.int32)
        starts = np.concatenate([[0], np.cumsum(-(-sizes // LANES), dtype=np.int64)])
        order = np.argsort(list_of, kind="stable").astype(np.int32)
        rows = np.full(starts[-1] * LANES, -1, np.int32)
        rows[_filled_lanes(starts, sizes)] = order
        return cls(
            posts.space.to_seen, np.ascontiguousarray(kmeans.centroids), starts, sizes, np.zeros(0, np.int32),
            np.zeros(0, np.float32), np.zeros((0, 0, LANES, 2), np.uint8), rows, posts.kept, posts.kept_scale,
        )  # fmt: skip

    def coded(self, posts: Prepared, code_bytes: int) -> Self:
        """The same lists, of the same posts, with codes of P bytes, a multiple of `TURN`."""
        lane = np.flatnonzero(self.rows >= 0)
        list_of = np.repeat(np.arange(self.n_lists), self.sizes)
        spread = np.random.default_rng(2).permutation(len(lane))[:SAMPLE]
        number_of, step = choose_numbers(self._beyond_centre(posts, lane[spread], list_of[spread]), code_bytes)
        codes = np.zeros((self.starts[-1], code_bytes // 2, LANES, 2), np.uint8)
        for part in chunks(len(lane)):
            at = lane[part]
            numbers = encode(self._beyond_centre(posts, at, list_of[part]), number_of, step)
            fours = numbers.reshape(len(at), code_bytes // 2, 4)
            codes[at // LANES, :, at % LANES] = fours[:, :, :2] | fours[:, :, 2:] << 4
        return replace(self, number_of=number_of, step=step, codes=codes)

    def _beyond_centre(self, posts: Prepared, lane: Ids, list_of: Ids) -> Floats:
        """What the posts at these lanes add to their centres, (M, D)."""
        return posts.space.place(posts.vectors[self.rows[lane]]) - self.centres[list_of]

    def search(self, queries: Floats, k: int, allowed: Bitmap | None, effort: Effort) -> tuple[Floats, Rows]:
        """As `PostIndex.search`, of the lists visited."""
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int32)
        bits, share = (np.empty(0, np.uint8), 1.0) if allowed is None else (allowed.bits, allowed.share)
        few, n_lists = self._few(allowed), effort.lists_with(share)
        wanted = max(k, round(min(k * effort.refine, self.n_posts)))
        # One by one: a product of many queries rounds otherwise than that of one, which then would find others.
        for i, query in enumerate(queries):
            if few:
                n_allowed = round(share * self.n_posts)
                best, largest = search_kernel.best_of_allowed(query, k, self.kept, self.kept_scale, bits, n_allowed)
            else:
                best, largest = search_kernel.best_of_lists(
                    query, n_lists, k, wanted, self.to_seen, self.centres, self.starts, self.sizes, self.number_of,
                    self.step, self.codes, self.rows, self.kept, self.kept_scale, bits, share,
                )  # fmt: skip
            # As one integer each, found posts are sorted by vector instructions, and equal scores by row.
            best.sort()
            unsorted(best, largest, rows[i], scores[i])
        return scores, rows

    def name(self, effort: Effort) -> str:
        """As `4000 lists of 24 B codes, 351 visited, 2 rescored per result`."""
        return (
            f"{self.n_lists} lists of {self.code_bytes} B codes, {effort.lists} visited, "
            f"{effort.refine:g} rescored per result"
        )

    def sees_all(self, allowed: Bitmap | None, effort: Effort) -> bool:
        """Whether a search looks at all posts that may appear, so that a more thorough one would find no more."""
        share = 1.0 if allowed is None else allowed.share
        return self._few(allowed) or effort.lists_with(share) >= self.n_lists

    def _few(self, allowed: Bitmap | None) -> bool:
        return allowed is not None and allowed.share * self.n_posts < FEW

    def visited(self, queries: Floats, effort: Effort) -> float:
        """Lanes that a search without a filter reads on average, at least."""
        coarse = (queries @ self.to_seen) @ self.centres.T
        n = min(effort.lists_with(1.0), self.n_lists)
        lists = np.argpartition(-coarse, n - 1, axis=1)[:, :n]
        return float(np.diff(self.starts)[lists].sum(axis=1).mean()) * LANES

    def save(self, folder: Path) -> list[str]:
        """Write one file per array; their names."""
        for column in fields(self):
            np.save(folder / f"{column.name}.npy", getattr(self, column.name))
        return [f"{column.name}.npy" for column in fields(self)]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open saved lists; arrays are memory-mapped, read-only.

        Raises: OSError or ValueError when a file is missing or truncated, ReleaseError when arrays do not fit.
        """
        columns = [column.name for column in fields(cls)]
        lists = cls(*(np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in columns))
        lists._check(folder)
        return lists

    def _check(self, folder: Path) -> None:
        """Searches read without looking, so places that lie outside must never reach them."""
        n, size = self.kept.shape
        blocks, lists, numbers = len(self.rows) // LANES, len(self.centres), len(self.step)
        wanted: dict[str, tuple[tuple[int, ...], Any]] = {
            "to_seen": ((size, size), np.float32),
            "centres": ((lists, size), np.float32),
            "starts": ((lists + 1,), np.int64),
            "sizes": ((lists,), np.int32),
            "number_of": ((numbers,), np.int32),
            "step": ((numbers,), np.float32),
            "codes": ((blocks, numbers // 4, LANES, 2), np.uint8),
            "rows": ((blocks * LANES,), np.int32),
            "kept": ((n, size), np.uint8),
            "kept_scale": ((2, size), np.float32),
        }
        for name, (shape, kind) in wanted.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind:
                raise ReleaseError(
                    f"{name} of the index in {folder} must be {np.dtype(kind)} {shape}, got {array.dtype} {array.shape}"
                )
        inside = {
            "sizes": self.sizes.min(initial=0) >= 0 and self.sizes.sum() == n,
            "starts": self.starts[0] == 0
            and self.starts[-1] == blocks
            and np.all(np.diff(self.starts) == -(-self.sizes // LANES)),
            "number_of": self.number_of.min(initial=0) >= 0 and self.number_of.max(initial=0) < size,
            "step": numbers > 0 and numbers % (2 * TURN) == 0,
        }
        if bad := [name for name, fits in inside.items() if not fits]:
            raise ReleaseError(f"{bad[0]} of the index in {folder} must lie within its {n} posts and {blocks} blocks")
        posts = np.sort(self.rows[_filled_lanes(self.starts, self.sizes)])
        if not np.array_equal(posts, np.arange(n)) or np.count_nonzero(self.rows >= 0) != n:
            raise ReleaseError(f"rows of the index in {folder} must hold each of its {n} posts once")
        for name in ("to_seen", "centres", "step", "kept_scale"):
            if not np.isfinite(getattr(self, name)).all():
                raise ReleaseError(f"{name} of the index in {folder} must be finite, got NaN or infinity")


def _filled_lanes(starts: Ids, sizes: Rows) -> Ids:
    """Places of the posts, list by list, (N,)."""
    before = np.cumsum(sizes, dtype=np.int64) - sizes
    lanes: Ids = np.arange(int(sizes.sum())) + np.repeat(starts[:-1] * LANES - before, sizes)
    return lanes
