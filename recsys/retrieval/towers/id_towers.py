"""Towers for logs without content: users and posts are known by id alone.

Takes clicks, gives vectors of users and posts whose inner product says how well they match. With `history_size` 0 this
is matrix factorisation: one vector per user and post. With a history, the vectors of the clicked posts are added to the
user's. Content, age and follows are in `torch_model`; loss and training loop are the same.

    post:  id -> length 1 | popularity
    user:  id + weighted sum of the clicked posts / sqrt(total weight) -> length 1 | 1

Popularity is one extra number per post. Without it, vectors of length 1 must express popularity by their direction;
with it, the direction is free for what differs between users.

Source of the history beside the id: Mao et al., "SimpleX: A Simple and Strong Baseline for Collaborative Filtering",
CIKM 2021, section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import IdTowersConfig
from recsys.progress import Report
from recsys.retrieval.towers.device import training_device
from recsys.retrieval.towers.fitting import Fitted, fit
from recsys.retrieval.towers.loss import log_expected, sampled_softmax
from recsys.retrieval.towers.metric import similarity
from recsys.retrieval.towers.rowwise_adam import RowTable
from recsys.types import Floats, Ids, Rows

_SPREAD = 0.1
"""Standard deviation of new vectors."""
_MIN_WEIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class Log:
    """Clicks grouped by user (CSR)."""

    start: Ids
    """Position of each user's first click, (U + 1,)."""
    post: Rows
    """(M,); in order of time within a user where `ordered`."""
    ordered: bool
    """True if clicks are in order of time. If False, all other clicks of the user are the history of a click."""

    @property
    def n_users(self) -> int:
        return len(self.start) - 1

    @property
    def user(self) -> Ids:
        """The user of each click, (M,)."""
        return np.repeat(np.arange(self.n_users), np.diff(self.start))


@dataclass(frozen=True, slots=True)
class _Histories:
    """Histories of B users: H clicked posts grouped by user (CSR)."""

    post: Rows
    start: Ids
    """(B + 1,)."""
    keep: np.ndarray
    """False for posts left out, (H,): the click to be predicted, and those hidden by dropout."""
    distance: Ids
    """0 for a user's newest click, 1 for the one before, ..., (H,); all 0 without an order."""


