"""Measure how well a post matches a user: the inner product of their vectors.

Training and exact search call this function. The other indexes compute the same measure from their codes, and a test
compares them. Every saved index names the measure. It does not know where vectors come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from recsys.types import Floats

if TYPE_CHECKING:
    import torch

METRIC = "inner_product"
"""Saved with every index; loading an index of another measure fails."""

Matrix = TypeVar("Matrix", Floats, "torch.Tensor")


def similarity(users: Matrix, posts: Matrix) -> Matrix:
    """Every user against every post: (B, D) and (C, D) to (B, C). NumPy arrays or torch tensors."""
    return users @ posts.T
