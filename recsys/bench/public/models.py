"""The models of `bench public`: from a data set to recommended lists for its users.

A model learns from `train` and, to choose how long, `validation`; it is given nothing of the test. Settings are the
same for every data set. It does not know how lists are judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from recsys.bench.public.data import Dataset, Interactions, by_user
from recsys.config import IdTowersConfig, RetrievalConfig
from recsys.evaluation.metrics.top_k import found, recall_at
from recsys.progress import Report
from recsys.retrieval.sources.neighbours import neighbours
from recsys.retrieval.towers.id_towers import IdTowers, Log
from recsys.retrieval.towers.metric import similarity
from recsys.types import Floats, Rows

_HELD_SHARE = 0.02
"""Share of the training interactions held out for early stopping where the data set has no validation."""
_MOST_HELD = 20_000
_CELLS = 1 << 25
"""User-item scores per batch at most: 128 MB as float32, whatever the catalogue's size."""
_MAX_BATCH = 4096

Recommend: TypeAlias = Callable[[Rows], Rows]
"""User rows (B,) to item rows (B, k): best first, no repeats, none of the user's seen items, -1 padded."""


class LearnedLists(NamedTuple):
    """A trained model."""

    recommend: Recommend
    n_examples: int | None = None
    """Training examples processed over all passes; None for a model that only counts."""
    epochs: int | None = None


Model: TypeAlias = Callable[[Dataset, int, RetrievalConfig, Report], LearnedLists]
"""The int is k, the length of the lists."""


def popularity(dataset: Dataset, k: int, config: RetrievalConfig, report: Report) -> LearnedLists:
    """The items with the most training interactions; ties go to the lowest row, the first id in text order."""
    count = np.bincount(dataset.train.item, minlength=len(dataset.item_ids))
    order = np.argsort(-count, kind="stable").astype(np.int32)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))

    def recommend(users: Rows) -> Rows:
        # A user who has seen n items finds k others among the first n + k.
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

    return LearnedLists(recommend)


def matrix_factorisation(dataset: Dataset, k: int, config: RetrievalConfig, report: Report) -> LearnedLists:
    """One vector per user and item, trained with the same loss as the two towers."""
    ids = config.id_towers.model_copy(update={"history_size": 0, "user_ids": True})
    return _fitted(dataset, k, ids, report)


def two_tower(dataset: Dataset, k: int, config: RetrievalConfig, report: Report) -> LearnedLists:
    """Towers of ids: a user is the history, plus an id where the settings say so."""
    return _fitted(dataset, k, config.id_towers, report)


def item_cf(dataset: Dataset, k: int, config: RetrievalConfig, report: Report) -> LearnedLists:
    """Items with the same users as the items in the user's history."""
    n_users, n_items = len(dataset.user_ids), len(dataset.item_ids)
    similar = neighbours(dataset.train.user, dataset.train.item, n_users, n_items, config.covisitation).matrix()

    def recommend(users: Rows) -> Rows:
        row, item = dataset.seen.of(users)
        taken = sparse.csr_matrix((np.ones(len(item), np.float32), (row, item)), (len(users), n_items))
        return best(np.asarray((taken @ similar).toarray()), dataset.seen, users, k)

    return LearnedLists(recommend)


MODELS: dict[str, Model] = {
    "popularity": popularity, "item_cf": item_cf, "mf": matrix_factorisation, "two_tower": two_tower
}  # fmt: skip


def _fitted(dataset: Dataset, k: int, config: IdTowersConfig, report: Report) -> LearnedLists:
    ordered = dataset.layout == "sequences"
    train, held = (dataset.train, dataset.validation) if ordered else _held_out(dataset.train, config.seed)
    log = _log(train, ordered)
    towers = IdTowers(log, len(dataset.item_ids), config)
    users = np.flatnonzero(held.size).astype(np.int32)
    users = np.random.default_rng(config.seed).permutation(users)[:_MOST_HELD]

    def judge() -> float:
        """Recall of the held-out interactions."""
        posts, parts, size = towers.post_vectors(), [], batch_size(len(dataset.item_ids))
        for begin in range(0, len(users), size):
            some = users[begin : begin + size]
            lists = best(similarity(towers.user_vectors(some, log), posts), train, some, k)
            parts.append(recall_at(found(lists, *held.of(some)), held.size[some], k))
        return float(np.concatenate(parts).mean())

    fitted = towers.fit(report, judge if len(users) else None)
    known, posts = _log(dataset.seen, ordered), towers.post_vectors()

    def recommend(some: Rows) -> Rows:
        return best(similarity(towers.user_vectors(some, known), posts), dataset.seen, some, k)

    return LearnedLists(recommend, len(fitted.losses) * len(log.post), fitted.epochs)


def batch_size(n_items: int) -> int:
    """Users per batch, so that the scores of all items fit in memory."""
    return min(_MAX_BATCH, max(1, _CELLS // n_items))


def best(score: Floats, seen: Interactions, users: Rows, k: int) -> Rows:
    """The k items with the highest scores for each user, without seen items; ties go to the lowest row.

    Args:
        score: of `users` and all items, (B, N); changed in place.
    """
    score[seen.of(users)] = -np.inf
    k_there = min(k, score.shape[1])
    last = np.partition(score, -k_there, axis=1)[:, -k_there, None]
    above, equal = score > last, (score == last) & (last > -np.inf)
    room = k_there - above.sum(axis=1, keepdims=True)
    row, item = np.nonzero(above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room)))
    order = np.lexsort((item, -score[row, item], row))
    count = np.bincount(row, minlength=len(users))
    nth = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    lists = np.full((len(users), k), -1, np.int32)
    lists[row, nth] = item[order]
    return lists


def _held_out(train: Interactions, seed: int) -> tuple[Interactions, Interactions]:
    """Split off held-out interactions of users with more than two."""
    rng = np.random.default_rng(seed)
    held = (rng.random(len(train)) < _HELD_SHARE) & (train.size[train.user] > 2)
    user, n_users = train.user, len(train.start) - 1
    kept, told = (by_user(user[rows], train.item[rows], n_users) for rows in (~held, held))
    return kept, told


def _log(part: Interactions, ordered: bool) -> Log:
    return Log(part.start, part.item, ordered)
