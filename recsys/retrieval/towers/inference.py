"""Run the two towers: turn posts and users into vectors whose inner product says how well they match.

Takes a catalogue and trained weights, gives float32 vectors. It uses NumPy alone, so serving never loads torch;
`torch_model` is the same arithmetic for training, and a test compares the two. It does not know how weights are learned
or how vectors are searched.

    post:  topic + author + language + medium + mean of words + own embedding = content (E)
           -> hidden -> output, length 1
    user:  weighted mean content of the clicked posts | mean of followed authors | language + country + number of clicks
           -> hidden -> output, length 1
    both:  J dimensions of freshness behind the output (see `freshness`)

The user's whole vector is divided by the temperature, so that inner products are logits.
In every table row 0 means "unknown" and row r + 1 is row r of the catalogue; row 0 of the words is padding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from recsys.errors import ReleaseError
from recsys.features.users import UserBatch
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.retrieval.towers import freshness
from recsys.retrieval.towers.text_input import text_rows
from recsys.types import Doubles, Floats, Ids, Rows, Times

Real = TypeVar("Real", Floats, Doubles)

MAX_ATTENTION_LOGIT = 30.0
"""Limit on the attention logit of a clicked post: float32 still holds its exponential."""

_CHUNK = 8192
"""Rows computed at once, to bound the memory for gathered word vectors."""


@dataclass(frozen=True)
class Towers:
    """Weights. T topics, A authors, E content size, H hidden width, K output width; K + J = D."""

    topic: Floats
    """(T + 1, E)."""
    author: Floats
    """(A + 1, E); row 0 is the vector of authors without training examples."""
    language: Floats
    media: Floats
    word: Floats
    """(n_text_buckets + 1, E)."""
    post: Floats
    """Embeddings of the P posts with at least `min_post_clicks` clicks, (P + 1, E); row 0 is zero."""
    post_place: Rows
    """Row in `post` of each post of the catalogue, 0 for posts without an embedding, (N,)."""
    post_hidden: Floats
    """(E, H)."""
    post_hidden_bias: Floats
    post_output: Floats
    """(H, K)."""
    post_output_bias: Floats
    amplitude: Floats
    """Weight of freshness at each pace, by topic, in units of the cosine, (T + 1, J)."""
    recency: Floats
    """Log weights of the clicked posts, newest first, (history_size,)."""
    attention: Floats
    """Attention vector, (E,): its product with a clicked post's content is added to the post's log weight. With zeros
    recency alone decides."""
    user: Floats
    """Embeddings of the V users with at least `min_user_clicks` clicks, (V + 1, E); row 0 is zero."""
    user_place: Rows
    """Row in `user` of each user of the catalogue, 0 for users without an embedding, (U,)."""
    user_language: Floats
    user_country: Floats
    n_clicks: Floats
    """By bucket of the number of clicks in the history: 0, 1, 2-3, 4-7, ..."""
    user_hidden: Floats
    """(3 E, H)."""
    user_hidden_bias: Floats
    user_output: Floats
    user_output_bias: Floats
    temperature: float
    text_ngrams: int
    """1 for words, 2 for words and pairs of neighbours; see `text_input.text_rows`."""
    reference: int
    """Time of the index build (microseconds). The freshness dimensions are relative to it."""

    @property
    def embedding_size(self) -> int:
        """D."""
        return len(self.post_output_bias) + freshness.N_PACES

    def with_reference(self, reference: int) -> Self:
        """The same towers for an index built at this time. Do not mix their vectors with those of another reference."""
        return replace(self, reference=int(reference))

    def content(self, catalogue: Catalogue, rows: Rows) -> Floats:
        """Sum of the posts' embeddings: words, topic, author, language, medium and own, (N,) to (N, E)."""
        read = text_rows(np.asarray(catalogue.tokens[rows]), len(self.word) - 1, self.text_ngrams)
        words = self.word[read].sum(axis=1)
        words /= np.maximum(np.count_nonzero(read, axis=1), 1).astype(np.float32)[:, None]
        words += self.topic[catalogue.topic[rows] + 1]
        words += self.author[catalogue.author[rows] + 1]
        words += self.language[catalogue.language[rows] + 1]
        words += self.media[catalogue.media[rows] + 1]
        words += self.post[self.post_place[rows]]
        content: Floats = words
        return content

    def post_vectors(self, catalogue: Catalogue, rows: Rows | None = None) -> Floats:
        """Vectors of these posts, or of all posts when None, (N, D)."""
        rows = np.arange(catalogue.n_posts, dtype=np.int32) if rows is None else rows
        vectors = np.empty((len(rows), self.embedding_size), np.float32)
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            fresh = freshness.to_float32(freshness.post_part(catalogue.created_at[part], self.reference))
            fresh *= self.amplitude[catalogue.topic[part] + 1]
            out = _dense(_relu(_dense(self.content(catalogue, part), self.post_hidden, self.post_hidden_bias)),
                         self.post_output, self.post_output_bias)  # fmt: skip
            vectors[start : start + _CHUNK] = np.hstack([_unit(out), fresh])
        return vectors

    def user_vectors(self, catalogue: Catalogue, users: UserBatch) -> Floats:
        """Vectors of users, each as of its own `now`, (B, D)."""
        vectors = np.empty((len(users), self.embedding_size), np.float32)
        for start in range(0, len(users), _CHUNK):
            vectors[start : start + _CHUNK] = self._user_vectors(catalogue, users.part(start, start + _CHUNK))
        return vectors

    def _user_vectors(self, catalogue: Catalogue, users: UserBatch) -> Floats:
        history = users.history[:, : len(self.recency)]
        seen = history >= 0
        n_seen = seen.sum(axis=1)
        profile = self.user_language[users.language + 1] + self.user_country[users.country + 1]
        profile += self.n_clicks[np.minimum(clicks_bucket(n_seen), len(self.n_clicks) - 1)]
        known = users.user_row >= 0
        profile[known] += self.user[self.user_place[users.user_row[known]]]
        user_input = np.hstack([self._clicked(catalogue, history, seen), self._followed(users), profile])
        # In float64: the rounding of a matrix product depends on the number of rows, and one user (serving) must get
        # the same float32 vector as in a batch of thousands (training).
        hidden = _relu(_dense(user_input.astype(np.float64), *self._user_hidden_doubles))
        out: Floats = _unit(_dense(hidden, *self._user_output_doubles)).astype(np.float32)
        fresh = freshness.to_float32(freshness.user_part(users.now, self.reference))
        return np.asarray(np.hstack([out, fresh]) / np.float32(self.temperature), np.float32)

    @cached_property
    def _user_hidden_doubles(self) -> tuple[Doubles, Doubles]:
        return self.user_hidden.astype(np.float64), self.user_hidden_bias.astype(np.float64)

    @cached_property
    def _user_output_doubles(self) -> tuple[Doubles, Doubles]:
        return self.user_output.astype(np.float64), self.user_output_bias.astype(np.float64)

    def _clicked(self, catalogue: Catalogue, history: Rows, seen: np.ndarray) -> Floats:
        """Weighted mean of the clicked posts' content, (B, E); zero for an empty history."""
        # Each distinct clicked post's content once: posts (P,), content (P + 1, E); its last row, zero, is the padding.
        posts, place = np.unique(history[seen], return_inverse=True)
        content = np.zeros((len(posts) + 1, self.topic.shape[1]), np.float32)
        for start in range(0, len(posts), _CHUNK):
            content[start : min(start + _CHUNK, len(posts))] = self.content(catalogue, posts[start : start + _CHUNK])
        content_row = np.full(history.shape, len(posts))  # (B, L)
        content_row[seen] = place
        # Weights (B, L): softmax of recency plus attention over each history.
        attention_logit = np.clip((content * self.attention).sum(axis=1), -MAX_ATTENTION_LOGIT, MAX_ATTENTION_LOGIT)
        weight = np.exp(self.recency[: history.shape[1]] + attention_logit[content_row]) * seen
        # Summed in float64, as in `_user_vectors`: the amount of padding must not change the result.
        weight /= np.maximum(weight.sum(axis=1, keepdims=True, dtype=np.float64), 1e-9).astype(np.float32)
        # Added click by click, which needs (B, E) memory in place of (B, L, E).
        mean = np.zeros((len(history), content.shape[1]), np.float32)
        for nth in range(history.shape[1]):
            mean += weight[:, nth, None] * content[content_row[:, nth]]
        return mean

    def _followed(self, users: UserBatch) -> Floats:
        """Mean embedding of the followed authors, (B, E); zero for users who follow nobody."""
        mean = np.zeros((len(users), self.author.shape[1]), np.float32)
        length = np.diff(users.follows_start)
        following = np.flatnonzero(length)
        if len(following):
            total = np.add.reduceat(self.author[users.follows + 1], users.follows_start[following], axis=0)
            mean[following] = total / length[following, None].astype(np.float32)
        return mean

    def save(self, folder: Path) -> None:
        """Write one .npy file per table and a small JSON file."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in _TABLES:
            np.save(folder / f"{name}.npy", getattr(self, name))
        (folder / "towers.json").write_text(json.dumps({name: getattr(self, name) for name in _SCALARS}))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open saved towers; tables are memory-mapped, read-only.

        Raises: ReleaseError when a file is missing, truncated or of the wrong type or shape.
        """
        try:
            scalars = json.loads((folder / "towers.json").read_text())
            # A plain array over the map: indexing an np.memmap object costs microseconds more each time.
            read: dict[str, Any] = {
                name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _TABLES
            }
            towers = cls(**read, **{name: kind(scalars[name]) for name, kind in _SCALARS.items()})
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise ReleaseError(f"the towers in {folder} cannot be read ({error}); run `recsys train` again") from None
        towers._check_shapes(folder)
        return towers

    def _check_shapes(self, folder: Path) -> None:
        if self.post_hidden.ndim != 2:
            raise ReleaseError(
                f"post_hidden of the towers in {folder} must be a matrix, got {self.post_hidden.shape}; "
                "run `recsys train` again"
            )
        content, hidden = self.post_hidden.shape
        wanted = {
            "post_output": (hidden, len(self.post_output_bias)),
            "user_hidden": (3 * content, len(self.user_hidden_bias)),
            "user_output": (len(self.user_hidden_bias), len(self.post_output_bias)),
            "amplitude": (len(self.topic), freshness.N_PACES),
            "attention": (content,),
        }
        wanted |= {name: (len(getattr(self, name)), content) for name in _EMBEDDINGS}
        for name, shape in wanted.items():
            table = getattr(self, name)
            if table.shape != shape or table.dtype != np.float32:
                raise ReleaseError(
                    f"{name} of the towers in {folder} must be float32 {shape}, got {table.dtype} {table.shape}; "
                    "run `recsys train` again"
                )
        if self.text_ngrams not in (1, 2):
            raise ReleaseError(
                f"text_ngrams of the towers in {folder} must be 1 or 2, got {self.text_ngrams}; "
                "run `recsys train` again"
            )
        for name, place, size in (("post", self.post_place, len(self.post)), ("user", self.user_place, len(self.user))):
            in_range = place.ndim == 1 and 0 <= place.min(initial=0) <= place.max(initial=0) < size
            if place.dtype != np.int32 or not in_range:
                raise ReleaseError(
                    f"{name}_place of the towers in {folder} must be int32 rows of the {size} in {name}, "
                    f"got {place.dtype} {place.shape}; run `recsys train` again"
                )

    def check_catalogue(self, catalogue: Catalogue) -> None:
        """Raises: ReleaseError when these towers were trained on another catalogue."""
        for name, trained, size in (
            ("topics", len(self.topic) - 1, len(catalogue.topics)),
            ("authors", len(self.author) - 1, catalogue.n_authors),
            ("languages", len(self.language) - 1, len(catalogue.languages)),
            ("countries", len(self.user_country) - 1, len(catalogue.countries)),
            ("posts", len(self.post_place), catalogue.n_posts),
            ("users", len(self.user_place), catalogue.n_users),
        ):
            if trained != size:
                raise ReleaseError(
                    f"the towers were trained with {trained} {name}, the catalogue has {size}; "
                    "serve both from one release"
                )


