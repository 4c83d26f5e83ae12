"""The one measure of how well a post suits a user: the inner product of their vectors.

Training and exact search compute it by this function; lists compute it from their codes, which a test holds against it,
and every saved index names it. It does not know where vectors come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from recsys.types import Floats

if TYPE_CHECKING:
    import torch

METRIC = "inner_product"
"""Written beside every saved index; an index built for another measure is refused."""

Matrix = TypeVar("Matrix", Floats, "torch.Tensor")


def similarity(users: Matrix, posts: Matrix) -> Matrix:
    """Every user against every post: (B, D) and (C, D) to (B, C). NumPy arrays or torch tensors."""
    return users @ posts.T
