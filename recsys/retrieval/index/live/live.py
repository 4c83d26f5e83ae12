"""An index that forgets and learns: a trained segment, posts that came since, and what is gone.

Takes changes of posts in the order of their stream, and new segments as they are built; answers searches meanwhile.
The fresh posts are few and searched exactly. It does not know where changes come from.

Searches wait for nobody and see every post once, as it was at some moment of the search. What makes it so: of a post
that changes, the new is written before the old is taken away; a search first copies which posts of the segment are
there, then looks which fresh ones are, and leaves out of the copy what it sees twice.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np

from recsys.errors import ReleaseError
from recsys.lookup import lookup
from recsys.online.stream.post_changes import NO_POST, PostChange, is_after
from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.live.segment import Segment
from recsys.retrieval.towers.metric import similarity
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

    def places(self) -> Rows:
        """Places of the posts that are alive; a post that is being changed may have two, the newer one behind."""
        # Before they are counted: what is not alive any more by now was replaced by one that counts. `tobytes` reads
        # all of it at one moment; during `copy` other threads may run.
        alive = np.frombuffer(self.alive.tobytes(), bool)
        return np.flatnonzero(alive[: self.n]).astype(np.int32)

    def newest(self, places: Rows) -> Rows:
        """Of these places the last of each post."""
        _, last = np.unique(self.post_id[places][::-1], return_index=True)
        return np.sort(places[len(places) - 1 - last])

    def grown(self) -> _Fresh:
        """A copy with twice the room."""
        larger = _Fresh.empty(2 * len(self.post_id), self.vectors.shape[1])
        for name in ("vectors", "post_id", "language", "alive"):
            getattr(larger, name)[: self.n] = getattr(self, name)[: self.n]
        larger.n = self.n
        return larger


@dataclass(slots=True)
class _State:
    """What one search sees: a segment, and what became of its posts since."""

    segment: Segment
    alive: Bitmap
    """Posts of the segment that are not gone; its bits are cleared in place."""
    n_alive: int
    of_language: dict[int, Bitmap]
    fresh: _Fresh
    """Replaced by a larger one when it is full."""
    n_steps: int = 0
    """Two per change: odd while one is being made."""
    place: dict[int, int] = field(default_factory=dict)
    """Of every fresh post that is alive; only the writer looks."""

    @classmethod
    def of(cls, segment: Segment) -> _State:
        language = np.asarray(segment.language)
        return cls(
            segment,
            Bitmap.of(np.ones(len(language), bool)),
            len(language),
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
        Returns: scores (B, k), -inf padded, and post ids (B, k), `NO_POST` padded.
        Raises: DataError when a shape is wrong, a query is not finite, or k is below 1.
        """
        state = self._state
        n_steps = state.n_steps
        allowed = replace(state.alive, bits=state.alive.bits.copy(), share=state.n_alive / state.alive.n_posts)
        fresh = state.fresh
        few = fresh.places()
        if n_steps % 2 or state.n_steps != n_steps:
            few = fresh.newest(few)
            allowed = allowed.without(lookup(state.segment.post_id, fresh.post_id[few]))
        if language is not None:
            spoken = state.of_language.get(language)
            allowed = allowed & spoken if spoken is not None else Bitmap.of(np.zeros(allowed.n_posts, bool))
        if exclude is not None and len(exclude):
            allowed = allowed.without(lookup(state.segment.post_id, exclude))
        scores, rows = state.segment.index.search(queries, k, allowed)
        ids = np.where(rows >= 0, state.segment.post_id[rows], NO_POST)
        if not len(few):
            return scores, ids
        if language is not None:
            few = few[fresh.language[few] == language]
        if exclude is not None and len(exclude):
            few = few[~np.isin(fresh.post_id[few], exclude)]
        of_fresh = similarity(np.asarray(queries, np.float32), fresh.vectors[few])
        scores = np.concatenate([scores, of_fresh], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(fresh.post_id[few], of_fresh.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)

    def there(self) -> tuple[Ids, Floats]:
        """Every post that is there now, in no order: ids (N,) and vectors (N, D), copied."""
        state = self._state
        alive = state.alive.has(np.arange(state.alive.n_posts, dtype=np.int32))
        fresh = state.fresh
        few = fresh.newest(fresh.places())
        alive &= ~np.isin(state.segment.post_id, fresh.post_id[few])
        return (
            np.concatenate([state.segment.post_id[alive], fresh.post_id[few]]),
            np.concatenate([state.segment.vectors[alive], fresh.vectors[few]]),
        )

    def apply(self, change: PostChange) -> None:
        """A post comes, changes or goes; a change that was applied already is skipped, an unknown post that goes too.

        Raises: DataError when no index can hold it (`PostChange.check`); it counts as read, the post stays as it was.
        """
        with self._writing:
            if not is_after(change.position, self.position):
                return
            self.position = change.position
            change.check(self._state.segment.index.embedding_size)
            _apply(self._state, change)
            self._changes.append(change)

    def swap(self, segment: Segment) -> None:
        """Search this segment from now on, with every change that it does not hold yet.

        Raises: ReleaseError when it is older than the one in use, or of another release: what came since has vectors of
            that one's towers.
        """
        with self._writing:
            old = self._state.segment
            if is_after(old.position, segment.position):
                raise ReleaseError(
                    f"a segment must not be older than the one in use, got {segment.position} after {old.position}; "
                    "build it from the current one"
                )
            if segment.release != old.release:
                raise ReleaseError(
                    f"a segment must be of release {old.release} as the one in use, got {segment.release}; "
                    "open an index of its own for another release"
                )
            later = [change for change in self._changes if is_after(change.position, segment.position)]
            state = _State.of(segment)
            for change in later:
                _apply(state, change)
            if is_after(segment.position, self.position):
                self.position = segment.position
            self._changes, self._state = later, state


def _apply(state: _State, change: PostChange) -> None:
    """Make this change: first what is new of the post, then what was there of it."""
    # What may fail comes first: after that a change is made whole.
    if change.vector is not None and state.fresh.n == len(state.fresh.post_id):
        state.fresh = state.fresh.grown()
    state.n_steps += 1
    before = state.place.pop(change.post_id, None)
    if change.vector is not None:
        fresh = state.fresh
        fresh.vectors[fresh.n], fresh.post_id[fresh.n] = change.vector, change.post_id
        fresh.language[fresh.n], fresh.alive[fresh.n] = change.language, True
        state.place[change.post_id] = fresh.n
        fresh.n += 1
    if before is not None:
        state.fresh.alive[before] = False
    row = int(lookup(state.segment.post_id, np.array([change.post_id]))[0])
    if row >= 0 and state.alive.has(np.array([row]))[0]:
        state.alive.bits[row >> 3] &= ~np.uint8(1 << (row & 7))
        state.n_alive -= 1
    state.n_steps += 1
