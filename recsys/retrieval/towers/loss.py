"""Compute the loss of retrieval: sampled softmax with logQ correction.

Takes the logits of B examples against C shared candidates, gives the mean cross entropy of the positives. The first B
candidates are the examples' own positives, in order; each is an in-batch negative for the other examples. The other
C - B candidates are drawn uniformly. It does not know users, posts or how logits are computed.

A negative has the weight 1 / (expected number of draws). In-batch negatives are drawn by their share of all examples,
uniform ones by the size of the pool. Each kind alone estimates the sum over all posts (in-batch ones over all clicked
posts), so where both are used each counts half. The positive is always present and stays uncorrected (arXiv
2507.09331).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_MIN_EXPECTED_DRAWS = 1e-9
"""Lower limit of the expected number of draws."""


def log_expected(share: Tensor, n_uniform: int, n_pool: int) -> Tensor:
    """Log of the expected number of draws of each candidate, positives first, (B + n_uniform,).

    Args:
        share: share of all examples whose positive is this post, (B,).
        n_uniform: number of uniform draws, the last candidates; may be 0.
        n_pool: number of posts they are drawn from.
    """
    in_batch = (len(share) - 1) * share
    uniform = torch.full((n_uniform,), n_uniform / max(n_pool, 1), device=share.device)
    expected = torch.cat([in_batch, uniform]) * (2 if n_uniform else 1)
    return torch.log(expected.clamp(min=_MIN_EXPECTED_DRAWS))


def sampled_softmax(logit: Tensor, log_expected: Tensor, not_negative: Tensor) -> Tensor:
    """Mean cross entropy of the positives, which lie on the diagonal.

    Args:
        logit: (B, C), C >= B; changed in place.
        log_expected: log expected draws of each candidate, (C,).
        not_negative: candidates that must not count as negatives of an example, (B, C); the diagonal is ignored.
    """
    n_batch = len(logit)
    # Outside autograd: the correction is constant, and the softmax sends no gradient to -inf.
    plain = logit.detach()
    diagonal = plain.diagonal().clone()
    plain.sub_(log_expected)
    plain.masked_fill_(not_negative, -math.inf)
    plain.diagonal().copy_(diagonal)
    return functional.cross_entropy(logit, torch.arange(n_batch, device=logit.device))
