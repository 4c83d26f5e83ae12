"""Learning the towers from clicks: a softmax over posts, sampled.

Takes a catalogue and clicks in order of time, gives `Towers`. Each click is an example: its user as of just before the
click, its post against the other posts of the batch and posts drawn uniformly. It does not know what was shown without
being clicked, and reads no feature that the towers cannot read when serving.

The sampled softmax is corrected by logQ: a negative counts with the weight 1 / (expected number of times it is drawn),
in-batch ones by their share of the log's clicks, uniform ones by the size of the pool; each kind alone estimates the
sum over all posts, so they count half each. The positive is there for certain and stands uncorrected (arXiv
2507.09331). A candidate is masked where it did not yet exist at the example's time or is the positive itself or a
duplicate of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recsys.config import TowersConfig
from recsys.errors import DataError
from recsys.features.histories import Clicks, histories_at
from recsys.offline.catalogue import Catalogue
from recsys.retrieval import freshness
from recsys.retrieval.metric import similarity
from recsys.retrieval.model import PostInput, Sizes, TowersModel, UserInput
from recsys.retrieval.towers import Towers
from recsys.retrieval.users import UserBatch
from recsys.types import DAY, Rows

HIDDEN_USER_SHARE = 0.05
"""Share of examples whose language and country are hidden, so that users without them have a useful vector."""

MAX_SPAN = 300 * DAY
"""Older clicks are left out: the halves of a freshness term are then products that float64 holds."""

FINAL_RATE = 0.1
"""Learning rate at the end of the cosine, relative to the start."""

Progress = Callable[[int, int], None]
"""Called with (done, total) in examples, passes included."""


def train_towers(catalogue: Catalogue, clicks: Clicks, config: TowersConfig, progress: Progress) -> Towers:
    """Train on these clicks alone; the same seed, thread count and data give the same bytes.

    Args:
        clicks: in order of time. A click's history is what the same user clicked strictly earlier in the same log.
    Returns: towers whose reference is the last click; call `with_reference` with the time of the index build.
    Raises: DataError when there is nothing to learn from, clicks are out of order, or the loss stops being a number.
    """
    clicks = _usable(catalogue, clicks)
    generator = torch.Generator().manual_seed(config.seed)
    model = TowersModel(Sizes.of(catalogue), config, generator)
    data = TrainingData.build(catalogue, clicks, config)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    total = config.epochs * len(clicks)
    n_steps = config.epochs * math.ceil(len(clicks) / config.batch_size)
    step = 0
    with _deterministic():
        for epoch in range(config.epochs):
            order = torch.randperm(len(clicks), generator=generator)
            for start in range(0, len(clicks), config.batch_size):
                rate = FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * step / n_steps)) / 2
                optimiser.param_groups[0]["lr"] = config.learning_rate * rate
                batch = order[start : start + config.batch_size]
                loss = batch_loss(model, data, batch, config, generator)
                if not math.isfinite(loss.item()):
                    raise DataError(
                        f"the loss of the two towers must stay finite, got {loss.item()} at step {step + 1} of "
                        f"{n_steps}; lower retrieval.towers.learning_rate (now {config.learning_rate}) or raise "
                        f"retrieval.towers.temperature (now {config.temperature})"
                    )
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                step += 1
                progress(epoch * len(clicks) + start + len(batch), total)
    _forget_untrained_authors(model, catalogue, data.pool.numpy())
    return model.export(reference=int(clicks.time[-1]))


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
    post: Tensor
    """Positive of each example, (M,)."""
    day: Tensor
    """Time of each example, days since the first click, (M,)."""
    decay_now: Tensor
    """The moving half of each example's freshness, (M, J); float64 where float32 could not hold the halves."""
    decay_created: Tensor
    """The static half of each post's freshness, (N, J)."""
    pool: Tensor
    """Posts that uniform negatives come from: visible, and written before the last click."""
    share: Tensor
    """Share of the log's clicks on each post: the chance that one other example of a batch brings it, (N,)."""

    @classmethod
    def build(cls, catalogue: Catalogue, clicks: Clicks, config: TowersConfig) -> TrainingData:
        def tensor(column: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(column, np.int64) + 1)

        words = np.where(catalogue.tokens >= 0, catalogue.tokens % config.n_text_buckets + 1, 0)
        pool = np.flatnonzero(catalogue.visible & (catalogue.created_at <= clicks.time[-1]))
        origin, middle = clicks.time[0], (int(clicks.time[0]) + int(clicks.time[-1])) // 2
        short = clicks.time[-1] - origin < freshness.FLOAT32_SPAN
        halves = [freshness.user_part(clicks.time, middle), freshness.post_part(catalogue.created_at, middle)]
        decay_now, decay_created = (torch.from_numpy(freshness.to_float32(half) if short else half) for half in halves)
        share = np.bincount(clicks.post_row, minlength=catalogue.n_posts) / len(clicks)
        return cls(
            catalogue=catalogue,
            clicks=clicks,
            posts=PostInput(
                topic=tensor(catalogue.topic),
                author=tensor(catalogue.author),
                language=tensor(catalogue.language),
                media=tensor(catalogue.media),
                words=torch.from_numpy(words.astype(np.int64)),
            ),
            created=torch.from_numpy(((catalogue.created_at - origin) / DAY).astype(np.float32)),
            group=torch.from_numpy(np.array(catalogue.group, np.int32)),
            history=histories_at(clicks, clicks.time, clicks.user_row, clicks.time, config.history_size),
            post=torch.from_numpy(clicks.post_row.astype(np.int64)),
            day=torch.from_numpy(((clicks.time - origin) / DAY).astype(np.float32)),
            decay_now=decay_now,
            decay_created=decay_created,
            pool=torch.from_numpy(pool),
            share=torch.from_numpy(share.astype(np.float32)),
        )


