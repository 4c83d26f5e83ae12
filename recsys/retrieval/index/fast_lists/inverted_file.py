"""An inverted file of four-bit codes: build it, search it, save and load it.

Takes post vectors in order of catalogue row and a sample of the expected queries; gives a segment of the index. Posts
with similar scores for those queries share a list. A post's code describes its residual, the difference to its list's
centre, in four-bit numbers (`quantizer`). A search scores the codes of the best lists and rescores the best posts by
one byte per dimension (`search_kernel`). This module knows vectors only, neither posts nor users.

Sources: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", PAMI 2011, section IV (inverted
file, codes of residuals), and "Searching in one billion vectors: re-rank with source coding", ICASSP 2011; Guo et al.,
"Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020 (minimise the error of the score,
not of the vector).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from recsys.errors import ReleaseError
from recsys.progress import Report
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.clustering import cluster
from recsys.retrieval.index.effort import SCORE_ALL_BELOW, Effort
from recsys.retrieval.index.fast_lists import search_kernel
from recsys.retrieval.index.fast_lists.quantizer import Bytes, Prepared, allocate_nibbles, chunks, encode
from recsys.retrieval.index.fast_lists.simd import BYTES_PER_CALL, LANES
from recsys.retrieval.index.fast_lists.top_k_kernel import unpack_sort_keys
from recsys.retrieval.index.space import SAMPLE
from recsys.types import Floats, Ids, Rows


@dataclass(frozen=True, slots=True)
class InvertedFile:
    """L lists of N posts with codes of P bytes. Immutable; arrays may be memory-mapped.

    A list is stored in blocks of `LANES` posts. Its last block may have empty lanes.
    """

    to_seen: Floats
    """Transforms queries to the space of the lists, (D, D): query @ to_seen."""
    centres: Floats
    """Centre of each list, (L, D)."""
    starts: Ids
    """First block of each list, (L + 1,)."""
    sizes: Rows
    """Number of posts in each list, (L,)."""
    number_of: Rows
    """Dimension that each nibble of a code describes, (2 P,)."""
    step: Floats
    """Quantization step of each nibble, (2 P,)."""
    codes: Bytes
    """(blocks, P / 2, `LANES`, 2). Two bytes hold four nibbles: first both low halves, then both high halves."""
    rows: Rows
    """Post row of each lane, -1 for empty lanes, (blocks * LANES,)."""
    kept: Bytes
    """The vectors as one byte per dimension, as in `Prepared`, (N, D)."""
    kept_scale: Floats
    """Decodes `kept`, as in `Prepared`, (2, D)."""

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
        """Bytes per code, P."""
        return len(self.step) // 2

    @property
    def n_bytes(self) -> int:
        return sum(int(getattr(self, column.name).nbytes) for column in fields(self))

    def n_bytes_with(self, code_bytes: int) -> int:
        """Total bytes if codes had this length."""
        per_byte = len(self.rows) + 2 * (self.step.itemsize + self.number_of.itemsize)
        return self.n_bytes + (code_bytes - self.code_bytes) * per_byte

    @classmethod
    def grouped(cls, posts: Prepared, n_lists: int, report: Report = lambda done, total: None) -> Self:
        """Cluster the posts into lists, still without codes (see `coded`).

        The same vectors and queries give the same lists on the same machine.
        """
        n = len(posts.vectors)
        # 1. k-means on a sample, in the space of the lists: centres, (L, D).
        kmeans = cluster(posts.space, posts.vectors, n_lists)
        # 2. Nearest centre of every post, (N,).
        list_of = np.empty(n, np.int32)
        for chunk in chunks(n):
            list_of[chunk] = kmeans.index.search(posts.space.place(posts.vectors[chunk]), 1)[1][:, 0]
            report(chunk.stop, n)
        # 3. Lay the lists out in blocks of LANES; each list starts a new block.
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
        """The same lists with codes of P bytes.

        Args:
            posts: the posts that the lists were made of.
            code_bytes: P, a multiple of `BYTES_PER_CALL`.
        """
        # 1. Lane and list of every post, (N,) each.
        lane = np.flatnonzero(self.rows >= 0)
        list_of = np.repeat(np.arange(self.n_lists), self.sizes)
        # 2. Choose the dimension and step of every nibble, (2 P,), from the residuals of a sample.
        sample = np.random.default_rng(2).permutation(len(lane))[:SAMPLE]
        number_of, step = allocate_nibbles(self._residuals(posts, lane[sample], list_of[sample]), code_bytes)
        # 3. Encode the residuals, (chunk, 2 P) nibbles at a time, and pack four nibbles into two bytes.
        codes = np.zeros((self.starts[-1], code_bytes // 2, LANES, 2), np.uint8)
        for chunk in chunks(len(lane)):
            lanes = lane[chunk]
            nibbles = encode(self._residuals(posts, lanes, list_of[chunk]), number_of, step)
            fours = nibbles.reshape(len(lanes), code_bytes // 2, 4)
            codes[lanes // LANES, :, lanes % LANES] = fours[:, :, :2] | fours[:, :, 2:] << 4
        return replace(self, number_of=number_of, step=step, codes=codes)

    def _residuals(self, posts: Prepared, lane: Ids, list_of: Ids) -> Floats:
        """Transformed vectors of the posts at these lanes minus their lists' centres, (M, D)."""
        return posts.space.place(posts.vectors[self.rows[lane]]) - self.centres[list_of]

    def search(self, queries: Floats, k: int, allowed: Bitmap | None, effort: Effort) -> tuple[Floats, Rows]:
        """Find the best k posts of the visited lists; arguments and results as in `PostIndex.search`."""
        scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int32)
        bits, share = (np.empty(0, np.uint8), 1.0) if allowed is None else (allowed.bits, allowed.share)
        score_all, n_lists = self._scores_all_allowed(allowed), effort.lists_with(share)
        wanted = max(k, round(min(k * effort.refine, self.n_posts)))
        # Query by query: a batched matrix product rounds differently, so results would depend on the batch.
        for i, query in enumerate(queries):
            if score_all:
                n_allowed = round(share * self.n_posts)
                best, largest = search_kernel.best_of_allowed(query, k, self.kept, self.kept_scale, bits, n_allowed)
            else:
                best, largest = search_kernel.best_of_lists(
                    query, n_lists, k, wanted, self.to_seen, self.centres, self.starts, self.sizes, self.number_of,
                    self.step, self.codes, self.rows, self.kept, self.kept_scale, bits, share,
                )  # fmt: skip
            # Each post is one integer key here: NumPy sorts them by vector instructions, equal scores by row.
            best.sort()
            unpack_sort_keys(best, largest, rows[i], scores[i])
        return scores, rows

    def name(self, effort: Effort) -> str:
        """Describe a search, for example `4000 lists of 24 B codes, 351 visited, 2 rescored per result`."""
        return (
            f"{self.n_lists} lists of {self.code_bytes} B codes, {effort.lists} visited, "
            f"{effort.refine:g} rescored per result"
        )

    def sees_all(self, allowed: Bitmap | None, effort: Effort) -> bool:
        """Whether a search considers every allowed post, so that more effort would find no more."""
        share = 1.0 if allowed is None else allowed.share
        return self._scores_all_allowed(allowed) or effort.lists_with(share) >= self.n_lists

    def _scores_all_allowed(self, allowed: Bitmap | None) -> bool:
        """Whether a search skips the lists and scores every allowed post."""
        return allowed is not None and allowed.share * self.n_posts < SCORE_ALL_BELOW

    def visited(self, queries: Floats, effort: Effort) -> float:
        """Mean number of lanes that a search without a filter reads, a lower bound."""
        coarse = (queries @ self.to_seen) @ self.centres.T
        n = min(effort.lists_with(1.0), self.n_lists)
        lists = np.argpartition(-coarse, n - 1, axis=1)[:, :n]
        return float(np.diff(self.starts)[lists].sum(axis=1).mean()) * LANES

    def save(self, folder: Path) -> list[str]:
        """Write one file per array; returns the file names."""
        for column in fields(self):
            np.save(folder / f"{column.name}.npy", getattr(self, column.name))
        return [f"{column.name}.npy" for column in fields(self)]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open saved lists. Arrays are memory-mapped, read-only.

        Raises: OSError or ValueError when a file is missing or truncated, ReleaseError when the arrays do not
            fit together.
        """
        columns = [column.name for column in fields(cls)]
        lists = cls(*(np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in columns))
        lists._check(folder)
        return lists

    def _check(self, folder: Path) -> None:
        """Check shapes, types and ranges: the compiled search has no bounds checks."""
        n, size = self.kept.shape
        blocks, lists, numbers = len(self.rows) // LANES, len(self.centres), len(self.step)
        expected: dict[str, tuple[tuple[int, ...], Any]] = {
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
        for name, (shape, kind) in expected.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != kind:
                raise ReleaseError(
                    f"{name} of the index in {folder} must be {np.dtype(kind)} {shape}, got {array.dtype} {array.shape}"
                )
        valid = {
            "sizes": self.sizes.min(initial=0) >= 0 and self.sizes.sum() == n,
            "starts": self.starts[0] == 0
            and self.starts[-1] == blocks
            and np.all(np.diff(self.starts) == -(-self.sizes // LANES)),
            "number_of": self.number_of.min(initial=0) >= 0 and self.number_of.max(initial=0) < size,
            "step": numbers > 0 and numbers % (2 * BYTES_PER_CALL) == 0,
        }
        if invalid := [name for name, fits in valid.items() if not fits]:
            raise ReleaseError(
                f"{invalid[0]} of the index in {folder} must lie within its {n} posts and {blocks} blocks"
            )
        posts = np.sort(self.rows[_filled_lanes(self.starts, self.sizes)])
        if not np.array_equal(posts, np.arange(n)) or np.count_nonzero(self.rows >= 0) != n:
            raise ReleaseError(f"rows of the index in {folder} must hold each of its {n} posts once")
        for name in ("to_seen", "centres", "step", "kept_scale"):
            if not np.isfinite(getattr(self, name)).all():
                raise ReleaseError(f"{name} of the index in {folder} must be finite, got NaN or infinity")


def _filled_lanes(starts: Ids, sizes: Rows) -> Ids:
    """Lanes that hold posts, list by list, (N,)."""
    before = np.cumsum(sizes, dtype=np.int64) - sizes
    lanes: Ids = np.arange(int(sizes.sum())) + np.repeat(starts[:-1] * LANES - before, sizes)
    return lanes