class IdTowers:
    """The model with its training clicks, as a `fitting.Model`."""

    def __init__(self, log: Log, n_posts: int, config: IdTowersConfig) -> None:
        """
        Args:
            log: at least one click; each is an example.
        Raises: ConfigError for a GPU that torch does not see.
        """
        self._device = training_device(config.device, "retrieval.id_towers")
        generator = torch.Generator().manual_seed(config.seed)

        def table(n_rows: int) -> RowTable:
            return RowTable(n_rows, config.embedding_size, _SPREAD, config.weight_decay, generator, self._device)

        self.n_examples = len(log.post)
        self._log, self._config, self._n_posts = log, config, n_posts
        self._user = log.user
        self._posts = table(n_posts)
        self._users = table(log.n_users) if config.user_ids else None
        self._popularity = RowTable(n_posts, 1, 0.0, config.weight_decay, generator, self._device)
        user_table = [] if self._users is None else [self._users]
        self.tables: Sequence[RowTable] = [self._posts, self._popularity, *user_table]
        self._recency = nn.Parameter(torch.zeros(max(config.history_size, 1), device=self._device))
        self.dense: Sequence[nn.Parameter] = [self._recency] if log.ordered and config.history_size else []
        share = np.bincount(log.post, minlength=n_posts) / len(log.post)
        self._share = self._tensor(share.astype(np.float32))

    def fit(self, progress: Report, judge: Callable[[], float] | None = None) -> Fitted:
        """Train on the log; see `fitting.fit`."""
        return fit(self, self._config, "retrieval.id_towers", progress, judge)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        examples = batch.numpy()
        drawn = torch.randint(self._n_posts, (self._config.n_uniform_negatives,), generator=generator).numpy()
        positive, user = self._log.post[examples].astype(np.int64), self._user[examples]
        candidates = np.concatenate([positive, drawn])
        histories = self._before(examples, generator)
        posts, place = np.unique(np.concatenate([candidates, histories.post]), return_inverse=True)
        rows = self._posts.take(self._tensor(posts))
        user_vectors = self._of_users(user, histories, rows, place[len(candidates) :])
        # Gather the candidates' rows, (C, D), before normalising: `rows` also holds the many more of the histories.
        candidate_vectors = functional.normalize(
            functional.embedding(self._tensor(place[: len(candidates)]), rows), dim=1
        )
        logit = similarity(user_vectors / self._config.temperature, candidate_vectors)
        distinct_candidates, of_candidate = np.unique(candidates, return_inverse=True)
        popularity = self._popularity.take(self._tensor(distinct_candidates))
        logit = logit + functional.embedding(self._tensor(of_candidate), popularity)[:, 0]
        post = self._tensor(candidates)
        not_negative = post[None, :] == post[: len(batch), None]
        log_draws = log_expected(self._share[post[: len(batch)]], len(drawn), self._n_posts)
        return sampled_softmax(logit, log_draws, not_negative)

    def post_vectors(self) -> Floats:
        """(N, D + 1)."""
        unit = functional.normalize(self._posts.weight, dim=1)
        vectors: Floats = torch.cat([unit, self._config.temperature * self._popularity.weight], dim=1).cpu().numpy()
        return vectors

    def user_vectors(self, users: Rows, log: Log) -> Floats:
        """Vectors of these users, (B, D + 1).

        Args:
            log: clicks so far of the same users; may hold more than the training log.
        """
        end = log.start[users.astype(np.int64) + 1]
        histories = _last(log, end, end - log.start[users], self._max_history(log))
        with torch.no_grad():
            place = histories.post.astype(np.int64)
            unit = self._of_users(users.astype(np.int64), histories, self._posts.weight, place)
            vectors: Floats = functional.pad(unit, (0, 1), value=1.0).cpu().numpy()
        return vectors

    def _tensor(self, column: np.ndarray) -> Tensor:
        return torch.from_numpy(column).to(self._device)

    def _max_history(self, log: Log) -> int:
        """Longest history in serving: the whole set without an order, else the newest `history_size` clicks."""
        return self._config.history_size if log.ordered or not self._config.history_size else len(log.post)

    def _before(self, examples: Ids, generator: torch.Generator) -> _Histories:
        """Histories of these examples, each at most `history_size` clicks."""
        log, size = self._log, self._config.history_size
        first = log.start[self._user[examples]]
        rng = np.random.default_rng(int(torch.randint(1 << 62, (1,), generator=generator)))
        if log.ordered:
            histories = _last(log, examples, examples - first, size)
        else:
            histories = _sampled(log, examples, first, log.start[self._user[examples] + 1] - first, size, rng)
        hidden = rng.random(len(histories.post)) < self._config.history_dropout
        histories.keep[hidden] = False
        return histories

    def _of_users(self, user: Ids, histories: _Histories, rows: Tensor, place: np.ndarray) -> Tensor:
        """Vectors of B users, (B, D).

        Args:
            rows: post vectors before normalisation, (P, D).
            place: row in `rows` of each post of the histories, (H,).
        """
        summed = torch.zeros(len(user), rows.shape[1], device=self._device)
        if self._config.history_size:
            weight = self._tensor(histories.keep.astype(np.float32))
            if self.dense:
                weight = weight * torch.exp(self._recency[self._tensor(histories.distance)])
            start = self._tensor(histories.start[:-1])
            pooled = functional.embedding_bag(
                self._tensor(place), rows, start, mode="sum", per_sample_weights=weight
            )  # fmt: skip
            of_user = self._tensor(np.repeat(np.arange(len(user)), np.diff(histories.start)))
            total = torch.zeros(len(user), device=self._device).index_add(0, of_user, weight)
            summed = pooled / total.clamp(min=_MIN_WEIGHT).sqrt()[:, None]
        if self._users is not None:
            distinct, place_of_user = np.unique(user, return_inverse=True)
            user_row = self._tensor(distinct)
            vectors = self._users.take(user_row) if torch.is_grad_enabled() else self._users.weight[user_row]
            summed = summed + functional.embedding(self._tensor(place_of_user), vectors)
        return functional.normalize(summed, dim=1)


def _last(log: Log, end: Ids, n_before: Ids, size: int) -> _Histories:
    """Per user the last `size` of the `n_before` clicks before position `end`, each (B,)."""
    n = np.minimum(n_before, size)
    start = np.concatenate([[0], np.cumsum(n)])
    nth = np.arange(start[-1]) - np.repeat(start[:-1], n)
    distance = np.repeat(n, n) - 1 - nth
    post = log.post[np.repeat(end, n) - 1 - distance]
    return _Histories(post, start, np.ones(len(post), bool), distance)


def _sampled(log: Log, example: Ids, first: Ids, n_all: Ids, size: int, rng: np.random.Generator) -> _Histories:
    """All other clicks of each example's user, or `size` random ones with replacement if there are more."""
    n = np.minimum(n_all, size)
    start = np.concatenate([[0], np.cumsum(n)])
    nth = np.arange(start[-1]) - np.repeat(start[:-1], n)
    drawn = (rng.random(start[-1]) * np.repeat(n_all, n)).astype(np.int64)
    at = np.repeat(first, n) + np.where(np.repeat(n_all > size, n), drawn, nth)
    return _Histories(log.post[at], start, at != np.repeat(example, n), np.zeros(len(at), np.int64))
