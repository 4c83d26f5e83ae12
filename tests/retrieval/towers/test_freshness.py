"""The two halves of a freshness term, multiplied, are the decay of the age."""

import numpy as np
import pytest

from recsys.retrieval.towers.freshness import INDEX_AGES, N_PACES, PACES, decay, later, post_part, to_float32, user_part
from recsys.types import DAY, HOUR

REFERENCE = 1_768_780_800_000_000


@pytest.mark.parametrize("offset", [-6 * DAY, -HOUR, 0, 5 * DAY])
@pytest.mark.parametrize("age", [0, HOUR, 3 * DAY, 10 * DAY])
def test_the_halves_multiply_to_the_decay_of_the_age(offset, age):
    now = np.array([REFERENCE + offset])
    halves = to_float32(user_part(now, REFERENCE)) * to_float32(post_part(now - age, REFERENCE))
    np.testing.assert_allclose(halves, decay(np.array([age])), rtol=1e-5, atol=1e-30)


def test_a_post_loses_to_a_third_in_one_pace():
    for nth, pace in enumerate(PACES):
        assert decay(np.array([int(pace)]))[0, nth] == pytest.approx(np.exp(-1))


@pytest.mark.parametrize("offset", [-4000 * DAY, 4000 * DAY])
def test_halves_stay_finite_years_away_from_the_reference(offset):
    moment = np.array([REFERENCE + offset])
    for half in (user_part(moment, REFERENCE), post_part(moment, REFERENCE)):
        assert np.isfinite(to_float32(half)).all()


def test_a_post_from_the_future_counts_as_new():
    np.testing.assert_array_equal(decay(np.array([-DAY])), 1.0)


def test_users_later_are_those_of_a_later_moment():
    now, passed = np.array([DAY]), 7 * HOUR
    taste = np.ones((1, 5), np.float32)
    first, second = (np.hstack([taste, to_float32(user_part(at, 0))]) for at in (now, now + passed))
    np.testing.assert_allclose(later(first, passed), second, rtol=1e-5)
    np.testing.assert_array_equal(later(first, 0.0), first)
    np.testing.assert_array_equal(later(first, np.inf), np.hstack([taste, np.zeros((1, N_PACES))]))


def test_moments_reach_from_the_build_to_where_nothing_is_fresh_any_more():
    assert list(INDEX_AGES) == [0, DAY, 5 * DAY, np.inf]
