"""Nibbles and bytes reconstruct the vectors to within half a step."""

import numpy as np
import pytest

from recsys.retrieval.index.fast_lists.quantizer import Prepared, Space, allocate_nibbles, encode

RNG = np.random.default_rng(9)
POSTS = (RNG.normal(size=(2000, 6)) * [5, 2, 1, 1, 0.5, 0.1]).astype(np.float32)
USERS = (RNG.normal(size=(300, 6)) * [1, 3, 1, 0.2, 1, 1] + [0, 0, 0, 0, 0, 2]).astype(np.float32)


def test_the_space_keeps_scores_and_makes_queries_isotropic():
    space = Space.of(POSTS, USERS)
    seen = USERS @ space.to_seen
    np.testing.assert_allclose(seen @ space.place(POSTS).T, USERS @ space.bounded(POSTS).T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(seen.T @ seen / len(seen), np.eye(6), atol=0.1)


def test_a_dimension_with_more_variance_gets_more_nibbles():
    number_of, step = allocate_nibbles(POSTS, 4)
    assert len(number_of) == len(step) == 8
    count = np.bincount(number_of, minlength=6)
    assert count[0] >= 2
    assert count[5] <= 1


def test_nibbles_reconstruct_vectors_to_half_a_step_and_leave_the_input_unchanged():
    before = POSTS.copy()
    number_of, step = allocate_nibbles(POSTS, 8)
    nibbles = encode(POSTS, number_of, step)
    np.testing.assert_array_equal(POSTS, before)
    assert nibbles.max() <= 15
    decoded = np.zeros_like(POSTS)
    for nth, (dimension, size) in enumerate(zip(number_of, step, strict=True)):
        decoded[:, dimension] += (nibbles[:, nth] - np.float32(7.5)) * size
    finest = np.array([step[number_of == dimension].min(initial=np.inf) for dimension in range(6)])
    coarsest = np.array([step[number_of == dimension].max(initial=0) for dimension in range(6)])
    inside = np.abs(POSTS) < 7.9 * coarsest
    assert inside[:, coarsest > 0].mean() > 0.95
    assert (np.abs(decoded - POSTS) <= 0.51 * finest)[inside].all()


def test_bytes_reconstruct_vectors_and_are_aligned_to_cache_lines():
    posts = Prepared.of(POSTS, USERS)
    decoded = posts.kept * posts.kept_scale[0] + posts.kept_scale[1]
    assert (np.abs(decoded - posts.space.bounded(POSTS)) <= 0.51 * posts.kept_scale[0]).all()
    assert posts.kept.ctypes.data % 64 == 0


@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_to_three_posts_are_enough(n):
    posts = Prepared.of(POSTS[:n], USERS[:1])
    decoded = posts.kept * posts.kept_scale[0] + posts.kept_scale[1]
    np.testing.assert_allclose(decoded, POSTS[:n], atol=0.05)
