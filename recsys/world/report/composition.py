"""Shares of copies, labels and missing fields among posts and users, beside the settings that made them.

Takes a world, its lake and its truth, gives figures. It does not read impressions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import POST_LABELS
from recsys.types import Doubles, Mask
from recsys.world.population.posts import COPY_KINDS
from recsys.world.population.texts import FINE
from recsys.world.report.statistics import WILSON, Figure, quantile, wilson
from recsys.world.world import World

_MAX_COMPARED = 20_000
"""Copies of each kind whose words are compared."""
_REPEATABLE = 99
"""A copy repeats one of this many posts before it."""


def composition(world: World, lake: Lake, truth_folder: Path) -> tuple[Figure, dict[str, Any]]:
    """Shares of copied, labelled, hidden and incomplete posts and users; and the groups of repeated texts.

    Gives: the figure of shares, with the shares expected from the settings as truth (for copies: given the labels);
        and a dict of duplicates with `groups`, `largest`, `sizes` (number of texts by how many posts carry them) and,
        for each kind of copy, `posts`, `declared` (copies whose group in the lake names the original) and
        `word_overlap` (mean Jaccard index of lower-case words with the original, null for originals).
    Raises: DataError when the truth about posts is missing, or is about other posts than the lake's.
    """
    posts = lake.read("posts", ["post_id", "topic", "text", "duplicate_group", "visible", "labels"]).sort_by("post_id")
    posts = posts.filter(pc.is_in(posts["post_id"], value_set=pa.array(world.population.posts.id)))
    path = truth_folder / "posts.parquet"
    if not path.is_file():
        raise DataError(f"no truth about posts in {truth_folder}; run `recsys simulate` to make a world")
    truth = pq.read_table(path, columns=["post_id", "duplicate_group", "copy"]).sort_by("post_id")
    if not posts["post_id"].equals(truth["post_id"]):
        raise DataError(f"the posts in {lake.url} differ from those in {path}; run `recsys simulate` again")
    kind = pc.index_in(truth["copy"], value_set=pa.array(COPY_KINDS)).to_numpy()
    return _shares(world, lake, posts, kind), _duplicates(posts, truth, kind)


def _shares(world: World, lake: Lake, posts: pa.Table, kind: np.ndarray) -> Figure:
    """The figure of shares; `kind` is the row of COPY_KINDS of each post, (N,)."""
    config = world.config
    n_posts, countries = len(posts), lake.read("users", ["country"])["country"]
    labels = pc.list_flatten(posts["labels"])
    copied = expected_copies(world.population.posts.label == FINE, config.duplicate_share, config.edited_share)
    rows = [
        *((name, int((kind == row + 1).sum()), n_posts, copied[row]) for row, name in enumerate(COPY_KINDS[1:])),
        *(
            (label, pc.sum(pc.equal(labels, label)).as_py() or 0, n_posts, share)
            for label, share in zip(POST_LABELS, (config.spam_share, config.violation_share), strict=True)
        ),
        ("taken down", n_posts - pc.sum(posts["visible"]).as_py(), n_posts, config.hidden_share),
        ("topic missing", posts["topic"].null_count, n_posts, config.missing_topic),
        ("country missing", countries.null_count, len(countries), config.missing_country),
    ]
    names, k, n, expected = zip(*rows, strict=True)
    counts, sizes = np.array(k, np.float64), np.array(n, np.int64)
    low, high = wilson(counts, sizes, quantile(len(rows)))
    return Figure(
        "What posts and users are like", "property", "share of posts or users", WILSON, tuple(names),
        np.arange(len(rows), dtype=np.float64), sizes, counts / sizes, low, high, np.array(expected),
    )  # fmt: skip


def expected_copies(fine: Mask, duplicate_share: float, edited_share: float) -> tuple[float, ...]:
    """Expected share of each kind of copy among all posts, given their moderation labels.

    A copy and its source both have no label, and a changed copy is never reposted. Conditioning on the labels makes the
    copies independent draws, as the band of a share assumes: otherwise copies of one source would depend on its label
    together, and half of the copies among the first hundred posts would copy the very first.

    Args:
        fine: whether a post has no label, in order of time, (N,).
    """
    n = np.arange(len(fine))  # row of each post; it may copy the rows first .. n - 1
    first = np.maximum(n - _REPEATABLE, 0)
    clipped = _REPEATABLE - (n - first)  # draws before the first post are clipped to it

    def of_sources(good: Doubles) -> Doubles:
        """Mean of `good` over the posts that each post may copy, (N,)."""
        before = np.concatenate([[0.0], np.cumsum(good)])
        return np.asarray((before[n] - before[first] + clipped * good[0]) / _REPEATABLE)

    good, able = fine.astype(np.float64), fine & (n > 0)
    unchanged = np.where(n > 0, (1 - edited_share) * good, good)
    reposts = duplicate_share * float((able * of_sources(unchanged)).mean())
    changed = edited_share / 3 * float((able * of_sources(good)).mean())
    return reposts, changed, changed, changed


def _duplicates(posts: pa.Table, truth: pa.Table, kind: np.ndarray) -> dict[str, Any]:
    """The dict of `composition`: groups of repeated texts, and counts by kind of copy."""
    post_id, group = truth["post_id"].to_numpy(), truth["duplicate_group"].to_numpy()
    declared = posts["duplicate_group"].to_numpy() == group
    _, size = np.unique(group, return_counts=True)
    sizes, texts = np.unique(size[size > 1], return_counts=True)
    original = np.searchsorted(post_id, group)
    kinds: dict[str, Any] = {}
    for row, name in enumerate(COPY_KINDS):
        posts_of_kind = np.flatnonzero(kind == row)
        compared = posts_of_kind[:_MAX_COMPARED]
        overlap = None if row == 0 else _word_overlap(posts["text"], compared, original[compared])
        kinds[name] = {
            "posts": len(posts_of_kind),
            "declared": None if row == 0 else int(declared[posts_of_kind].sum()),
            "word_overlap": overlap,
        }
    return {
        "groups": int(texts.sum()),
        "largest": int(size.max()),
        "sizes": {str(s): int(t) for s, t in zip(sizes.tolist(), texts.tolist(), strict=True)},
        "kinds": kinds,
    }


def _word_overlap(texts: pa.ChunkedArray, copies: np.ndarray, originals: np.ndarray) -> float | None:
    """Mean Jaccard index of the sets of lower-case words; None when no pair has two texts."""
    pairs = zip(texts.take(pa.array(copies)).to_pylist(), texts.take(pa.array(originals)).to_pylist(), strict=True)
    words = [(set(a.casefold().split()), set(b.casefold().split())) for a, b in pairs if a and b]
    return float(np.mean([len(a & b) / len(a | b) for a, b in words])) if words else None
