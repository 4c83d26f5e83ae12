"""Train the towers from clicks with a sampled softmax over posts.

Takes a catalogue and clicks in order of time, gives `Towers`. Each click is an example: the user as of just before the
click, and the clicked post against the other posts of the batch and posts drawn uniformly. It does not use impressions
without a click, and reads no feature that the towers cannot read in serving.

The loss is in `loss`, the loop in `fitting`. A candidate does not count as a negative when it was written after the
example's click, or is the positive itself or a duplicate of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.config import TowersConfig
from recsys.errors import DataError
from recsys.features.histories import Clicks, histories_at
from recsys.features.users import UserBatch
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.progress import Report
from recsys.retrieval.towers import freshness
from recsys.retrieval.towers.device import training_device
from recsys.retrieval.towers.fitting import Fitted, fit
from recsys.retrieval.towers.inference import Towers
from recsys.retrieval.towers.loss import log_expected, sampled_softmax
from recsys.retrieval.towers.metric import similarity
from recsys.retrieval.towers.rowwise_adam import RowTable
from recsys.retrieval.towers.text_input import text_rows
from recsys.retrieval.towers.torch_model import PostInput, TowerSizes, TowersModel, UserInput
from recsys.types import DAY, Rows

HIDDEN_USER_SHARE = 0.05
"""Share of examples whose language and country are hidden, so that users without them get a useful vector."""

MAX_SPAN = 300 * DAY
"""Older clicks are left out, so that float64 holds both halves of a freshness term."""


def train_towers(
    catalogue: Catalogue, clicks: Clicks, config: TowersConfig, progress: Report, checkpoints: Path | None = None
) -> Towers:
    """Train the towers on these clicks; the same seed, device, thread count and data give the same bytes.

    Args:
        clicks: in order of time. A click's history is the same user's strictly earlier clicks in this log.
        checkpoints: folder for checkpoints; an interrupted run on the same data resumes from there.
    Returns: towers whose reference is the last click; call `with_reference` with the time of the index build.
    Raises: DataError for fewer than two usable clicks, clicks out of order, or a loss that is not finite;
        ConfigError for a GPU that torch does not see.
    """
    clicks = _usable(catalogue, clicks)
    if config.held_share:
        task, fitted = _fit_towers(catalogue, clicks, config, progress, checkpoints)
        # Train again on all clicks, for the number of epochs found: the latest clicks say most about new posts and
        # active authors, and towers without them have less recall.
        config = config.model_copy(update={"epochs": fitted.epochs, "held_share": 0.0})
    task, _ = _fit_towers(catalogue, clicks, config, progress, checkpoints)
    model, data = task.model, task.data
    _forget_untrained_authors(model, catalogue, data.pool.cpu().numpy())
    return model.export(int(clicks.time[-1]), data.posts.post.cpu().numpy().astype(np.int32), data.user_place)


def _fit_towers(
    catalogue: Catalogue, clicks: Clicks, config: TowersConfig, progress: Report, checkpoints: Path | None
) -> tuple[_TowersFit, Fitted]:
    device = training_device(config.device, "retrieval.towers")
    data = TrainingData.build(catalogue, clicks, config).to(device)
    generator = torch.Generator().manual_seed(config.seed)
    sizes = TowerSizes.of(catalogue, int(data.posts.post.max()), int(data.user_place.max(initial=0)))
    model = TowersModel(sizes, config, generator).to(device)
    task = _TowersFit(model, data, config)
    judge = task.judge if data.n_train < len(clicks) else None
    name = f"towers-{_fingerprint(catalogue, clicks, config, device)}.pt"
    checkpoint = None if checkpoints is None else checkpoints / name
    return task, fit(task, config, "retrieval.towers", progress, judge, checkpoint)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything the loss reads: N posts by catalogue row, M examples by position in the log."""

    catalogue: Catalogue
    clicks: Clicks
    posts: PostInput
    created: Tensor
    """Days since the first click, (N,)."""
    group: Tensor
    history: Rows
    """(M, history_size)."""
    user_place: Rows
    """Row of each catalogue user in the table of user embeddings, 0 for none, (U,)."""
    post: Tensor
    """Positive of each example, (M,)."""
    day: Tensor
    """Time of each example, days since the first click, (M,)."""
    decay_now: Tensor
    """The user's half of freshness of each example, (M, J); float64 for logs longer than `freshness.FLOAT32_SPAN`."""
    decay_created: Tensor
    """The post's half of freshness, (N, J)."""
    n_train: int
    """The first `n_train` examples are trained on; the later ones are held out to decide when to stop."""
    pool: Tensor
    """Posts that uniform negatives are drawn from: visible, and written before the last training example."""
    share: Tensor
    """Share of the training clicks on each post, (N,): its chance to be another example's positive."""

    @classmethod
    def build(cls, catalogue: Catalogue, clicks: Clicks, config: TowersConfig) -> TrainingData:
        def tensor(column: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(column, np.int64) + 1)

        words = text_rows(np.asarray(catalogue.tokens), config.n_text_buckets, config.text_ngrams)
        n_train = max(2, len(clicks) - int(config.held_share * len(clicks)))
        pool = np.flatnonzero(catalogue.visible & (catalogue.created_at <= clicks.time[n_train - 1]))
        origin, middle = clicks.time[0], (int(clicks.time[0]) + int(clicks.time[-1])) // 2
        short = clicks.time[-1] - origin < freshness.FLOAT32_SPAN
        halves = [freshness.user_part(clicks.time, middle), freshness.post_part(catalogue.created_at, middle)]
        decay_now, decay_created = (torch.from_numpy(freshness.to_float32(half) if short else half) for half in halves)
        count = np.bincount(clicks.post_row[:n_train], minlength=catalogue.n_posts)
        own = _embedding_rows(count, config.min_post_clicks)
        by_user = np.bincount(clicks.user_row[:n_train], minlength=catalogue.n_users)
        return cls(
            catalogue=catalogue,
            clicks=clicks,
            posts=PostInput(
                topic=tensor(catalogue.topic),
                author=tensor(catalogue.author),
                language=tensor(catalogue.language),
                media=tensor(catalogue.media),
                words=torch.from_numpy(words.astype(np.int64)),
                post=torch.from_numpy(own.astype(np.int64)),
            ),
            created=torch.from_numpy(((catalogue.created_at - origin) / DAY).astype(np.float32)),
            group=torch.from_numpy(np.array(catalogue.group, np.int32)),
            history=histories_at(clicks, clicks.time, clicks.user_row, clicks.time, config.history_size),
            user_place=_embedding_rows(by_user, config.min_user_clicks or len(clicks) + 1),
            post=torch.from_numpy(clicks.post_row.astype(np.int64)),
            day=torch.from_numpy(((clicks.time - origin) / DAY).astype(np.float32)),
            decay_now=decay_now,
            decay_created=decay_created,
            n_train=n_train,
            pool=torch.from_numpy(pool),
            share=torch.from_numpy((count / n_train).astype(np.float32)),
        )

    def to(self, device: torch.device) -> TrainingData:
        """Move all tensors to this device."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in columns.items() if isinstance(value, Tensor)}
        return replace(self, posts=PostInput(*(column.to(device) for column in self.posts)), **moved)


class _TowersFit:
    """The model and its training data as a `fitting.Model`."""

    tables: Sequence[RowTable] = ()

    def __init__(self, model: TowersModel, data: TrainingData, config: TowersConfig) -> None:
        self.dense = list(model.parameters())
        self.n_examples = data.n_train
        self.model, self.data, self._config = model, data, config

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        return batch_loss(self.model, self.data, batch, self._config, generator)

    def judge(self) -> float:
        """Minus the loss of the held-out clicks, always with the same uniform draws."""
        generator = torch.Generator().manual_seed(self._config.seed)
        held = torch.arange(self.data.n_train, len(self.data.clicks))
        losses = []
        with torch.no_grad():
            for batch in torch.split(held, self._config.batch_size):
                loss = batch_loss(self.model, self.data, batch, self._config, generator).item()
                losses.append(loss * len(batch))
        return -sum(losses) / len(held)


def batch_loss(
    model: TowersModel, data: TrainingData, batch: Tensor, config: TowersConfig, generator: torch.Generator
) -> Tensor:
    """Mean cross entropy of the batch's positives among its candidates."""
    device = data.post.device
    drawn = torch.randint(len(data.pool), (config.n_uniform_negatives,), generator=generator).to(device)
    users = _users(data, batch, config, generator)
    batch = batch.to(device)
    candidates = torch.cat([data.post[batch], data.pool[drawn]])  # (C,)
    # Compute each post's content once per batch, although it may be a candidate and part of many histories:
    # posts (P,), content (P, E).
    seen = users.history >= 0
    posts, place = torch.unique(torch.cat([candidates, users.history[seen]]), return_inverse=True)
    read = data.posts.take(posts)
    author, own = (
        rows.masked_fill((torch.rand(len(posts), generator=generator) < dropout).to(device), 0)
        for rows, dropout in ((read.author, config.author_dropout), (read.post, config.post_dropout))
    )
    content = model.content(read._replace(author=author, post=own))
    history = users.history.masked_scatter(seen, place[len(candidates) :])
    user = model.users(users._replace(history=history), content)
    post = model.posts(content[place[: len(candidates)]])
    amplitude = model.amplitude[data.posts.topic[candidates]]
    # One product for similarity and freshness, (B, K + J) by (C, K + J); in float64 for long logs (see TrainingData).
    query = torch.cat([user, data.decay_now[batch]], dim=1) / config.temperature
    candidate = torch.cat([post, data.decay_created[candidates] * amplitude], dim=1)
    logit = similarity(query, candidate).float()  # (B, C)
    not_negative = data.day[batch, None] < data.created[candidates]
    not_negative |= data.group[candidates] == data.group[data.post[batch], None]
    log_draws = log_expected(data.share[data.post[batch]], len(drawn), len(data.pool))
    return sampled_softmax(logit, log_draws, not_negative)


