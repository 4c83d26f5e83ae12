"""A frozen segment on disk: an index, the ids of its posts, and the stream position that it reflects.

    <folder>/s-r-ce8f3dcb5b5d-1732665600000-0/    index/, vectors.npy, post_id.npy, language.npy, segment.json
    <folder>/current                              one line: the segment that workers search

Takes vectors with ids, gives a segment that is written whole or not at all; all workers map the same files.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from recsys.config import IndexConfig
from recsys.errors import DataError, ReleaseError
from recsys.online.stream.post_changes import NO_POST, START, PostChange, is_after
from recsys.retrieval.index import tuner
from recsys.retrieval.index.index import PostIndex, digest
from recsys.types import Floats, Ids, Rows

log = logging.getLogger(__name__)

_KEPT = 2
"""Segments kept on disk: the current one and the one before, which a worker may still be opening."""


@dataclass(frozen=True, slots=True)
class Segment:
    """N posts; row r of the index is `post_id[r]`. Immutable."""

    index: PostIndex
    vectors: Floats
    """What the index was built from, (N, D)."""
    post_id: Ids
    """Ascending, (N,)."""
    language: Rows
    """(N,), -1 unknown."""
    release: str
    """The release whose post tower made the vectors."""
    position: str = START
    """Stream position of the last change that it holds."""

    @classmethod
    def build(
        cls, post_id: Ids, vectors: Floats, language: Rows, users: Floats, k: int, config: IndexConfig, release: str,
        position: str = START,
    ) -> Self:  # fmt: skip
        """Index these posts with the kind that the tuner chooses.

        Args:
            post_id: (N,), each once.
            users: a sample of the queries to come.
            release: whose towers the vectors are of.
        Raises: DataError when there is no post, an id repeats or is `NO_POST`, a vector is not finite, or the arrays
            differ in length.
        """
        if not len(post_id) == len(vectors) == len(language):
            raise DataError(
                "a segment needs an id, a vector and a language of each post, "
                f"got {len(post_id)}, {len(vectors)} and {len(language)}"
            )
        if (post_id == NO_POST).any():
            raise DataError(f"a post must have an id other than {NO_POST}, which means no post; give it another id")
        order = np.argsort(post_id, kind="stable")
        post_id, vectors, language = (
            post_id[order].astype(np.int64),
            np.ascontiguousarray(vectors[order], np.float32),
            language[order],
        )
        if len(twice := np.flatnonzero(np.diff(post_id) == 0)):
            raise DataError(
                f"a segment must hold each post once, got post {post_id[twice[0]]} twice; keep its last vector"
            )
        index = tuner.tune(vectors, users, k, config, lambda done, total: None).chosen.index
        return cls(index, vectors, post_id, language.astype(np.int32), release, position)

    def with_changes(self, changes: Iterable[PostChange], users: Floats, k: int, config: IndexConfig) -> Self:
        """Build a new segment: these posts with all changes since.

        Args:
            changes: in stream order. Changes that this segment already holds are skipped. Invalid changes are skipped
                and logged, since one bad vector must not stop all rebuilding.
        Raises: as `build`.
        """
        last: dict[int, PostChange] = {}
        position, size = self.position, self.vectors.shape[1]
        for change in changes:
            if not is_after(change.position, position):
                continue
            position = change.position
            try:
                change.check(size)
            except DataError as error:
                log.warning("change %s of a post is skipped: %s", change.position, error)
            else:
                last[change.post_id] = change
        stays = ~np.isin(self.post_id, np.fromiter(last, np.int64, len(last)))
        come = [change for change in last.values() if change.vector is not None]
        return type(self).build(
            np.concatenate([self.post_id[stays], np.array([change.post_id for change in come], np.int64)]),
            np.concatenate([self.vectors[stays], np.array([c.vector for c in come], np.float32).reshape(-1, size)]),
            np.concatenate([self.language[stays], np.array([change.language for change in come], np.int32)]),
            users, k, config, self.release, position,
        )  # fmt: skip

    def publish(self, folder: Path) -> Path:
        """Write the segment and make it current, atomically: readers see the old one or the new one."""
        folder.mkdir(parents=True, exist_ok=True)
        staging = folder / f".staging-{os.getpid()}"
        shutil.rmtree(staging, ignore_errors=True)
        self.index.save(staging / "index")
        for name in ("vectors", "post_id", "language"):
            np.save(staging / f"{name}.npy", getattr(self, name))
        (staging / "segment.json").write_text(json.dumps({"release": self.release, "position": self.position}))
        # Never overwrite a segment: it may be damaged, built with other settings, or in use.
        names = (f"s-{self.release}-{self.position}{f'.{nth}' if nth else ''}" for nth in itertools.count())
        target = next(folder / name for name in names if not (folder / name).exists())
        os.rename(staging, target)
        pointer = folder / f".current-{os.getpid()}"
        pointer.write_text(target.name + "\n")
        os.replace(pointer, folder / "current")
        others = sorted(set(folder.glob("s-*")) - {target}, key=lambda path: path.stat().st_mtime_ns)
        for old in others[: 1 - _KEPT]:
            shutil.rmtree(old)
        return target

    @classmethod
    def load(cls, path: Path) -> Self:
        """Open a segment; large arrays are memory-mapped, read-only.

        Raises: ReleaseError when a file is missing, truncated or does not fit the others.
        """
        try:
            index = PostIndex.load(path / "index")
            about = json.loads((path / "segment.json").read_text())
            release, position = str(about["release"]), str(about["position"])
            vectors, post_id, language = (
                np.asarray(np.load(path / f"{name}.npy", mmap_mode="r")) for name in ("vectors", "post_id", "language")
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ReleaseError(f"the segment in {path} cannot be read ({error}); build it again") from None
        got = [f"{part.dtype} {part.shape}" for part in (vectors, post_id, language)]
        n = index.n_posts
        wanted = [f"float32 {(n, index.embedding_size)}", f"int64 {(n,)}", f"int32 {(n,)}"]
        if got != wanted or not np.all(np.diff(post_id) > 0):
            raise ReleaseError(
                f"vectors, ids (ascending) and languages of the segment in {path} must be {', '.join(wanted)} as its "
                f"index, got {', '.join(got)}; build it again"
            )
        if index.built_from != digest(vectors):
            raise ReleaseError(f"the index of the segment in {path} must be built from its vectors; build it again")
        return cls(index, vectors, post_id, language, release, position)


def current(folder: Path) -> Path | None:
    """Where the segment that workers search is, None before the first."""
    try:
        return folder / (folder / "current").read_text().strip()
    except FileNotFoundError:
        return None
