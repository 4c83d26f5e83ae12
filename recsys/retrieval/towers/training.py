"""Learning the towers from clicks: a softmax over posts, sampled.

Takes a catalogue and clicks in order of time, gives `Towers`. Each click is an example: its user as of just before the
click, its post against the other posts of the batch and posts drawn uniformly. It does not know what was shown without
being clicked, and reads no feature that the towers cannot read when serving.

The loss is `softmax`, the loop is `fitting`. A candidate is no negative where it did not yet exist at the example's
time or is the positive itself or a duplicate of it.
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
"""Share of examples whose language and country are hidden, so that users without them have a useful vector."""

MAX_SPAN = 300 * DAY
"""Older clicks are left out: the halves of a freshness term are then products that float64 holds."""


def train_towers(
    catalogue: Catalogue, clicks: Clicks, config: TowersConfig, progress: Report, checkpoints: Path | None = None
) -> Towers:
    """Train on these clicks alone; the same seed, device, thread count and data give the same bytes.

    Args:
        clicks: in order of time. A click's history is what the same user clicked strictly earlier in the same log.
        checkpoints: folder for what is learned so far; a run on the same data that was stopped goes on from there.
    Returns: towers whose reference is the last click; call `with_reference` with the time of the index build.
    Raises: DataError when there is nothing to learn from, clicks are out of order, or the loss stops being a number;
        ConfigError when a GPU is asked for that is not there.
    """
    clicks = _usable(catalogue, clicks)
    if config.held_share:
        lessons, fitted = _fitted(catalogue, clicks, config, progress, checkpoints)
        # The latest clicks tell most about what is fresh and who writes now; towers that never saw them find less.
        config = config.model_copy(update={"epochs": fitted.epochs, "held_share": 0.0})
    lessons, _ = _fitted(catalogue, clicks, config, progress, checkpoints)
    model, data = lessons.model, lessons.data
    _forget_untrained_authors(model, catalogue, data.pool.cpu().numpy())
    return model.export(int(clicks.time[-1]), data.posts.post.cpu().numpy().astype(np.int32), data.user_place)


def _fitted(
    catalogue: Catalogue, clicks: Clicks, config: TowersConfig, progress: Report, checkpoints: Path | None
) -> tuple[_Lessons, Fitted]:
    device = training_device(config.device, "retrieval.towers")
    data = TrainingData.build(catalogue, clicks, config).to(device)
    generator = torch.Generator().manual_seed(config.seed)
    sizes = TowerSizes.of(catalogue, int(data.posts.post.max()), int(data.user_place.max(initial=0)))
    model = TowersModel(sizes, config, generator).to(device)
    lessons = _Lessons(model, data, config)
    judge = lessons.judge if data.n_learned < len(clicks) else None
    name = f"towers-{_fingerprint(catalogue, clicks, config, device)}.pt"
    checkpoint = None if checkpoints is None else checkpoints / name
    return lessons, fit(lessons, config, "retrieval.towers", progress, judge, checkpoint)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Everything the loss reads, as tensors; posts by catalogue row, examples by place in the log."""

    catalogue: Catalogue
    clicks: Clicks
    posts: PostInput
    created: Tensor
    """Days since the first click, (N,)."""
    group: Tensor
    history: Rows
    """(M, history_size)."""
    user_place: Rows
    """Embedding of its own of each user of the catalogue, 0 none, (U,)."""
    post: Tensor
    """Positive of each example, (M,)."""
    day: Tensor
    """Time of each example, days since the first click, (M,)."""
    decay_now: Tensor
    """The moving half of each example's freshness, (M, J); float64 where float32 could not hold the halves."""
    decay_created: Tensor
    """The static half of each post's freshness, (N, J)."""
    n_learned: int
    """The first so many examples are learned from; those behind tell when to stop."""
    pool: Tensor
    """Posts that uniform negatives come from: visible, and written before the last click that is learned from."""
    share: Tensor
    """Share of these clicks on each post: the chance that one other example of a batch brings it, (N,)."""

    @classmethod
    def build(cls, catalogue: Catalogue, clicks: Clicks, config: TowersConfig) -> TrainingData:
        def tensor(column: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(column, np.int64) + 1)

        words = text_rows(np.asarray(catalogue.tokens), config.n_text_buckets, config.text_ngrams)
        n_learned = max(2, len(clicks) - int(config.held_share * len(clicks)))
        pool = np.flatnonzero(catalogue.visible & (catalogue.created_at <= clicks.time[n_learned - 1]))
        origin, middle = clicks.time[0], (int(clicks.time[0]) + int(clicks.time[-1])) // 2
        short = clicks.time[-1] - origin < freshness.FLOAT32_SPAN
        halves = [freshness.user_part(clicks.time, middle), freshness.post_part(catalogue.created_at, middle)]
        decay_now, decay_created = (torch.from_numpy(freshness.to_float32(half) if short else half) for half in halves)
        count = np.bincount(clicks.post_row[:n_learned], minlength=catalogue.n_posts)
        own = _places(count, config.min_post_clicks)
        by_user = np.bincount(clicks.user_row[:n_learned], minlength=catalogue.n_users)
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
            user_place=_places(by_user, config.min_user_clicks or len(clicks) + 1),
            post=torch.from_numpy(clicks.post_row.astype(np.int64)),
            day=torch.from_numpy(((clicks.time - origin) / DAY).astype(np.float32)),
            decay_now=decay_now,
            decay_created=decay_created,
            n_learned=n_learned,
            pool=torch.from_numpy(pool),
            share=torch.from_numpy((count / n_learned).astype(np.float32)),
        )

    def to(self, device: torch.device) -> TrainingData:
        """The same with all tensors on this device."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in columns.items() if isinstance(value, Tensor)}
        return replace(self, posts=PostInput(*(column.to(device) for column in self.posts)), **moved)


class _Lessons:
    """The model and what it learns from, as `fit` wants them."""

    tables: Sequence[RowTable] = ()

    def __init__(self, model: TowersModel, data: TrainingData, config: TowersConfig) -> None:
        self.dense = list(model.parameters())
        self.n_examples = data.n_learned
        self.model, self.data, self._config = model, data, config

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        return batch_loss(self.model, self.data, batch, self._config, generator)

    def judge(self) -> float:
        """Minus the loss of the clicks that are not learned from, always among the same draws."""
        generator = torch.Generator().manual_seed(self._config.seed)
        held = torch.arange(self.data.n_learned, len(self.data.clicks))
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
    # Each post's content is computed once a batch, be it candidate or part of many histories.
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
    # One product for similarity and freshness; in float64 where the logs are long (see TrainingData).
    asked = torch.cat([user, data.decay_now[batch]], dim=1) / config.temperature
    offered = torch.cat([post, data.decay_created[candidates] * amplitude], dim=1)
    logit = similarity(asked, offered).float()  # (B, C)
    wrong = data.day[batch, None] < data.created[candidates]
    wrong |= data.group[candidates] == data.group[data.post[batch], None]
    drawn_often = log_expected(data.share[data.post[batch]], len(drawn), len(data.pool))
    return sampled_softmax(logit, drawn_often, wrong)


def _places(n_clicks: np.ndarray, least: int) -> Rows:
    """1, 2, 3, ... for those with at least so many clicks, 0 for the others."""
    often = n_clicks >= least
    places: Rows = (np.cumsum(often) * often).astype(np.int32)
    return places


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
    """Histories of which this share ends early, after a random number of the newest clicks: users as they would look
    if they had come later."""
    length = (history >= 0).sum(dim=1)
    left = (torch.rand(len(history), generator=generator) * (length + 1)).long()
    left = torch.where(torch.rand(len(history), generator=generator) < share, left, length)
    return history.masked_fill(torch.arange(history.shape[1])[None, :] >= left[:, None], -1)


def _fingerprint(catalogue: Catalogue, clicks: Clicks, config: TowersConfig, device: torch.device) -> str:
    """Of all that decides what is learned: a checkpoint of anything else is another run's."""
    run = f"{config.model_dump_json()} {device} {torch.get_num_threads()}"
    found = hashlib.blake2b(run.encode(), digest_size=8)
    columns = (catalogue.topic, catalogue.author, catalogue.language, catalogue.media, catalogue.tokens)
    more = (catalogue.created_at, catalogue.group, catalogue.visible, catalogue.user_language, catalogue.user_country)
    for column in (*columns, *more, catalogue.follows_start, catalogue.follows, *astuple(clicks)):
        found.update(np.ascontiguousarray(column).data)
    return found.hexdigest()


