"""An index that forgets and learns: a trained segment, posts that came since, and what is gone.

Takes changes of posts in the order of their stream, and new segments as they are built; answers searches meanwhile.
Searches wait for nobody: each reads one state, and a state only grows (fresh posts are written first and counted then)
or loses bits. The fresh posts are few and searched exactly. It does not know where changes come from.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np

from recsys.errors import DataError, ReleaseError
from recsys.online.post_changes import PostChange, is_after
from recsys.retrieval.bitmap import Bitmap
from recsys.retrieval.metric import similarity
from recsys.retrieval.segment import Segment
from recsys.types import Floats, Ids, Mask, Rows

_FIRST_CAPACITY = 1024


@dataclass(slots=True)
class _Fresh:
    """Posts that came after the segment, in order of their coming; only the first `n` count."""

    vectors: Floats
    """(capacity, D)."""
    post_id: Ids
    language: Rows
    alive: Mask
    n: int = 0

    @classmethod
    def empty(cls, capacity: int, size: int) -> _Fresh:
        return cls(
            np.zeros((capacity, size), np.float32), np.zeros(capacity, np.int64), np.zeros(capacity, np.int32),
            np.zeros(capacity, bool),
        )  # fmt: skip

    def grown(self) -> _Fresh:
        """A copy with twice the room."""
        larger = _Fresh.empty(2 * len(self.post_id), self.vectors.shape[1])
        for name in ("vectors", "post_id", "language", "alive"):
            getattr(larger, name)[: self.n] = getattr(self, name)[: self.n]
        larger.n = self.n
        return larger


@dataclass(frozen=True, slots=True)
class _State:
    """What one search sees."""

    segment: Segment
    alive: Bitmap
    """Posts of the segment that are not gone; its bits are cleared in place."""
    of_language: dict[int, Bitmap]
    fresh: _Fresh
    place: dict[int, int] = field(default_factory=dict)
    """Of every fresh post that is alive; only the writer looks."""

    @classmethod
    def of(cls, segment: Segment) -> _State:
        language = np.asarray(segment.language)
        return cls(
            segment,
            Bitmap.of(np.ones(len(language), bool)),
            {int(code): Bitmap.of(language == code) for code in np.unique(language)},
            _Fresh.empty(_FIRST_CAPACITY, segment.index.embedding_size),
        )


class LiveIndex:
    """The posts of a segment with every change since applied."""

    def __init__(self, segment: Segment) -> None:
        self._state = _State.of(segment)
        self._changes: list[PostChange] = []
        self._writing = threading.Lock()
        self.position = segment.position
        """Of the last change that was applied."""

    @property
    def segment(self) -> Segment:
        return self._state.segment

    @property
    def n_fresh(self) -> int:
        """Posts outside of the segment."""
        return len(self._state.place)

    def search(
        self, queries: Floats, k: int, language: int | None = None, exclude: Ids | None = None
    ) -> tuple[Floats, Ids]:
        """The best k posts of each query that are there, best first.

        Args:
            queries: (B, D), finite.
            language: only posts in this one; None takes all.
            exclude: ids of posts to leave out; unknown ones are ignored.
        Returns: scores (B, k), -inf padded, and post ids (B, k), -1 padded.
        Raises: DataError when a shape is wrong or a query is not finite.
        """
        state = self._state
        n = state.fresh.n  # before the search: what was replaced by posts counted here is gone by then
        allowed = state.alive
        if language is not None:
            spoken = state.of_language.get(language)
            allowed = allowed & spoken if spoken is not None else Bitmap.of(np.zeros(allowed.n_posts, bool))
        if exclude is not None and len(exclude):
            allowed = allowed.without(_rows_of(state.segment, exclude))
        scores, rows = state.segment.index.search(queries, k, allowed)
        ids = np.where(rows >= 0, state.segment.post_id[rows], -1)
        if not n:
            return scores, ids
        fresh = state.fresh
        fits = fresh.alive[:n] if language is None else fresh.alive[:n] & (fresh.language[:n] == language)
        if exclude is not None and len(exclude):
            fits = fits & ~np.isin(fresh.post_id[:n], exclude)
        few = np.flatnonzero(fits)
        of_fresh = similarity(np.asarray(queries, np.float32), fresh.vectors[few])
        scores = np.concatenate([scores, of_fresh], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(fresh.post_id[few], of_fresh.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)

    def there(self) -> tuple[Ids, Floats]:
        """Every post that is there now, in no order: ids (N,) and vectors (N, D), copied."""
        state = self._state
        n = state.fresh.n
        alive = state.alive.has(np.arange(state.alive.n_posts, dtype=np.int32))
        fresh = np.flatnonzero(state.fresh.alive[:n])
        return (
            np.concatenate([state.segment.post_id[alive], state.fresh.post_id[fresh]]),
            np.concatenate([state.segment.vectors[alive], state.fresh.vectors[fresh]]),
        )

    def apply(self, change: PostChange) -> None:
        """A post comes, changes or goes; a change that was applied already is skipped, an unknown post that goes too.

        Raises: DataError when the vector has another length or is not finite; the change counts as read, the post
        stays as it was.
        """
        with self._writing:
            if not is_after(change.position, self.position):
                return
            self.position = change.position
            self._check(change)
            self._changes.append(change)
            self._state = _applied(self._state, change)

    def swap(self, segment: Segment) -> None:
        """Search this segment from now on, with every change that it does not hold yet.

        Raises: ReleaseError when it is older than the one in use, or of another length of vectors.
        """
        with self._writing:
            old = self._state.segment
            if is_after(old.position, segment.position):
                raise ReleaseError(
                    f"a segment must not be older than the one in use, got {segment.position} after {old.position}; "
                    "build it from the current one"
                )
            if segment.index.embedding_size != old.index.embedding_size:
                raise ReleaseError(
                    f"a segment must have vectors of {old.index.embedding_size} dimensions as the one in use, "
                    f"got {segment.index.embedding_size}; take all from one release"
                )
            self._changes = [change for change in self._changes if is_after(change.position, segment.position)]
            state = _State.of(segment)
            for change in self._changes:
                state = _applied(state, change)
            if is_after(segment.position, self.position):
                self.position = segment.position
            self._state = state

    def _check(self, change: PostChange) -> None:
        size = self._state.segment.index.embedding_size
        if change.vector is None:
            return
        if change.vector.shape != (size,):
            raise DataError(
                f"post {change.post_id} must come with a vector of {size} dimensions, got shape {change.vector.shape}; "
                "use the post tower of the release that serves"
            )
        if not np.isfinite(change.vector).all():
            raise DataError(f"post {change.post_id} must come with a finite vector, got NaN or infinity; send it again")


def _applied(state: _State, change: PostChange) -> _State:
    """The state with this change: the same one, changed where no search looks yet, or one with more room.

    What was there of the post goes first: a search that counts the new one then cannot find the old one too.
    """
    row = int(_rows_of(state.segment, np.array([change.post_id]))[0])
    if row >= 0:
        state.alive.bits[row >> 3] &= ~np.uint8(1 << (row & 7))
    before = state.place.pop(change.post_id, None)
    if before is not None:
        state.fresh.alive[before] = False
    if change.vector is None:
        return state
    if state.fresh.n == len(state.fresh.post_id):
        state = replace(state, fresh=state.fresh.grown())
    fresh = state.fresh
    fresh.vectors[fresh.n], fresh.post_id[fresh.n] = change.vector, change.post_id
    fresh.language[fresh.n], fresh.alive[fresh.n] = change.language, True
    state.place[change.post_id] = fresh.n
    fresh.n += 1
    return state


def _rows_of(segment: Segment, post_id: Ids) -> Rows:
    """Rows of these posts in the segment, -1 where it does not have one."""
    place = np.minimum(np.searchsorted(segment.post_id, post_id), len(segment.post_id) - 1)
    rows: Rows = np.where(segment.post_id[place] == post_id, place, -1).astype(np.int32)
    return rows
