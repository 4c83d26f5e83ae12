"""The nearest-neighbour index over post vectors: an exact scan, FAISS's lists or fast lists behind one interface.

Takes vectors in order of catalogue row, gives the best rows for a query by `metric.METRIC`. An index never changes
after it is built: a bitmap of allowed posts and the effort are passed with each search. `tuner` chooses the kind.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self, TypeAlias

import numpy as np

from recsys.config import IndexConfig
from recsys.errors import DataError, ReleaseError
from recsys.retrieval.index import faiss_index
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.effort import NO_EFFORT, Effort
from recsys.retrieval.index.exact import Exact
from recsys.retrieval.index.faiss_index import FaissIndex
from recsys.retrieval.index.fast_lists import tuning as fast_lists
from recsys.retrieval.index.fast_lists.inverted_file import InvertedFile
from recsys.retrieval.towers.metric import METRIC
from recsys.types import Floats, Rows

Segment: TypeAlias = Exact | FaissIndex | InvertedFile
"""What holds the vectors; each kind searches, saves and loads itself."""

_SEGMENTS: dict[str, type[Exact] | type[FaissIndex] | type[InvertedFile]] = {
    "exact": Exact,
    "faiss": FaissIndex,
    "fast_lists": InvertedFile,
}
_BUILDERS = {"faiss": faiss_index, "fast_lists": fast_lists}
_LAYOUT = 3
"""Version of the file layout."""
_AGAIN = "run `recsys train` again"


@dataclass(frozen=True, slots=True)
class PostIndex:
    """An index of N vectors of D dimensions; safe to share between threads."""

    segment: Segment
    effort: Effort
    """How thorough a search is unless the call says otherwise."""
    built_from: str
    """`digest` of its vectors, by which an index of other towers or another catalogue is refused."""

    @property
    def n_posts(self) -> int:
        return self.segment.n_posts

    @property
    def embedding_size(self) -> int:
        return self.segment.embedding_size

    @property
    def is_exact(self) -> bool:
        return isinstance(self.segment, Exact)

    @property
    def kind(self) -> str:
        """`exact`, `faiss` or `fast_lists`."""
        return next(name for name, segment in _SEGMENTS.items() if isinstance(self.segment, segment))

    @property
    def name(self) -> str:
        """As `exact` or `IVF1000,PQ64x4fsr,Refine(SQfp16), 10 visited, 2 rescored per result`."""
        return self.segment.name(self.effort)

    @classmethod
    def exact(cls, vectors: Floats) -> Self:
        """Build an exact index of these vectors, (N, D), finite; row r is result r.

        Raises: DataError when there is no vector or one is not finite.
        """
        vectors = checked(vectors)
        return cls(Exact.build(vectors), NO_EFFORT, digest(vectors))

    @classmethod
    def build(cls, vectors: Floats, queries: Floats, config: IndexConfig) -> Self:
        """Build FAISS's lists or fast lists with the numbers of the settings, without tuning.

        The same vectors and queries give the same index on the same machine.

        Args:
            queries: a sample of those to come, (M, D), finite.
        Raises: DataError when there is no vector or query, or one is not finite or of another size.
        """
        vectors = checked(vectors)
        queries = checked_queries(queries, vectors.shape[1])
        if not len(queries):
            raise DataError("lists are shaped by at least one query, got 0; simulate or import users")
        builder = _BUILDERS.get(config.kind, faiss_index)
        n_lists = number_of_lists(len(vectors), config.nlist_factor)
        segment = builder.as_set(builder.prepare(vectors, queries), n_lists, config)
        effort = Effort(max(1, round(config.nprobe_share * segment.n_lists)), config.refine_factor)
        return cls(segment, effort, digest(vectors))

    def search(
        self, queries: Floats, k: int, allowed: Bitmap | None = None, effort: Effort | None = None
    ) -> tuple[Floats, Rows]:
        """The best k posts of each query, best first.

        Args:
            queries: (B, D), finite.
            allowed: posts that may appear; None allows all.
            effort: of this search; an exact index has none.
        Returns: scores (B, k), -inf padded, and rows (B, k), -1 padded where fewer posts are allowed. Lists
            round scores (FAISS to half floats, fast lists to a byte per dimension), and a post far outside of nearly
            all others counts as one nearer to them.
        Raises: DataError when a shape is wrong, a query is not finite as float32, or k is below 1.
        """
        queries = checked_queries(queries, self.embedding_size)
        if k < 1:
            raise DataError(f"a search must ask for at least 1 post, got k = {k}; raise it")
        if allowed is not None and allowed.n_posts != self.n_posts:
            raise DataError(
                f"the bitmap must cover the index's {self.n_posts} posts, got {allowed.n_posts}; make it from the "
                "catalogue of the same release"
            )
        effort = effort or self.effort
        scores, rows = self.segment.search(queries, k, allowed, effort)
        # Where the visited lists hold too few allowed posts, visit more.
        while (short := rows[:, -1] < 0).any() and not self.segment.sees_all(allowed, effort):
            effort = replace(effort, lists=4 * max(effort.lists, 1))
            scores[short], rows[short] = self.segment.search(queries[short], k, allowed, effort)
        return scores, rows

    def save(self, folder: Path) -> None:
        """Write the index's files and `index.json`, which describes them."""
        folder.mkdir(parents=True, exist_ok=True)
        names = self.segment.save(folder)
        about = {
            "layout": _LAYOUT,
            "metric": METRIC,
            "kind": self.kind,
            "n_posts": self.n_posts,
            "embedding_size": self.embedding_size,
            "effort": asdict(self.effort),
            "built_from": self.built_from,
            "bytes": {name: (folder / name).stat().st_size for name in names},
        }
        (folder / "index.json").write_text(json.dumps(about, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a saved index; its vectors are memory-mapped, read-only.

        Raises: ReleaseError when it is missing, truncated, built for another metric or not what its description says.
        """
        try:
            about = json.loads((folder / "index.json").read_text())
            if (layout := about.get("layout", 1)) != _LAYOUT:
                raise ReleaseError(f"the index in {folder} must have layout {_LAYOUT}, got {layout}; {_AGAIN}")
            if about["metric"] != METRIC:
                raise ReleaseError(f"the index in {folder} must be built for {METRIC}, got {about['metric']}; {_AGAIN}")
            # Reading past the end of a truncated mapped file kills the process, so check the length first.
            for name, size in about["bytes"].items():
                if (got := (folder / name).stat().st_size) != size:
                    raise ReleaseError(f"{folder / name} must have {size} bytes, got {got}; {_AGAIN}")
            index = cls(_SEGMENTS[about["kind"]].load(folder), Effort(**about["effort"]), str(about["built_from"]))
        except ReleaseError as error:
            raise ReleaseError(str(error) if _AGAIN in str(error) else f"{error}; {_AGAIN}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise ReleaseError(
                f"the index in {folder} cannot be read ({' '.join(str(error).split())}); {_AGAIN}"
            ) from None
        if (index.n_posts, index.embedding_size) != (about["n_posts"], about["embedding_size"]):
            raise ReleaseError(
                f"the index in {folder} must hold {about['n_posts']} posts of {about['embedding_size']} dimensions, "
                f"got {index.n_posts} of {index.embedding_size}; {_AGAIN}"
            )
        return index


def digest(vectors: Floats) -> str:
    """A fingerprint of vectors: a hash of about a thousand rows, evenly spread, and of the shape.

    Every worker computes it at its start, so it must not read all rows. Other towers change every row; releases guard
    against smaller changes with checksums of whole files.
    """
    some = np.ascontiguousarray(vectors[:: max(1, len(vectors) // 1000)], np.float32)
    return hashlib.blake2b(some.tobytes() + str(vectors.shape).encode(), digest_size=8).hexdigest()


def number_of_lists(n_posts: int, factor: float) -> int:
    """Number of inverted lists: `factor` times the square root of the number of posts."""
    return max(1, min(round(factor * math.sqrt(n_posts)), n_posts))


def checked(vectors: Floats) -> Floats:
    """Validate post vectors; return them as float32.

    Raises: DataError when there is no vector or one is not finite as float32.
    """
    vectors = _as_float32(vectors)
    if vectors.ndim != 2:
        raise DataError(f"post vectors must have shape (posts, dimensions), got {vectors.shape}; pass a matrix")
    if not vectors.size:
        raise DataError(
            f"an index needs at least one post, got {len(vectors)} of {vectors.shape[1]} dimensions; run "
            "`recsys simulate` or import posts"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise DataError(f"post vectors must be finite, got {len(bad)} that are not (first: row {bad[0]}); {_AGAIN}")
    return vectors


def checked_queries(queries: np.ndarray, size: int) -> Floats:
    """Validate user vectors; return them as float32.

    Raises: DataError when they are not of this size or not finite as float32.
    """
    queries = _as_float32(queries)
    if queries.ndim != 2 or queries.shape[1] != size:
        raise DataError(
            f"queries must have shape (queries, {size}) as the index, got {queries.shape}; "
            "take users and posts from one release"
        )
    if not np.isfinite(queries).all():
        row, column = np.argwhere(~np.isfinite(queries))[0]
        raise DataError(f"user vectors must be finite, got {queries[row, column]} (row {row}); {_AGAIN}")
    return queries


def _as_float32(numbers: np.ndarray) -> Floats:
    """Convert; values beyond float32 become infinite without a warning, and the caller refuses them by name."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(numbers, np.float32)