def batch_loss(
    model: TowersModel, data: TrainingData, batch: Tensor, config: TowersConfig, generator: torch.Generator
) -> Tensor:
    """Mean cross entropy of the batch's positives among its candidates."""
    n_batch = len(batch)
    drawn = torch.randint(len(data.pool), (config.n_uniform_negatives,), generator=generator)
    candidates = torch.cat([data.post[batch], data.pool[drawn]])  # (C,)
    users = _users(data, batch, generator)
    # Each post's content is computed once a batch, be it candidate or part of many histories.
    seen = users.history >= 0
    posts, place = torch.unique(torch.cat([candidates, users.history[seen]]), return_inverse=True)
    hidden = torch.rand(len(posts), generator=generator) < config.author_dropout
    read = data.posts.take(posts)
    content = model.content(read._replace(author=read.author.masked_fill(hidden, 0)))
    history = users.history.masked_scatter(seen, place[len(candidates) :])
    user = model.users(users._replace(history=history), content)
    post = model.posts(content[place[: len(candidates)]])
    # Either kind of negative stands for the whole catalogue, so that each gets its share of the weight.
    in_batch = (n_batch - 1) * data.share[data.post[batch]]
    uniform = torch.full((len(drawn),), len(drawn) / max(len(data.pool), 1))
    expected = torch.cat([in_batch, uniform]) * (2 if len(drawn) else 1)
    correction = torch.log(expected.clamp(min=1e-9))
    amplitude = model.amplitude[data.posts.topic[candidates]]
    # One product for similarity, freshness and correction; in float64 where the logs are long (see TrainingData).
    asked = torch.cat([user, data.decay_now[batch], torch.ones(n_batch, 1)], dim=1) / config.temperature
    offered = torch.cat(
        [post, data.decay_created[candidates] * amplitude, -config.temperature * correction[:, None]], dim=1
    )
    logit = similarity(asked, offered).float()  # (B, C)
    logit.diagonal().add_(correction[:n_batch])

    wrong = data.day[batch, None] < data.created[candidates]
    wrong |= data.group[candidates] == data.group[data.post[batch], None]
    # Outside autograd: the softmax sends no gradient to -inf, so masking needs no backward pass.
    logit.detach().masked_fill_(wrong.fill_diagonal_(False), -torch.inf)
    return functional.cross_entropy(logit, torch.arange(n_batch))


def _users(data: TrainingData, batch: Tensor, generator: torch.Generator) -> UserInput:
    rows = batch.numpy()
    clicks = data.clicks
    users = UserBatch.from_rows(data.catalogue, clicks.user_row[rows], data.history[rows], clicks.time[rows])
    hidden = torch.rand(len(batch), generator=generator) < HIDDEN_USER_SHARE
    return UserInput(
        history=torch.from_numpy(users.history.astype(np.int64)),
        language=torch.from_numpy(users.language.astype(np.int64) + 1).masked_fill(hidden, 0),
        country=torch.from_numpy(users.country.astype(np.int64) + 1).masked_fill(hidden, 0),
        follows_start=torch.from_numpy(users.follows_start.astype(np.int64)),
        follows=torch.from_numpy(users.follows.astype(np.int64) + 1),
    )


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
        model.author[torch.from_numpy(~trained)] = model.author[0].clone()


@contextmanager
def _deterministic() -> Iterator[None]:
    """Ask torch for bit-equal results, and leave its setting as it was."""
    settings: Any = torch.utils.deterministic
    before, fill = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # A guard against reading memory before it is set; it would cost a fifth of the time.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        settings.fill_uninitialized_memory = fill
