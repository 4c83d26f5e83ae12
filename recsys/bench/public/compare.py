"""Models on a public data set, by the definitions under which results are published.

Takes a folder, gives recall, nDCG and hit rate of each model. Lists come from the full catalogue: every item of the
data, no sampled negatives, without what the user had in training or validation. A test item that the user had before
can therefore not be found; it still counts as relevant, as in the code of LightGCN. Every user with a test item counts
the same, also one without training.

Models are in `models`. They know nothing of the test; `evaluate` knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.bench.public.data import Dataset, read_dataset
from recsys.bench.public.models import MODELS, Recommend, batch_size
from recsys.config import RetrievalConfig
from recsys.evaluation.metrics.top_k import found, hit_at, mean_interval, ndcg_at, recall_at
from recsys.progress import Progress, Report

K = 20
"""Length of the recommended lists."""


def bench_public(folder: Path, config: RetrievalConfig, names: Sequence[str], progress: Progress) -> dict[str, Any]:
    """Train and evaluate every model; return the data set's sizes and the figures.

    Args:
        names: of `MODELS`.
    Raises: DataError when the folder does not hold a data set.
    """
    with progress.stage("read"):
        dataset = read_dataset(folder)
    models: dict[str, Any] = {}
    for name in names:
        with progress.stage(f"{name}: train") as report:
            start = time.perf_counter()
            learned = MODELS[name](dataset, K, config, report)
            train_s = time.perf_counter() - start
        with progress.stage(f"{name}: evaluate") as report:
            figures = evaluate(dataset, learned.recommend, report)
        per_s = None if learned.n_examples is None else round(learned.n_examples / train_s)
        models[name] = {**figures, "train_s": round(train_s, 3), "examples_per_s": per_s, "epochs": learned.epochs}
    return {
        "dataset": folder.resolve().name,
        "layout": dataset.layout,
        "users": len(dataset.user_ids),
        "items": len(dataset.item_ids),
        "interactions": {
            "train": len(dataset.train), "validation": len(dataset.validation), "test": len(dataset.test)
        },
        "test_users": int((dataset.test.size > 0).sum()),
        "seen_test_items": _n_seen(dataset),
        "repeated_items": dataset.n_repeats,
        "skipped_lines": dataset.skipped,
        "models": models,
    }  # fmt: skip


def evaluate(dataset: Dataset, recommend: Recommend, report: Report) -> dict[str, Any]:
    """Mean of each metric over the users with a test item, with its 95% interval.

    Users are processed in batches, so that a model may score the whole catalogue for each.
    Raises: ValueError when a list holds an item that the user had before.
    """
    users = np.flatnonzero(dataset.test.size).astype(np.int32)
    size = batch_size(len(dataset.item_ids))
    parts: dict[str, list[np.ndarray]] = {"recall@20": [], "ndcg@20": [], "hr@10": [], "ndcg@10": []}
    for begin in range(0, len(users), size):
        batch = users[begin : begin + size]
        lists = recommend(batch)
        if found(lists, *dataset.seen.of(batch)).any():
            raise ValueError("a list must not hold items that the user had in training or validation")
        hit, n_relevant = found(lists, *dataset.test.of(batch)), dataset.test.size[batch]
        parts["recall@20"].append(recall_at(hit, n_relevant, 20))
        parts["ndcg@20"].append(ndcg_at(hit, n_relevant, 20))
        parts["hr@10"].append(hit_at(hit, 10))
        parts["ndcg@10"].append(ndcg_at(hit, n_relevant, 10))
        report(begin + len(batch), len(users))
    values = {name: np.concatenate(part) for name, part in parts.items()}
    return {
        **{name: float(value.mean()) for name, value in values.items()},
        **{f"{name}_ci": mean_interval(value) for name, value in values.items()},
    }


def _n_seen(dataset: Dataset) -> int:
    """Number of test items that their user had before; no list may hold them."""
    n_items = len(dataset.item_ids)
    test, seen = (part.user.astype(np.int64) * n_items + part.item for part in (dataset.test, dataset.seen))
    return int(pc.sum(pc.is_in(pa.array(test), value_set=pa.array(seen))).as_py())
