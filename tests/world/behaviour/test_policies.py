"""Logged propensities are the mixture's probabilities, by enumeration and by frequency."""

from itertools import permutations

import numpy as np
import pytest

from recsys.world.behaviour.policies import POLICIES, RANDOM, draw_order, mixture_propensities
from recsys.world.behaviour.random_numbers import seeded


def slate_probability(weights, mixture, slate):
    """P(these places in this order) under a mixture of Plackett-Luce policies."""
    total = 0.0
    for share, weight in zip(mixture, weights, strict=True):
        probability = share
        left = list(range(len(weight)))
        for place in slate:
            probability *= weight[place] / weight[left].sum()
            left.remove(place)
        total += probability
    return total


def conditional(weights, mixture, earlier, place):
    return slate_probability(weights, mixture, (*earlier, place)) / slate_probability(weights, mixture, earlier)


def propensities(weights, mixture, slate):
    out, scratch = np.empty(len(slate)), np.empty((3, len(mixture)))
    mixture_propensities(weights, mixture, weights.shape[1], len(slate), np.array(slate, np.int64), scratch, out)
    return out


MIXTURE = np.array([0.2, 0.3, 0.5])


def test_propensities_equal_enumeration_for_every_slate():
    weights = np.exp(np.random.default_rng(0).normal(0, 2, (3, 5)))
    for slate in permutations(range(5), 3):
        expected = [conditional(weights, MIXTURE, slate[:j], slate[j]) for j in range(3)]
        np.testing.assert_allclose(propensities(weights, MIXTURE, slate), expected, rtol=1e-12)


def test_propensities_sum_to_one_over_the_candidates_at_each_position():
    weights = np.exp(np.random.default_rng(1).normal(0, 2, (3, 6)))
    for length in (1, 2, 4):
        for earlier in permutations(range(6), length - 1):
            last = [propensities(weights, MIXTURE, (*earlier, i))[-1] for i in range(6) if i not in earlier]
            assert sum(last) == pytest.approx(1, rel=1e-12)


def test_the_product_of_propensities_is_the_mixtures_probability_of_the_slate():
    weights = np.exp(np.random.default_rng(2).normal(0, 2, (3, 5)))
    slates = list(permutations(range(5), 5))
    products = [propensities(weights, MIXTURE, slate).prod() for slate in slates]
    expected = [slate_probability(weights, MIXTURE, slate) for slate in slates]
    np.testing.assert_allclose(products, expected, rtol=1e-11)
    assert sum(products) == pytest.approx(1)


def test_propensities_are_exact_when_one_weight_dwarfs_the_others():
    weights = np.exp([[0.0] * 5, [60.0, 20.0, 0.0, -1.0, -2.0], [50.0, 50.0, 3.0, 2.0, 1.0]])
    for mixture in (MIXTURE, np.array([1e-9, 0.5, 0.5])):
        for slate in [(0, 1, 2, 3, 4), (1, 0, 4, 3, 2), (4, 3, 2, 1, 0)]:
            expected = [conditional(weights, mixture, slate[:j], slate[j]) for j in range(5)]
            np.testing.assert_allclose(propensities(weights, mixture, slate), expected, rtol=1e-6)


def test_a_single_random_policy_has_uniform_propensities():
    np.testing.assert_allclose(propensities(np.ones((1, 4)), np.ones(1), (2, 0, 3)), [1 / 4, 1 / 3, 1 / 2])


def test_slates_are_drawn_as_often_as_their_propensity_says():
    weights = np.exp(np.random.default_rng(3).normal(0, 1, 4))
    state, keys, order = seeded(0, 0), np.empty(4), np.empty(2, np.int64)
    n, drawn = 20_000, {}
    for _ in range(n):
        draw_order(weights, 4, 2, state, order, keys)
        slate = tuple(order.tolist())
        drawn[slate] = drawn.get(slate, 0) + 1
    for slate in permutations(range(4), 2):
        p = slate_probability([weights], [1.0], slate)
        assert abs(drawn.get(slate, 0) - n * p) < 4 * np.sqrt(n * p * (1 - p)), slate


def test_logged_propensities_are_probabilities(small):
    propensity = small.table("returned").propensity
    assert propensity.between(0, 1, inclusive="right").all()


def test_weighting_by_logged_propensities_undoes_the_mixture(small):
    """E[1 / propensity] at the first position is the number of candidates if the propensities are right."""
    requests = small.table("requests")
    n = requests.candidates.map(len)
    first = small.table("returned").query("position == 0").set_index("request_id").propensity[requests.request_id]
    weight = 1 / (first.to_numpy() * n)
    assert abs(weight.mean() - 1) < 4 * weight.std() / np.sqrt(len(weight))


def test_a_world_with_only_the_random_policy_has_uniform_propensities(simulated):
    world = simulated(n_impressions=2000, policy={"random": 1, "popularity": 0, "personalised": 0})
    requests = world.table("requests")
    assert (requests.policy == POLICIES[RANDOM]).all()
    rows = world.table("returned").merge(requests[["request_id", "candidates"]], on="request_id")
    np.testing.assert_allclose(rows.propensity, 1 / (rows.candidates.map(len) - rows.position), rtol=1e-6)