_EMBEDDINGS = (
    "topic", "author", "language", "media", "word", "post", "user", "user_language", "user_country", "n_clicks",
)  # fmt: skip
_SCALARS: dict[str, type] = {"temperature": float, "text_ngrams": int, "reference": int}
_TABLES = tuple(column.name for column in fields(Towers) if column.name not in _SCALARS)


def clicks_bucket(n_clicks: np.ndarray) -> np.ndarray:
    """0, 1, 2-3, 4-7, 8-15, ... clicks to 0, 1, 2, 3, 4, ..."""
    return np.frexp(n_clicks.astype(np.float64))[1]


def tower_scores(
    towers: Towers, catalogue: Catalogue, user_vectors: Floats, post_vectors: Floats, post_row: Rows, now: Times
) -> Floats:
    """Similarity of Q pairs of a user and a post: the inner product of their vectors, (Q,).

    Freshness is computed from the post's age, so scores are exact at any distance from the index build, and equal in
    training and serving.

    Args:
        user_vectors: (Q, D), or (1, D) for one user.
        post_vectors: of the whole catalogue, (N, D).
        post_row: (Q,).
        now: moment of each pair, (Q,) or (1,), microseconds.
    """
    size = len(towers.post_output_bias)
    age: Ids = now - catalogue.created_at[post_row]
    fresh = (towers.amplitude[catalogue.topic[post_row] + 1] * freshness.decay(age)).sum(axis=1)
    users = np.broadcast_to(user_vectors[:, :size], (len(post_row), size))
    # Summed in float64, so that the order of summation does not change the float32 result.
    static = np.einsum("qk,qk->q", users, post_vectors[post_row, :size], dtype=np.float64)
    scores: Floats = (static + fresh / np.float32(towers.temperature)).astype(np.float32)
    return scores


def _dense(x: Real, weight: Real, bias: Real) -> Real:
    result: Real = x @ weight + bias
    return result


def _relu(x: Real) -> Real:
    return np.maximum(x, 0, out=x)


def _unit(x: Real) -> Real:
    """Rows of length 1."""
    unit: Real = x / np.maximum(np.sqrt((x * x).sum(axis=1, keepdims=True)), 1e-9)
    return unit
