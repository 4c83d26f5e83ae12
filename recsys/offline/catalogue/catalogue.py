"""The catalogue: every post and user of the lake as dense rows, static columns as arrays.

Takes the lake's users, posts, follows and blocks plus the ids that events mention, gives arrays that are saved with a
release and memory-mapped by every server process. Numbers that change (counters, histories) are not here; they live in
the online store.

Row -1 means unknown everywhere: a missing topic, an author nobody described. A post that events mention but no row
describes becomes an id-only post, counted in `n_id_only_posts`; a user likewise. Names of ids are kept as Arrow
columns beside the rows, so that answers can carry the ids that somebody brought.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from recsys.errors import DataError
from recsys.hashing import hash_text
from recsys.lookup import lookup
from recsys.offline.catalogue.text_hashes import duplicate_groups, tokens_of
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import MEDIA_TYPES
from recsys.types import Ids, Mask, Rows, Times

_ARRAYS = (
    "post_id", "author", "topic", "language", "media", "created_at", "group", "visible", "text_length", "tokens",
    "author_id", "user_id", "user_language", "user_country",
    "follows_start", "follows", "blocks_start", "blocks",
)  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """Static columns of N posts and U users. Posts are in order of id; so are users and authors."""

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
    """False for what was taken down or breaks a rule (label `violation`)."""
    text_length: Rows
    """Characters of the text."""
    tokens: Rows
    """Hashes of the first words, (N, 12), each in 0..2**31-1, -1 where there is no word; of the id without any."""
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
    """Text of each post, for the page, (N,)."""
    labels: pa.Array
    """What moderation said of each post, lists of strings, null for nothing, (N,)."""
    post_name: pa.Array
    """The string that each post's id stands for, null where the number is the name, (N,)."""
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
        """Rows of these ids, same shape, -1 where the catalogue does not know one."""
        return lookup(self.post_id, post_ids)

    def user_rows(self, user_ids: ArrayLike) -> Rows:
        """As `post_rows`, for users."""
        return lookup(self.user_id, user_ids)

    def author_rows(self, author_ids: ArrayLike) -> Rows:
        """As `post_rows`, for authors of described posts."""
        return lookup(self.author_id, author_ids)

    def follows_of(self, user_row: int) -> Rows:
        """Author rows this user follows; none for row -1."""
        if user_row < 0:
            return np.empty(0, np.int32)
        return np.asarray(self.follows[self.follows_start[user_row] : self.follows_start[user_row + 1]])

    def blocks_of(self, user_row: int) -> Rows:
        """Author rows this user blocks; none for row -1."""
        if user_row < 0:
            return np.empty(0, np.int32)
        return np.asarray(self.blocks[self.blocks_start[user_row] : self.blocks_start[user_row + 1]])

    def with_users(self, user_ids: ArrayLike) -> Self:
        """The same catalogue with rows for these users too, of whom it knows only the id. User rows shift."""
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
        """The topic each author writes about most, -1 when none of their posts has one, (A,)."""
        known = (self.topic >= 0) & (self.author >= 0)
        pairs, counts = np.unique(
            self.author[known].astype(np.int64) * len(self.topics) + self.topic[known], return_counts=True
        )
        author_topic = np.full(self.n_authors, -1, np.int32)
        order = np.lexsort((-pairs, counts))  # the most frequent comes last and stays; ties: the lower topic
        author_topic[pairs[order] // max(len(self.topics), 1)] = pairs[order] % max(len(self.topics), 1)
        return author_topic

    @cached_property
    def likely_topic(self) -> Rows:
        """The topic of each post or, where it is missing, its author's usual one; -1 when neither is known, (N,)."""
        known_author = self.author >= 0
        guess = np.full(self.n_posts, -1, np.int32)
        guess[known_author] = self.author_topic[self.author[known_author]]
        return np.where(self.topic >= 0, self.topic, guess)

    @cached_property
    def topic_keys(self) -> Ids:
        """A number for each topic that stays the same in every catalogue, (T,); rows in Redis are keyed by it."""
        return np.array([hash_text(name) for name in self.topics], np.int64)

    def save(self, folder: Path) -> None:
        """Write one `.npy` per array, strings as Arrow files, the names of rows as JSON."""
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
        """Open a saved catalogue; arrays are memory-mapped, read-only, shared between processes.

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


def build_catalogue(lake: Lake, mentioned_posts: Ids, mentioned_users: Ids) -> Catalogue:
    """Number everything the lake describes or mentions.

    Args:
        mentioned_posts: post ids that occur in events, any order, repeats allowed.
        mentioned_users: user ids that occur in events, follows or blocks, likewise.
    Raises: DataError when there is no post at all.
    """
    posts = _last_of_each(lake.read("posts"), "post_id")
    users = _last_of_each(lake.read("users"), "user_id")
    described = posts["post_id"].to_numpy()
    id_only = np.setdiff1d(mentioned_posts, described)
    post_id = np.concatenate([described, id_only])
    if not len(post_id):
        raise DataError(f"no posts in {lake.url}; run `recsys simulate` to make a world, or import logs")
    order = np.argsort(post_id, kind="stable")

    def column(values: ArrayLike, missing: int) -> np.ndarray:
        values = np.asarray(values)
        return np.concatenate([values, np.full(len(id_only), missing, values.dtype)])[order]

    topics, topic = _encode(posts["topic"])
    languages, post_language = _encode(posts["language"])
    language_of = {name: row for row, name in enumerate(languages)}
    user_languages, user_language = _encode(users["language"])
    languages += tuple(name for name in user_languages if name not in language_of)
    language_of = {name: row for row, name in enumerate(languages)}
    to_shared = np.array([language_of[name] for name in user_languages] + [-1], np.int32)
    countries, user_country = _encode(users["country"])
    user_id = np.concatenate([users["user_id"].to_numpy(), np.setdiff1d(mentioned_users, users["user_id"].to_numpy())])
    user_order = np.argsort(user_id, kind="stable")
    n_new_users = len(user_id) - len(users)

    def user_column(values: Rows) -> Rows:
        return np.concatenate([values, np.full(n_new_users, -1, np.int32)])[user_order]

    user_id = user_id[user_order]
    has_author = pc.is_valid(posts["author_id"]).to_numpy(zero_copy_only=False)
    authors_of_posts = posts["author_id"].fill_null(0).to_numpy()
    author_id = np.unique(authors_of_posts[has_author])
    texts = posts["text"].combine_chunks().fill_null("")
    texts = pa.concat_arrays([texts, pa.repeat("", len(id_only)).cast(pa.string())]).take(pa.array(order))
    declared = pa.concat_arrays([posts["duplicate_group"].combine_chunks(), pa.nulls(len(id_only), pa.int64())]).take(
        pa.array(order)
    )
    labels = pa.concat_arrays([posts["labels"].combine_chunks(), pa.nulls(len(id_only), pa.list_(pa.string()))]).take(
        pa.array(order)
    )
    media_row = pc.index_in(posts["media"], value_set=pa.array(MEDIA_TYPES)).fill_null(-1).to_numpy()
    follows_start, follows = _edges(lake, "follows", user_id, author_id)
    blocks_start, blocks = _edges(lake, "blocks", user_id, author_id)
    named = lake.read("ids")

    def names(kind: str, ids: Ids) -> pa.Array:
        of_kind = _last_of_each(named.filter(pc.equal(named["kind"], kind)), "id")
        order = np.argsort(of_kind["id"].to_numpy())
        place = lookup(of_kind["id"].to_numpy()[order], ids)
        rows = pa.array(order[place] if len(order) else place, mask=place < 0)
        return of_kind["name"].combine_chunks().take(rows)

    return Catalogue(
        post_id=post_id[order],
        author=column(np.where(has_author, lookup(author_id, authors_of_posts), np.int32(-1)), -1),
        topic=column(topic, -1),
        language=column(post_language, -1),
        media=column(media_row.astype(np.int32), -1),
        created_at=column(posts["created_at"].cast(pa.int64()).to_numpy(), 0),
        group=duplicate_groups(declared, texts),
        visible=column(posts["visible"].to_numpy(), True) & ~_labelled(labels, "violation"),
        text_length=pc.utf8_length(texts).to_numpy().astype(np.int32),
        tokens=tokens_of(texts, post_id[order]),
        author_id=author_id,
        user_id=user_id,
        user_language=user_column(to_shared[user_language]),
        user_country=user_column(user_country),
        follows_start=follows_start,
        follows=follows,
        blocks_start=blocks_start,
        blocks=blocks,
        topics=topics,
        languages=languages,
        countries=countries,
        texts=texts,
        labels=labels,
        post_name=names("post", post_id[order]),
        author_name=names("user", author_id),
        user_name=names("user", user_id),
        n_id_only_posts=len(id_only),
    )


def _save_columns(path: Path, **columns: pa.Array) -> None:
    batch = pa.record_batch(columns)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def _load_columns(path: Path) -> pa.RecordBatch:
    """Memory-mapped, so that processes share the pages and only what is asked for is read."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def _labelled(labels: pa.Array, label: str) -> Mask:
    """Whether each list holds the label, (N,)."""
    found = np.zeros(len(labels), bool)
    places = pc.list_parent_indices(labels).to_numpy()
    found[places[pc.equal(pc.list_flatten(labels), label).fill_null(False).to_numpy(zero_copy_only=False)]] = True
    return found


def _last_of_each(rows: pa.Table, key: str) -> pa.Table:
    """One row per key, the one written last: a later description replaces an earlier one."""
    keys = rows[key].to_numpy()
    _, first_from_behind = np.unique(keys[::-1], return_index=True)
    if len(first_from_behind) == len(keys):
        return rows
    return rows.take(pa.array(np.sort(len(keys) - 1 - first_from_behind)))


def _encode(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Rows]:
    """Names in alphabetical order and each row's place among them, -1 for null."""
    names = sorted(name for name in pc.unique(column).to_pylist() if name is not None)
    if not names:
        return (), np.full(len(column), -1, np.int32)
    rows = pc.index_in(column, value_set=pa.array(names, pa.string())).fill_null(-1)
    return tuple(names), rows.to_numpy().astype(np.int32)


def _edges(lake: Lake, table: str, user_id: Ids, author_id: Ids) -> tuple[Ids, Rows]:
    rows = lake.read(table, ["user_id", "author_id"])
    user = lookup(user_id, rows["user_id"].to_numpy())
    author = lookup(author_id, rows["author_id"].to_numpy())
    known = (user >= 0) & (author >= 0)
    pairs = np.unique(user[known].astype(np.int64) * max(len(author_id), 1) + author[known])
    start = np.searchsorted(pairs // max(len(author_id), 1), np.arange(len(user_id) + 1))
    return start.astype(np.int64), (pairs % max(len(author_id), 1)).astype(np.int32)
