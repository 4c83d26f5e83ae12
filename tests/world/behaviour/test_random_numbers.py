"""The kernels' random numbers have the right distributions, and their streams are independent."""

import numpy as np

from recsys.world.behaviour.random_numbers import below, exponential, normal, seeded, uniform


def draws(kind, n, *arguments, stream=0):
    state = seeded(7, stream)
    return np.array([kind(state, *arguments) for _ in range(n)])


def test_uniform_numbers_fill_the_open_interval_evenly():
    values = draws(uniform, 20_000)
    assert values.min() > 0
    assert values.max() < 1
    in_bins = np.bincount((values * 20).astype(int), minlength=20)
    assert ((in_bins - 1000) ** 2 / 1000).sum() < 55, "chi-square of 19 degrees of freedom"


def test_integers_below_n_are_uniform():
    counts = np.bincount(draws(below, 6000, 6), minlength=6)
    assert len(counts) == 6
    assert (np.abs(counts - 1000) < 4 * np.sqrt(1000)).all()


def test_normal_and_exponential_numbers_have_the_right_mean_and_variance():
    values = draws(normal, 20_000)
    assert abs(values.mean()) < 4 / np.sqrt(20_000)
    assert abs(values.var() - 1) < 4 * np.sqrt(2 / 20_000)
    values = draws(exponential, 20_000)
    assert values.min() > 0
    assert abs(values.mean() - 1) < 4 / np.sqrt(20_000)
    assert abs(values.var() - 1) < 4 * np.sqrt(8 / 20_000)


def test_a_stream_repeats_and_differs_from_its_neighbours():
    streams = [draws(uniform, 50, stream=stream) for stream in range(4)]
    assert (streams[2] == draws(uniform, 50, stream=2)).all()
    assert len(np.unique(streams)) == 200
    assert np.abs(np.corrcoef([draws(uniform, 5000, stream=s) for s in range(4)]) - np.eye(4)).max() < 0.06
