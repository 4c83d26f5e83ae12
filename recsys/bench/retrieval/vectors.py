"""Vectors for the index benchmark: from a release's post tower for any number of posts, hard made-up ones, or from
files.

Takes a size, gives post vectors and a sample of the users who search them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.evaluation.report.material import Material
from recsys.progress import Report
from recsys.retrieval.towers.freshness import INDEX_AGES, later
from recsys.training import tuning_users
from recsys.types import HOUR, Floats, Rows, Times

N_QUERIES = 2000
"""Queries over all moments; half tune an index, half measure it."""
HOURS = (0.0, 3.0, 6.0, 12.0, 24.0, 48.0, 72.0, 168.0)
"""Hours after the end of the logs at which the index is measured again."""
_CHUNK = 100_000


@dataclass(frozen=True, slots=True)
class Vectors:
    """Posts to search and the queries of users."""

    name: str
    posts: Floats
    """(N, D)."""
    queries: Floats
    """The same M users at S moments, (S, M, D)."""
    later: dict[float, Floats] = field(default_factory=dict)
    """Hours after the end of the logs to the measuring users then, (M / 2, D); empty where time changes nothing."""


def halves(queries: Floats) -> tuple[Floats, Floats]:
    """Split queries by user, half to tune with, (S, M / 2, D), half to measure with, moments in turn, (S M / 2, D)."""
    return queries[:, 0::2], np.swapaxes(queries[:, 1::2], 0, 1).reshape(-1, queries.shape[-1])


@dataclass(frozen=True)
class _MadeUp:
    """Made-up posts with the columns that `Towers.post_vectors` reads of a catalogue."""

    topic: Rows
    author: Rows
    language: Rows
    media: Rows
    tokens: Rows
    created_at: Times

    @property
    def n_posts(self) -> int:
        return len(self.topic)


def of_towers(material: Material, n: int, report: Report) -> Vectors:
    """The release's post tower applied to n made-up posts, and its users at the end of the logs and later.

    A made-up post takes topic, author, language, medium, embedding and half of its words from one post of the
    catalogue, the other words from another of the same topic and language, and its time from a third. Hardly two are
    alike, as in a world of that size.
    """
    catalogue, towers = material.catalogue, material.towers
    rng = np.random.default_rng(0)
    # Sort posts by topic and language, so that a neighbour in this order is of the same kind.
    kind = np.asarray(catalogue.topic, np.int64) * (len(catalogue.languages) + 1) + catalogue.language
    order = np.argsort(kind, kind="stable")
    vectors = np.empty((n, towers.embedding_size), np.float32)
    for start in range(0, n, _CHUNK):
        size = min(_CHUNK, n - start)
        place = rng.integers(0, catalogue.n_posts, size)
        beside = np.minimum(place + rng.integers(1, 50, size), catalogue.n_posts - 1)
        one, other = order[place], order[beside]
        other = np.where(kind[one] == kind[other], other, one)
        tokens = np.array(catalogue.tokens[one])
        taken = rng.random(tokens.shape) < 0.5
        tokens[taken] = catalogue.tokens[other][taken]
        posts: Any = _MadeUp(
            catalogue.topic[one], catalogue.author[one], catalogue.language[one], catalogue.media[one], tokens,
            rng.permutation(catalogue.created_at[rng.integers(0, catalogue.n_posts, size)]),
        )  # fmt: skip
        of_chunk = replace(towers, post_place=towers.post_place[one])
        vectors[start : start + size] = of_chunk.post_vectors(posts)
        report(start + size, n)
    users = users_of(material)
    return Vectors("trained", vectors, users, {hours: later(users[0, 1::2], hours * HOUR) for hours in HOURS})


def users_of(material: Material) -> Floats:
    """Users of the release at the end of its logs and later, (S, M, D)."""
    config = material.config
    index = config.retrieval.index.model_copy(update={"n_tuning_queries": N_QUERIES // len(INDEX_AGES)})
    config = config.model_copy(update={"retrieval": config.retrieval.model_copy(update={"index": index})})
    return tuning_users(material.catalogue, material.logs.events, material.towers, material.logs_end, config)


def hard(n: int, size: int = 64, seed: int = 0) -> Vectors:
    """Hard vectors of length 1: 300 wide clusters with no direction to ignore; users have the same distribution."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(size, size)) * np.arange(1, size + 1) ** -0.35
    centres = rng.normal(size=(300, size))

    def draw(m: int) -> Floats:
        drawn = np.empty((m, size), np.float32)
        for start in range(0, m, _CHUNK):
            part = drawn[start : start + _CHUNK]
            x = (0.6 * centres[rng.integers(0, 300, len(part))] + rng.normal(size=part.shape)) @ axes.T
            part[:] = x / np.linalg.norm(x, axis=1, keepdims=True)
        return drawn

    return Vectors("hard", draw(n), draw(N_QUERIES)[None])


def from_files(posts: Path, queries: Path) -> Vectors:
    """Two .npy files of float matrices with as many columns.

    Raises: DataError when a file cannot be read or does not hold such a matrix.
    """
    read = []
    for path in (posts, queries):
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); give a .npy file of vectors") from None
        except (ValueError, EOFError):
            raise DataError(f"{path} must be a .npy file of vectors, got another; write it with numpy.save") from None
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or not array.size:
            raise DataError(
                f"{path} must hold a matrix of floats, a vector per row, got {array.dtype} {array.shape}; convert it"
            )
        with np.errstate(over="ignore"):
            read.append(np.ascontiguousarray(array, np.float32))
        if len(bad := np.flatnonzero(~np.isfinite(read[-1]).all(axis=1))):
            raise DataError(
                f"{path} must hold finite numbers as float32, got {len(bad)} rows with others (first: row {bad[0]}); "
                "remove them"
            )
    if read[0].shape[1] != read[1].shape[1]:
        raise DataError(
            f"{queries} must have vectors as long as {posts}, got {read[1].shape[1]} and {read[0].shape[1]} columns; "
            "use one model for both"
        )
    if len(read[1]) < 40:
        raise DataError(f"{queries} must hold at least 40 vectors, half to tune with, got {len(read[1])}; add some")
    return Vectors(posts.stem, read[0], read[1][None])


def n_distinct(vectors: Floats) -> int:
    """Number of distinct vectors, by a hash of their bits."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    rng = np.random.default_rng(0)
    hashes = np.zeros(len(bits), np.uint64)
    for column in range(bits.shape[1]):
        hashes = (hashes ^ bits[:, column]) * np.uint64(2 * int(rng.integers(2**62)) + 1)
        hashes ^= hashes >> np.uint64(29)
    return len(np.unique(hashes))
