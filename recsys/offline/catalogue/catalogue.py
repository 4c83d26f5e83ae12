"""The catalogue: every post, author and user as a dense row, static columns as arrays.

Gives lookups from ids to rows and from rows to columns. A release saves it; every server process memory-maps it.
Numbers that change (counters, histories) live in the online store instead. `build` makes it from a lake.

Row -1 means unknown everywhere: a missing topic, an author nobody described. A post that logs mention but no row
describes is an id-only post, counted in `n_id_only_posts`; users likewise. The strings that ids stand for are kept as
Arrow columns beside the rows, so that answers can use them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from recsys.errors import DataError
from recsys.hashing import hash_text
from recsys.lookup import lookup
from recsys.types import Ids, Mask, Rows, Times

_ARRAYS = (
    "post_id", "author", "topic", "language", "media", "created_at", "group", "visible", "text_length", "tokens",
    "author_id", "user_id", "user_language", "user_country",
    "follows_start", "follows", "blocks_start", "blocks",
)  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """Static columns of N posts, A authors and U users, each in ascending order of id."""

    post_id: Ids
    author: Rows
    """Author row of each post, -1 unknown."""
    topic: Rows
    """Topic row, -1 missing."""
    language: Rows
    media: Rows
    created_at: Times
    group: Rows
    """Posts with the same text share a group number, (N,)."""
    visible: Mask
    """False for posts that were taken down or carry the label `violation`."""
    text_length: Rows
    """Characters of the text."""
    tokens: Rows
    """Hashes of the first words, in 0..2**31-1, -1 padded, (N, 12); a post without words has hashes of its id."""
    author_id: Ids
    user_id: Ids
    user_language: Rows
    user_country: Rows
    follows_start: Ids
    """User row u follows `follows[follows_start[u]:follows_start[u + 1]]`, (U + 1,)."""
    follows: Rows
    blocks_start: Ids
    blocks: Rows
    topics: tuple[str, ...]
    languages: tuple[str, ...]
    countries: tuple[str, ...]
    texts: pa.Array
    """Text of each post, shown on the page, (N,)."""
    labels: pa.Array
    """Moderation labels of each post, lists of strings, null for none, (N,)."""
    post_name: pa.Array
    """The string that each post's id stands for, null where the id is a plain number, (N,)."""
    author_name: pa.Array
    user_name: pa.Array
    n_id_only_posts: int

    @property
    def n_posts(self) -> int:
        return len(self.post_id)

    @property
    def n_users(self) -> int:
        return len(self.user_id)

    @property
    def n_authors(self) -> int:
        return len(self.author_id)

    def post_rows(self, post_ids: ArrayLike) -> Rows:
        """Rows of these ids, same shape, -1 for ids outside the catalogue."""
        return lookup(self.post_id, post_ids)

    def user_rows(self, user_ids: ArrayLike) -> Rows:
        """As `post_rows`, for users."""
        return lookup(self.user_id, user_ids)

    def author_rows(self, author_ids: ArrayLike) -> Rows:
        """As `post_rows`, for authors."""
        return lookup(self.author_id, author_ids)

    def follows_of(self, user_row: int) -> Rows:
        """Author rows this user follows; empty for row -1."""
        if user_row < 0:
            return np.empty(0, np.int32)
        return np.asarray(self.follows[self.follows_start[user_row] : self.follows_start[user_row + 1]])

    def blocks_of(self, user_row: int) -> Rows:
        """Author rows this user blocks; empty for row -1."""
        if user_row < 0:
            return np.empty(0, np.int32)
        return np.asarray(self.blocks[self.blocks_start[user_row] : self.blocks_start[user_row + 1]])

    def with_users(self, user_ids: ArrayLike) -> Self:
        """Copy of the catalogue with rows for these users too, id-only if new. User rows shift."""
        new = np.setdiff1d(np.asarray(user_ids, np.int64), self.user_id)
        user_id = np.concatenate([self.user_id, new])
        order = np.argsort(user_id, kind="stable")
        old = np.concatenate([np.arange(self.n_users), np.full(len(new), -1)])[order]
        unknown = np.full(len(new), -1, np.int32)

        def start_of(start: Ids) -> Ids:
            length = np.where(old >= 0, np.append(np.diff(start), 0)[old], 0)
            return np.concatenate([[0], np.cumsum(length)]).astype(np.int64)

        return replace(
            self,
            user_id=user_id[order],
            user_language=np.concatenate([self.user_language, unknown])[order],
            user_country=np.concatenate([self.user_country, unknown])[order],
            follows_start=start_of(self.follows_start),
            blocks_start=start_of(self.blocks_start),
            user_name=pa.concat_arrays([self.user_name, pa.nulls(len(new), self.user_name.type)]).take(pa.array(order)),
        )

    @cached_property
    def posts_of_author(self) -> tuple[Rows, Ids]:
        """Post rows grouped by author, newest first within each, and the start of each group, ((M,), (A + 1,))."""
        known = np.flatnonzero(self.author >= 0)
        order = known[np.lexsort((-self.created_at[known], self.author[known]))].astype(np.int32)
        return order, np.searchsorted(self.author[order], np.arange(self.n_authors + 1))

    @cached_property
    def author_topic(self) -> Rows:
        """The most frequent topic of each author's posts, -1 when none has a topic, (A,)."""
        known = (self.topic >= 0) & (self.author >= 0)
        pairs, counts = np.unique(
            self.author[known].astype(np.int64) * len(self.topics) + self.topic[known], return_counts=True
        )
        author_topic = np.full(self.n_authors, -1, np.int32)
        order = np.lexsort((-pairs, counts))  # written last, so kept: the most frequent; ties: the lower topic
        author_topic[pairs[order] // max(len(self.topics), 1)] = pairs[order] % max(len(self.topics), 1)
        return author_topic

    @cached_property
    def likely_topic(self) -> Rows:
        """The topic of each post or, if missing, of most posts by its author; -1 when both are unknown, (N,)."""
        known_author = self.author >= 0
        guess = np.full(self.n_posts, -1, np.int32)
        guess[known_author] = self.author_topic[self.author[known_author]]
        return np.where(self.topic >= 0, self.topic, guess)

    @cached_property
    def topic_keys(self) -> Ids:
        """A number per topic that is the same in every catalogue, (T,); it is part of keys in Redis."""
        return np.array([hash_text(name) for name in self.topics], np.int64)

    def save(self, folder: Path) -> None:
        """Write each array as `.npy`, strings as Arrow files, names of topics, languages and countries as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", np.ascontiguousarray(getattr(self, name)))
        names = {"topics": self.topics, "languages": self.languages, "countries": self.countries}
        (folder / "names.json").write_text(json.dumps({**names, "n_id_only_posts": self.n_id_only_posts}, indent=1))
        _save_columns(folder / "posts.arrow", text=self.texts, labels=self.labels, name=self.post_name)
        _save_columns(folder / "authors.arrow", name=self.author_name)
        _save_columns(folder / "users.arrow", name=self.user_name)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a saved catalogue; arrays are memory-mapped read-only and shared between processes.

        Raises: DataError when `folder` holds no catalogue.
        """
        if not (folder / "names.json").is_file():
            raise DataError(f"no catalogue in {folder}; run `recsys train` to make one")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        names = json.loads((folder / "names.json").read_text())
        posts = _load_columns(folder / "posts.arrow")
        return cls(
            **arrays,
            texts=posts["text"],
            labels=posts["labels"],
            post_name=posts["name"],
            author_name=_load_columns(folder / "authors.arrow")["name"],
            user_name=_load_columns(folder / "users.arrow")["name"],
            topics=tuple(names["topics"]),
            languages=tuple(names["languages"]),
            countries=tuple(names["countries"]),
            n_id_only_posts=names["n_id_only_posts"],
        )


def _save_columns(path: Path, **columns: pa.Array) -> None:
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _load_columns(path: Path) -> pa.RecordBatch:
    """Memory-map a file, so that processes share its pages and read only what they use."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
