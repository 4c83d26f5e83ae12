"""Models on a public data set, by the definitions under which results are published.

Takes a folder, gives recall, nDCG and hit rate of each model. Lists come from the full catalogue: every item of the
data, no sampled negatives, without what the user had in training or validation. A test item that the user had before
can therefore not be found; it still counts as relevant, as in the code of LightGCN. Every user with a test item counts
the same, also one without training.

A model is a function in `MODELS`. It knows nothing of the test; `evaluate` knows nothing of models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.bench.public_data import Dataset, read_dataset
from recsys.evaluation.topk import found, hit_at, mean_interval, ndcg_at, recall_at
from recsys.progress import Progress, Report
from recsys.types import Rows

K = 20
"""Length of the lists that models give."""
_CELLS = 1 << 25
"""User-item scores a batch may hold: 128 MB as float32, whatever the catalogue's size."""
_MAX_BATCH = 4096

Recommend: TypeAlias = Callable[[Rows], Rows]
"""User rows (B,) to item rows (B, k): best first, none twice, none of the user's `seen`, -1 where nothing is left."""
Model: TypeAlias = Callable[[Dataset, int], Recommend]
"""Learns from `train` and, to choose settings, `validation`; the int is k."""


def popularity(dataset: Dataset, k: int) -> Recommend:
    """The items with the most interactions in training; among equals the lowest row, that is the first id as text."""
    count = np.bincount(dataset.train.item, minlength=len(dataset.item_ids))
    order = np.argsort(-count, kind="stable").astype(np.int32)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))

    def recommend(users: Rows) -> Rows:
        # A user who has n of the items finds k others among the first n + k.
        depth = min(len(order), k + int(dataset.seen.size[users].max(initial=0)))
        row, item = dataset.seen.of(users)
        near = place[item] < depth
        free = np.ones((len(users), depth), bool)
        free[row[near], place[item[near]]] = False
        nth = np.cumsum(free, axis=1, dtype=np.int32)
        list_row, column = np.nonzero(free & (nth <= k))
        lists = np.full((len(users), k), -1, np.int32)
        lists[list_row, nth[list_row, column] - 1] = order[column]
        return lists

    return recommend


MODELS: dict[str, Model] = {"popularity": popularity}


def bench_public(folder: Path, progress: Progress) -> dict[str, Any]:
    """Sizes of the data set and the figures of every model.

    Raises: DataError when the folder does not hold a data set.
    """
    with progress.stage("read"):
        dataset = read_dataset(folder)
    models: dict[str, Any] = {}
    for name, learn in MODELS.items():
        with progress.stage(name) as report:
            start = time.perf_counter()
            recommend = learn(dataset, K)
            train_s = time.perf_counter() - start
            models[name] = {**evaluate(dataset, recommend, report), "train_s": round(train_s, 3)}
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
    """Means over the users with a test item, each with its 95% interval beside it.

    Users come in batches, so that a model may score the whole catalogue for each of them.
    Raises: ValueError when a list holds an item that the user had before.
    """
    users = np.flatnonzero(dataset.test.size).astype(np.int32)
    size = min(_MAX_BATCH, max(1, _CELLS // len(dataset.item_ids)))
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
    """Test items that their user had before: nobody's list may hold them."""
    n_items = len(dataset.item_ids)
    test, seen = (part.user.astype(np.int64) * n_items + part.item for part in (dataset.test, dataset.seen))
    return int(pc.sum(pc.is_in(pa.array(test), value_set=pa.array(seen))).as_py())