def _usable(catalogue: Catalogue, clicks: Clicks) -> Clicks:
    """The clicks that can be examples, after checks."""
    if np.any(np.diff(clicks.time) < 0):
        raise DataError("clicks for the two towers must be in order of time; sort them by their arrival time")
    known = (clicks.user_row >= 0) & (clicks.post_row >= 0)
    known &= clicks.time > clicks.time.max(initial=0) - MAX_SPAN
    # A click on a post that does not exist yet is a fault of somebody's clock.
    known[known] = catalogue.created_at[clicks.post_row[known]] <= clicks.time[known]
    if known.sum() < 2:
        raise DataError(
            f"the two towers need at least 2 clicks to learn from, got {int(known.sum())}; "
            "import longer logs or raise world.n_impressions"
        )
    return Clicks(clicks.user_row[known], clicks.post_row[known], clicks.time[known])


def _forget_untrained_authors(model: TowersModel, catalogue: Catalogue, pool: np.ndarray) -> None:
    """Authors without a post in the pool were never candidates: they get the vector of an unknown author."""
    trained = np.zeros(catalogue.n_authors + 1, bool)
    trained[catalogue.author[pool] + 1] = True
    with torch.no_grad():
        model.author[torch.from_numpy(~trained).to(model.author.device)] = model.author[0].clone()