def _embedding_rows(n_clicks: np.ndarray, min_clicks: int) -> Rows:
    """Number those with at least `min_clicks` clicks 1, 2, 3, ...; the others get 0."""
    has_row = n_clicks >= min_clicks
    rows: Rows = (np.cumsum(has_row) * has_row).astype(np.int32)
    return rows


def _users(data: TrainingData, batch: Tensor, config: TowersConfig, generator: torch.Generator) -> UserInput:
    rows = batch.numpy()
    clicks = data.clicks
    users = UserBatch.from_rows(data.catalogue, clicks.user_row[rows], data.history[rows], clicks.time[rows])
    hidden = torch.rand(len(batch), generator=generator) < HIDDEN_USER_SHARE
    history = torch.from_numpy(users.history.astype(np.int64))
    if config.history_cut:
        history = _cut(history, config.history_cut, generator)
    own = torch.from_numpy(data.user_place[users.user_row].astype(np.int64))
    if config.min_user_clicks:
        own = own.masked_fill(torch.rand(len(batch), generator=generator) < config.user_dropout, 0)
    columns = UserInput(
        history=history,
        language=torch.from_numpy(users.language.astype(np.int64) + 1).masked_fill(hidden, 0),
        country=torch.from_numpy(users.country.astype(np.int64) + 1).masked_fill(hidden, 0),
        follows_start=torch.from_numpy(users.follows_start.astype(np.int64)),
        follows=torch.from_numpy(users.follows.astype(np.int64) + 1),
        user=own,
    )
    return UserInput(*(column.to(data.post.device) for column in columns))


