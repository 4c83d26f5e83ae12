"""The two halves of a freshness term, multiplied, are the decay of the age."""

import numpy as np
import pytest

from recsys.retrieval.freshness import PACES, decay, post_part, to_float32, user_part
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
