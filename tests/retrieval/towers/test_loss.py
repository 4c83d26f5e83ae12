"""The sampled softmax: what it says of small cases worked out by hand, and what it stands for on average."""

import numpy as np
import pytest
import torch

from recsys.retrieval.towers.loss import log_expected, sampled_softmax


def test_negatives_count_by_how_often_they_are_drawn_and_positives_as_they_are():
    logit = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]])
    often = torch.log(torch.tensor([0.5, 0.25, 2.0]))
    loss = sampled_softmax(logit.clone(), often, torch.zeros(2, 3, dtype=torch.bool)).item()
    first = np.exp(1) / (np.exp(1) + np.exp(2) / 0.25 + np.exp(3) / 2)
    second = np.exp(0) / (np.exp(0) + np.exp(0.5) / 0.5 + np.exp(-1) / 2)
    assert loss == pytest.approx(-(np.log(first) + np.log(second)) / 2)


def test_masked_candidates_are_ignored_but_the_positive_never_is():
    logit, often = torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(3)
    wrong = torch.tensor([[True, True, False]])
    assert sampled_softmax(logit, often, wrong).item() == pytest.approx(-np.log(np.exp(1) / (np.exp(1) + np.exp(3))))


def test_the_gradient_is_that_of_the_corrected_softmax():
    logit = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]], requires_grad=True)
    often = torch.log(torch.tensor([0.5, 0.25, 2.0]))
    sampled_softmax(logit * 1, often, torch.zeros(2, 3, dtype=torch.bool)).backward()
    share = np.exp([[1, 2 - np.log(0.25), 3 - np.log(2)], [0.5 - np.log(0.5), 0, -1 - np.log(2)]])
    share /= share.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(logit.grad, (share - [[1, 0, 0], [0, 1, 0]]) / 2, rtol=1e-5)


@pytest.mark.parametrize("n_uniform", [0, 6])
def test_the_negatives_stand_for_all_posts_on_average(n_uniform):
    """Over many batches the corrected sum over negatives is the sum over the catalogue."""
    rng, n_posts, n_batch = np.random.default_rng(0), 9, 4
    share = rng.dirichlet(np.ones(n_posts))
    score, sums = rng.normal(size=n_posts), []
    for _ in range(20_000):
        positive = rng.choice(n_posts, n_batch, p=share)
        drawn = rng.integers(0, n_posts, n_uniform)
        often = log_expected(torch.from_numpy(share[positive]), n_uniform, n_posts).numpy()
        weight = np.exp(score[np.concatenate([positive, drawn])] - often)
        sums.append(weight[1:].sum())  # the first example's negatives
    assert np.mean(sums) == pytest.approx(np.exp(score).sum(), rel=0.05)
