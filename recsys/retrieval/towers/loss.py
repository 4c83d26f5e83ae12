"""The loss of retrieval: sampled softmax with logQ correction.

Takes the logits of a batch of examples against shared candidates, gives the mean cross entropy of the positives. First
come the examples' own positives, in their order; each serves the other examples as an in-batch negative.
Behind them stand uniform draws. It does not know users, posts or how logits are computed.

A negative counts with the weight 1 / (expected number of times it is drawn), in-batch ones by their share of all
examples, uniform ones by the size of the pool; each kind alone estimates the sum over all posts, in-batch ones over
those that anybody clicked, so they count half each. The positive is there for certain and stands uncorrected (arXiv
2507.09331).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_RAREST = 1e-9
"""Expected draws below this count as this."""


def log_expected(share: Tensor, n_uniform: int, n_pool: int) -> Tensor:
    """Logarithm of the expected number of draws of each candidate, positives first, (B + n_uniform,).

    Args:
        share: of all examples, that have each positive, (B,).
        n_uniform: uniform draws, which are the last candidates; may be 0.
        n_pool: posts that they are drawn from.
    """
    in_batch = (len(share) - 1) * share
    uniform = torch.full((n_uniform,), n_uniform / max(n_pool, 1), device=share.device)
    expected = torch.cat([in_batch, uniform]) * (2 if n_uniform else 1)
    return torch.log(expected.clamp(min=_RAREST))


def sampled_softmax(logit: Tensor, log_expected: Tensor, wrong: Tensor) -> Tensor:
    """Mean cross entropy of the positives, which are the diagonal.

    Args:
        logit: (B, C), C >= B; changed in place.
        log_expected: of each candidate, (C,).
        wrong: candidates that are no negatives of an example; the diagonal is ignored, (B, C); changed in place.
    """
    n_batch = len(logit)
    # Outside autograd: a constant per candidate, and the softmax sends no gradient to -inf.
    plain = logit.detach()
    diagonal = plain.diagonal().clone()
    plain.sub_(log_expected)
    plain.masked_fill_(wrong, -math.inf)
    plain.diagonal().copy_(diagonal)
    return functional.cross_entropy(logit, torch.arange(n_batch, device=logit.device))
