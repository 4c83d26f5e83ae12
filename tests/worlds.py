"""Worlds so small that the right answer is known by hand: a catalogue, a request and its candidates in a line each."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from recsys.features.spec import CATEGORICAL, NAMES
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.ranking.examples import Examples
from recsys.types import Candidates, Context, FeedRequest, Shown, Source

NOW = 1_000_000
NOTHING = np.empty(0, np.int32)


def rows(values) -> np.ndarray:
    return np.array(values, np.int32)


def catalogue(author, *, group=None, visible=None, created_at=None) -> Catalogue:
    """Posts 100, 101, ... of these author rows (-1 unknown); author row a has id 900 + a. No users."""
    n = len(author)
    nothing = np.full(n, -1, np.int32)
    return Catalogue(
        post_id=np.arange(n, dtype=np.int64) + 100,
        author=rows(author),
        topic=nothing,
        language=nothing,
        media=nothing,
        created_at=np.zeros(n, np.int64) if created_at is None else np.array(created_at, np.int64),
        group=np.arange(n, dtype=np.int32) if group is None else rows(group),
        visible=np.ones(n, bool) if visible is None else np.array(visible, bool),
        text_length=np.zeros(n, np.int32),
        tokens=np.full((n, 12), -1, np.int32),
        author_id=np.arange(max([*author, -1]) + 1, dtype=np.int64) + 900,
        user_id=np.empty(0, np.int64),
        user_language=NOTHING,
        user_country=NOTHING,
        follows_start=np.zeros(1, np.int64),
        follows=NOTHING,
        blocks_start=np.zeros(1, np.int64),
        blocks=NOTHING,
        topics=(),
        languages=(),
        countries=(),
        texts=pa.array([""] * n),
        labels=pa.nulls(n, pa.list_(pa.string())),
        post_name=pa.nulls(n, pa.string()),
        author_name=pa.nulls(max([*author, -1]) + 1, pa.string()),
        user_name=pa.nulls(0, pa.string()),
        n_id_only_posts=0,
    )


def context(*, limit=20, blocks=(), returned=(), shown_authors=None) -> Context:
    """A request at `NOW`. `shown_authors`: author id to posts that earlier pages showed."""
    request = FeedRequest(1, 7, NOW, limit, Shown(authors=shown_authors or {}))
    return Context(request, -1, -1, -1, NOTHING, rows(blocks), NOTHING, rows(returned), NOTHING)


def candidates(post_row, score=None) -> Candidates:
    post_row = rows(post_row)
    score = np.linspace(0.9, 0.1, len(post_row)) if score is None else np.array(score)
    return Candidates(
        post_row=post_row,
        sources=np.full(len(post_row), Source.TWO_TOWER, np.uint16),
        retrieval_score=score.astype(np.float32),
        score=score.astype(np.float32),
    )


@st.composite
def scored_posts(draw):
    """A catalogue with few authors and groups, and a shuffled part of its posts with scores that often tie."""
    n = draw(st.integers(1, 25))
    cat = catalogue(
        draw(st.lists(st.integers(-1, 4), min_size=n, max_size=n)),
        group=draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)),
        visible=draw(st.lists(st.booleans(), min_size=n, max_size=n)),
        created_at=draw(st.lists(st.sampled_from([0, NOW, NOW + 1]), min_size=n, max_size=n)),
    )
    chosen = draw(st.lists(st.integers(0, n - 1), unique=True, max_size=n))
    score = draw(st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=len(chosen), max_size=len(chosen)))
    return cat, candidates(chosen, score)


def examples(n: int, rng: np.random.Generator, logit=None, position_logit=(0.0,)) -> Examples:
    """Random features; clicks drawn from `logit(features)` plus what the position adds. Positions are uniform."""
    features = rng.normal(size=(n, len(NAMES))).astype(np.float32)
    for name in CATEGORICAL:
        features[:, NAMES.index(name)] = rng.integers(-1, 4, n)
    position = rng.integers(0, len(position_logit), n).astype(np.int32)
    total = np.asarray(position_logit)[position] + (0.0 if logit is None else logit(features))
    return Examples(features, rng.random(n) < 1 / (1 + np.exp(-total)), position)
