"""The two towers as a torch module, for training only: the same arithmetic as `inference`, and a test compares them.

Takes tensors of catalogue rows (0 = unknown, r + 1 = row r), gives vectors of length 1. `training` adds freshness,
since it knows the age of each pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import TowersConfig
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.schemas import MEDIA_TYPES
from recsys.retrieval.towers import freshness
from recsys.retrieval.towers.inference import MAX_ATTENTION_LOGIT, Towers, clicks_bucket
from recsys.types import Rows

INITIAL_SPREAD = 0.05
"""Standard deviation of new embeddings. Words, posts and users start at zero, so that untrained ones add nothing."""


@dataclass(frozen=True, slots=True)
class TowerSizes:
    """Number of rows of each embedding table, without the row for unknown."""

    topics: int
    authors: int
    languages: int
    countries: int
    posts: int
    """Posts with an embedding of their own."""
    users: int
    """Users with an embedding of their own."""

    @classmethod
    def of(cls, catalogue: Catalogue, n_posts: int, n_users: int) -> TowerSizes:
        n_languages, n_countries = len(catalogue.languages), len(catalogue.countries)
        return cls(len(catalogue.topics), catalogue.n_authors, n_languages, n_countries, n_posts, n_users)


class PostInput(NamedTuple):
    """Rows of P posts."""

    topic: Tensor
    author: Tensor
    language: Tensor
    media: Tensor
    words: Tensor
    """(P, W); 0 is padding."""
    post: Tensor
    """Row in the table of own embeddings, 0 for none."""

    def take(self, rows: Tensor) -> PostInput:
        return PostInput(*(column[rows] for column in self))


class UserInput(NamedTuple):
    """Rows of B users."""

    history: Tensor
    """Rows of the clicked posts in the `content` passed with it, newest first, -1 padded, (B, L)."""
    language: Tensor
    country: Tensor
    follows_start: Tensor
    """(B + 1,)."""
    follows: Tensor
    user: Tensor
    """Row in the table of own embeddings, 0 for none."""


class TowersModel(nn.Module):
    """Parameters have the names of the tables in `inference.Towers`."""

    def __init__(self, sizes: TowerSizes, config: TowersConfig, generator: torch.Generator) -> None:
        super().__init__()
        content, hidden = config.embedding_size, config.hidden_size
        output = config.embedding_size - freshness.N_PACES

        def normal(*shape: int, spread: float = INITIAL_SPREAD) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * spread)

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape))

        self.topic = normal(sizes.topics + 1, content)
        self.author = normal(sizes.authors + 1, content)
        self.language = normal(sizes.languages + 1, content)
        self.media = normal(len(MEDIA_TYPES) + 1, content)
        self.word = zeros(config.n_text_buckets + 1, content)
        self.post = zeros(sizes.posts + 1, content)
        self.post_hidden = normal(content, hidden, spread=(2 / content) ** 0.5)
        self.post_hidden_bias = zeros(hidden)
        self.post_output = normal(hidden, output, spread=hidden**-0.5)
        self.post_output_bias = zeros(output)
        self.amplitude = zeros(sizes.topics + 1, freshness.N_PACES)
        self.recency = zeros(config.history_size)
        self.attention = zeros(content).requires_grad_(config.history == "attention")
        self.user = zeros(sizes.users + 1, content)
        self.user_language = normal(sizes.languages + 1, content)
        self.user_country = normal(sizes.countries + 1, content)
        self.n_clicks = normal(int(clicks_bucket(np.array(config.history_size))) + 1, content)
        self.user_hidden = normal(3 * content, hidden, spread=(2 / content) ** 0.5)
        self.user_hidden_bias = zeros(hidden)
        self.user_output = normal(hidden, output, spread=hidden**-0.5)
        self.user_output_bias = zeros(output)
        self.temperature = config.temperature
        self.text_ngrams = config.text_ngrams

    def content(self, posts: PostInput) -> Tensor:
        """Content of P posts, (P, E)."""
        words = functional.embedding_bag(posts.words, self.word, mode="mean", padding_idx=0)
        own = functional.embedding(posts.post, self.post, padding_idx=0)
        described = self.topic[posts.topic] + self.author[posts.author] + own
        return words + described + self.language[posts.language] + self.media[posts.media]

    def posts(self, content: Tensor) -> Tensor:
        """Content (P, E) to vectors of length 1, (P, K)."""
        hidden = torch.relu(content @ self.post_hidden + self.post_hidden_bias)
        return functional.normalize(hidden @ self.post_output + self.post_output_bias, eps=1e-9)

    def users(self, users: UserInput, content: Tensor) -> Tensor:
        """Users to vectors of length 1, (B, K).

        Args:
            content: (P, E); `users.history` holds its rows.
        """
        seen = users.history >= 0
        attention_logit = (content @ self.attention).clamp(-MAX_ATTENTION_LOGIT, MAX_ATTENTION_LOGIT)
        weight = torch.exp(self.recency[: users.history.shape[1]] + attention_logit[users.history.clamp(min=0)]) * seen
        weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1e-9)
        clicked = functional.embedding_bag(
            users.history.clamp(min=0), content, mode="sum", per_sample_weights=weight
        )  # fmt: skip
        followed = functional.embedding_bag(users.follows, self.author, users.follows_start[:-1], mode="mean")
        bucket = torch.frexp(seen.sum(dim=1).double()).exponent.long()
        profile = self.user_language[users.language] + self.user_country[users.country] + self.n_clicks[bucket]
        profile = profile + functional.embedding(users.user, self.user, padding_idx=0)
        hidden = torch.relu(torch.cat([clicked, followed, profile], dim=1) @ self.user_hidden + self.user_hidden_bias)
        return functional.normalize(hidden @ self.user_output + self.user_output_bias, eps=1e-9)

    def export(self, reference: int, post_place: Rows, user_place: Rows) -> Towers:
        """Export the weights as NumPy arrays.

        Args:
            post_place: row in `post` of each post of the catalogue, (N,).
            user_place: row in `user` of each user of the catalogue, (U,).
        """
        tables = {name: parameter.detach().cpu().numpy().copy() for name, parameter in self.named_parameters()}
        return Towers(
            **tables,
            post_place=post_place,
            user_place=user_place,
            temperature=self.temperature,
            text_ngrams=self.text_ngrams,
            reference=reference,
        )