def _cut(history: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Cut this share of the histories to a random number of their newest clicks: these users look like newcomers."""
    length = (history >= 0).sum(dim=1)
    left = (torch.rand(len(history), generator=generator) * (length + 1)).long()
    left = torch.where(torch.rand(len(history), generator=generator) < share, left, length)
    return history.masked_fill(torch.arange(history.shape[1])[None, :] >= left[:, None], -1)


def _fingerprint(catalogue: Catalogue, clicks: Clicks, config: TowersConfig, device: torch.device) -> str:
    """Hash of everything that decides the result; it names the checkpoint, so no other run resumes from it."""
    run = f"{config.model_dump_json()} {device} {torch.get_num_threads()}"
    digest = hashlib.blake2b(run.encode(), digest_size=8)
    columns = (catalogue.topic, catalogue.author, catalogue.language, catalogue.media, catalogue.tokens)
    more = (catalogue.created_at, catalogue.group, catalogue.visible, catalogue.user_language, catalogue.user_country)
    for column in (*columns, *more, catalogue.follows_start, catalogue.follows, *astuple(clicks)):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _usable(catalogue: Catalogue, clicks: Clicks) -> Clicks:
    """Check the clicks and keep those that can be examples."""
    if np.any(np.diff(clicks.time) < 0):
        raise DataError("clicks for the two towers must be in order of time; sort them by their arrival time")
    known = (clicks.user_row >= 0) & (clicks.post_row >= 0)
    known &= clicks.time > clicks.time.max(initial=0) - MAX_SPAN
    # A click before its post was written comes from a wrong clock.
    known[known] = catalogue.created_at[clicks.post_row[known]] <= clicks.time[known]
    if known.sum() < 2:
        raise DataError(
            f"the two towers need at least 2 clicks to learn from, got {int(known.sum())}; "
            "import longer logs or raise world.n_impressions"
        )
    return Clicks(clicks.user_row[known], clicks.post_row[known], clicks.time[known])


def _forget_untrained_authors(model: TowersModel, catalogue: Catalogue, pool: np.ndarray) -> None:
    """Give authors without a post in the pool the vector of an unknown author: they were never trained."""
    trained = np.zeros(catalogue.n_authors + 1, bool)
    trained[catalogue.author[pool] + 1] = True
    with torch.no_grad():
        model.author[torch.from_numpy(~trained).to(model.author.device)] = model.author[0].clone()
