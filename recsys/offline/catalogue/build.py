"""Build the catalogue: from the tables of a lake to dense rows and arrays.

Takes the lake and the ids that logs mention, gives a `Catalogue`. It does not know how a catalogue is saved.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike

from recsys.errors import DataError
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.catalogue.text_hashes import duplicate_groups, tokens_of
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import MEDIA_TYPES
from recsys.types import Ids, Mask, Rows


def build_catalogue(lake: Lake, mentioned_posts: Ids, mentioned_users: Ids) -> Catalogue:
    """Give a row to every post, author and user that the lake describes or mentions.

    Args:
        mentioned_posts: post ids that occur in logs, any order, repeats allowed.
        mentioned_users: user ids that occur in logs, follows or blocks, likewise.
    Raises: DataError when there is no post at all.
    """
    # 1. Number the rows by id: described ones and those that are only mentioned.
    posts = _last_description(lake.read("posts"), "post_id")
    users = _last_description(lake.read("users"), "user_id")
    post = _Numbering(posts["post_id"].to_numpy(), mentioned_posts)
    user = _Numbering(users["user_id"].to_numpy(), mentioned_users)
    if not len(post.id):
        raise DataError(f"no posts in {lake.url}; run `recsys simulate` to make a world, or import logs")

    # 2. Authors are those of described posts, (A,).
    has_author = pc.is_valid(posts["author_id"]).to_numpy(zero_copy_only=False)
    author_of_post = posts["author_id"].fill_null(0).to_numpy()
    author_id = np.unique(author_of_post[has_author])

    # 3. Strings to numbers. Posts and users share one list of languages: posts' first, then those only users have.
    topics, topic = _encode(posts["topic"])
    countries, user_country = _encode(users["country"])
    languages, post_language = _encode(posts["language"])
    user_languages, user_language = _encode(users["language"])
    languages += tuple(name for name in user_languages if name not in languages)
    to_shared = np.array([languages.index(name) for name in user_languages] + [-1], np.int32)
    media = pc.index_in(posts["media"], value_set=pa.array(MEDIA_TYPES)).fill_null(-1).to_numpy().astype(np.int32)

    # 4. Texts and what was declared about posts, in row order, (N,).
    texts = post.arrow_column(posts["text"].fill_null(""), "")
    labels = post.arrow_column(posts["labels"])
    follows_start, follows = _edges(lake, "follows", user.id, author_id)
    blocks_start, blocks = _edges(lake, "blocks", user.id, author_id)
    ids = lake.read("ids")
    return Catalogue(
        post_id=post.id,
        author=post.column(np.where(has_author, lookup(author_id, author_of_post), np.int32(-1)), -1),
        topic=post.column(topic, -1),
        language=post.column(post_language, -1),
        media=post.column(media, -1),
        created_at=post.column(posts["created_at"].cast(pa.int64()).to_numpy(), 0),
        group=duplicate_groups(post.arrow_column(posts["duplicate_group"]), texts),
        visible=post.column(posts["visible"].to_numpy(), True) & ~_has_label(labels, "violation"),
        text_length=pc.utf8_length(texts).to_numpy().astype(np.int32),
        tokens=tokens_of(texts, post.id),
        author_id=author_id,
        user_id=user.id,
        user_language=user.column(to_shared[user_language], -1),
        user_country=user.column(user_country, -1),
        follows_start=follows_start,
        follows=follows,
        blocks_start=blocks_start,
        blocks=blocks,
        topics=topics,
        languages=languages,
        countries=countries,
        texts=texts,
        labels=labels,
        post_name=_names(ids, "post", post.id),
        author_name=_names(ids, "user", author_id),
        user_name=_names(ids, "user", user.id),
        n_id_only_posts=post.n_id_only,
    )


class _Numbering:
    """Rows in order of id: described ids first brought together with ids that are only mentioned."""

    def __init__(self, described: Ids, mentioned: Ids) -> None:
        """`described` has no repeats, (D,); `mentioned` may have some."""
        id_only = np.setdiff1d(mentioned, described)
        self.n_id_only = len(id_only)
        ids = np.concatenate([described, id_only])
        self._order = np.argsort(ids, kind="stable")
        self.id: Ids = ids[self._order]
        """Ascending, (N,)."""

    def column(self, values: ArrayLike, missing: int) -> np.ndarray:
        """Values of the described ids, (D,), to values of all rows, (N,); `missing` for the others."""
        values = np.asarray(values)
        return np.concatenate([values, np.full(self.n_id_only, missing, values.dtype)])[self._order]

    def arrow_column(self, values: pa.ChunkedArray, missing: str | None = None) -> pa.Array:
        """As `column`, of an Arrow column."""
        filler = pa.repeat(pa.scalar(missing, values.type), self.n_id_only)
        return pa.concat_arrays([values.combine_chunks(), filler]).take(pa.array(self._order))


def _names(ids: pa.Table, kind: str, numbers: Ids) -> pa.Array:
    """The string each number stands for by the table `ids`, null where none is recorded, (N,)."""
    of_kind = _last_description(ids.filter(pc.equal(ids["kind"], kind)), "id")
    order = np.argsort(of_kind["id"].to_numpy())
    place = lookup(of_kind["id"].to_numpy()[order], numbers)
    rows = pa.array(order[place] if len(order) else place, mask=place < 0)
    return of_kind["name"].combine_chunks().take(rows)


def _has_label(labels: pa.Array, label: str) -> Mask:
    """Whether each list contains the label, (N,)."""
    found = np.zeros(len(labels), bool)
    places = pc.list_parent_indices(labels).to_numpy()
    found[places[pc.equal(pc.list_flatten(labels), label).fill_null(False).to_numpy(zero_copy_only=False)]] = True
    return found


def _last_description(rows: pa.Table, key: str) -> pa.Table:
    """Keep the last row of each key: a later description replaces an earlier one."""
    keys = rows[key].to_numpy()
    _, first_from_behind = np.unique(keys[::-1], return_index=True)
    if len(first_from_behind) == len(keys):
        return rows
    return rows.take(pa.array(np.sort(len(keys) - 1 - first_from_behind)))


def _encode(column: pa.ChunkedArray) -> tuple[tuple[str, ...], Rows]:
    """Names in alphabetical order, and each row's place among them, -1 for null."""
    names = sorted(name for name in pc.unique(column).to_pylist() if name is not None)
    if not names:
        return (), np.full(len(column), -1, np.int32)
    rows = pc.index_in(column, value_set=pa.array(names, pa.string())).fill_null(-1)
    return tuple(names), rows.to_numpy().astype(np.int32)


def _edges(lake: Lake, table: str, user_id: Ids, author_id: Ids) -> tuple[Ids, Rows]:
    """The author rows of each user in `follows` or `blocks`, as compressed lists: starts (U + 1,) and rows (M,)."""
    rows = lake.read(table, ["user_id", "author_id"])
    user = lookup(user_id, rows["user_id"].to_numpy())
    author = lookup(author_id, rows["author_id"].to_numpy())
    known = (user >= 0) & (author >= 0)
    # One number per (user, author): unique sorts by user, then author, and drops repeats.
    pairs = np.unique(user[known].astype(np.int64) * max(len(author_id), 1) + author[known])
    start = np.searchsorted(pairs // max(len(author_id), 1), np.arange(len(user_id) + 1))
    return start.astype(np.int64), (pairs % max(len(author_id), 1)).astype(np.int32)
