"""A live index: a frozen segment plus adds and deletes.

Takes changes of posts in stream order, and new segments as they are built; answers searches meanwhile. Fresh posts are
few and are searched exactly.

Searches take no lock, and see every post once, as it was at some moment of the search. When a post changes, the writer
adds the new version before it removes the old one. A search copies the segment's alive bits first, then reads which
fresh posts are alive, and clears from its copy the posts that it sees twice.
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
    """Posts added after the segment was built, in order of arrival; only the first `n` places count."""

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
        """Places of alive posts; a post that is being changed may have two, the newer one last."""
        # Read `alive` before `n`: a post removed since then was replaced by one within `n`. `tobytes` copies under
        # the GIL, at one moment; during `copy` other threads may run.
        alive = np.frombuffer(self.alive.tobytes(), bool)
        return np.flatnonzero(alive[: self.n]).astype(np.int32)

    def newest(self, places: Rows) -> Rows:
        """The last place of each post among these places."""
        _, last = np.unique(self.post_id[places][::-1], return_index=True)
        return np.sort(places[len(places) - 1 - last])

    def grown(self) -> _Fresh:
        """A copy with twice the capacity."""
        larger = _Fresh.empty(2 * len(self.post_id), self.vectors.shape[1])
        for name in ("vectors", "post_id", "language", "alive"):
            getattr(larger, name)[: self.n] = getattr(self, name)[: self.n]
        larger.n = self.n
        return larger


@dataclass(slots=True)
class _State:
    """What one search sees: a segment and the changes since."""

    segment: Segment
    alive: Bitmap
    """Posts of the segment that are not deleted; bits are cleared in place."""
    n_alive: int
    of_language: dict[int, Bitmap]
    fresh: _Fresh
    """Replaced by a larger copy when it is full."""
    n_steps: int = 0
    """Counts two per change; odd while a change is being applied."""
    place: dict[int, int] = field(default_factory=dict)
    """Post id to place of every alive fresh post; only the writer reads it."""

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
    """A segment with every change since applied."""

    def __init__(self, segment: Segment) -> None:
        self._state = _State.of(segment)
        self._changes: list[PostChange] = []
        self._writing = threading.Lock()
        self.position = segment.position
        """Stream position of the last applied change."""

    @property
    def segment(self) -> Segment:
        return self._state.segment

    @property
    def n_fresh(self) -> int:
        """Number of posts outside the segment."""
        return len(self._state.place)

    def search(
        self, queries: Floats, k: int, language: int | None = None, exclude: Ids | None = None
    ) -> tuple[Floats, Ids]:
        """Find the best k existing posts for each query, best first.

        Args:
            queries: (B, D), finite.
            language: only posts in this language; None takes all.
            exclude: ids of posts to leave out; unknown ones are ignored.
        Returns: scores (B, k), -inf padded, and post ids (B, k), `NO_POST` padded.
        Raises: DataError when a shape is wrong, a query is not finite, or k is below 1.
        """
        state = self._state
        # 1. The segment's posts that exist, (N,) bits; then the places of fresh posts that exist, (P,).
        n_steps = state.n_steps
        allowed = replace(state.alive, bits=state.alive.bits.copy(), share=state.n_alive / state.alive.n_posts)
        fresh = state.fresh
        places = fresh.places()
        # 2. A change ran meanwhile: a post may be in both, or twice among the fresh ones. Keep its newest version.
        if n_steps % 2 or state.n_steps != n_steps:
            places = fresh.newest(places)
            allowed = allowed.without(lookup(state.segment.post_id, fresh.post_id[places]))
        # 3. The request's own filters.
        if language is not None:
            spoken = state.of_language.get(language)
            allowed = allowed & spoken if spoken is not None else Bitmap.of(np.zeros(allowed.n_posts, bool))
        if exclude is not None and len(exclude):
            allowed = allowed.without(lookup(state.segment.post_id, exclude))
        # 4. Search the segment: scores and rows (B, k).
        scores, rows = state.segment.index.search(queries, k, allowed)
        ids = np.where(rows >= 0, state.segment.post_id[rows], NO_POST)
        if not len(places):
            return scores, ids
        if language is not None:
            places = places[fresh.language[places] == language]
        if exclude is not None and len(exclude):
            places = places[~np.isin(fresh.post_id[places], exclude)]
        # 5. Score all fresh posts, (B, P), and take the best k of both.
        of_fresh = similarity(np.asarray(queries, np.float32), fresh.vectors[places])
        scores = np.concatenate([scores, of_fresh], axis=1)
        ids = np.concatenate([ids, np.broadcast_to(fresh.post_id[places], of_fresh.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), np.take_along_axis(ids, best, axis=1)

    def existing_posts(self) -> tuple[Ids, Floats]:
        """Copy every existing post, in no order: ids (N,) and vectors (N, D)."""
        state = self._state
        alive = state.alive.has(np.arange(state.alive.n_posts, dtype=np.int32))
        fresh = state.fresh
        places = fresh.newest(fresh.places())
        alive &= ~np.isin(state.segment.post_id, fresh.post_id[places])
        return (
            np.concatenate([state.segment.post_id[alive], fresh.post_id[places]]),
            np.concatenate([state.segment.vectors[alive], fresh.vectors[places]]),
        )

    def apply(self, change: PostChange) -> None:
        """Add, change or delete a post. Changes already applied, and deletes of unknown posts, are skipped.

        Raises: DataError when the change is invalid (`PostChange.check`); it counts as read, the post stays as it was.
        """
        with self._writing:
            if not is_after(change.position, self.position):
                return
            self.position = change.position
            change.check(self._state.segment.index.embedding_size)
            _apply(self._state, change)
            self._changes.append(change)

    def swap(self, segment: Segment) -> None:
        """Switch searches to this segment, with every later change applied again.

        Raises: ReleaseError when it is older than the one in use, or of another release, whose towers made other
            vectors.
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
    """Apply a change: add the new version, then remove the old one."""
    # Allocate first, since it may fail; the rest cannot, so a change is applied whole.
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
