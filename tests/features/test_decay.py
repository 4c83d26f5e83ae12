"""Counts halve with every half-life, in any order of events."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features.decay import States, advance, read
from recsys.features.spec import Entity
from recsys.offline.logs.events import ACTIONS
from recsys.types import DAY, HOUR

THING = Entity("thing", ("impression", "click"), (HOUR, DAY))
T = 20_000 * DAY


def after(events, n_things=1, entity=THING):
    """States after (row, time, action) events, in the order given."""
    states = States.zeros(n_things, entity)
    columns = [np.array([event[side] for event in events], np.int64) for side in (0, 1)]
    actions = np.array([ACTIONS.index(event[2]) for event in events], np.int32)
    advance(states, entity, *columns, actions)
    return states


def counts_at(states, now, row=0, entity=THING):
    return read(states, entity, np.array([row], np.int32), now)[0]


def test_an_event_counts_half_after_a_half_life_and_a_quarter_after_two():
    states = after([(0, T, "click")])
    for hours, expected in ((0, 1.0), (1, 0.5), (2, 0.25), (24, 2.0**-24)):
        assert counts_at(states, T + hours * HOUR)[1, 0] == expected
    assert counts_at(states, T + DAY)[1, 1] == 0.5
    assert (counts_at(states, T + DAY)[0] == 0).all(), "impressions are counted apart"


def test_events_add_up_each_with_its_own_age():
    states = after([(0, T, "click"), (0, T + HOUR, "click"), (0, T + 3 * HOUR, "impression")])
    at = counts_at(states, T + 3 * HOUR)
    assert at[1, 0] == pytest.approx(2.0**-3 + 2.0**-2, rel=1e-15)
    assert at[1, 1] == pytest.approx(2.0 ** (-3 / 24) + 2.0 ** (-2 / 24), rel=1e-15)
    assert at[0].tolist() == [1.0, 1.0]


def test_a_late_event_counts_with_its_age():
    states = after([(0, T + 2 * HOUR, "click"), (0, T, "click")])
    assert states.t[0] == T + 2 * HOUR, "the state does not go back in time"
    assert counts_at(states, T + 2 * HOUR)[1, 0] == 1.25


def test_keys_are_counted_separately_and_events_without_a_key_are_skipped():
    states = after([(0, T, "click"), (-1, T, "click"), (1, T, "impression")], n_things=3)
    counted = read(states, THING, np.array([0, 1, 2, -1], np.int32), T)
    assert counted[:, :, 0].tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]


def test_an_action_the_entity_does_not_keep_changes_neither_counts_nor_time():
    states = after([(0, T, "click"), (0, T + HOUR, "hide"), (0, T + HOUR, "dwell")])
    assert states.t[0] == T
    assert states.v[0, :, 0].tolist() == [0, 1]


events_of_two = st.lists(
    st.tuples(st.integers(0, 1), st.integers(T, T + 10 * DAY), st.sampled_from(["impression", "click"])), min_size=1
)


@given(events_of_two.flatmap(lambda events: st.tuples(st.just(events), st.permutations(events))))
def test_the_order_of_delivery_does_not_matter_beyond_1e_12(orders):
    first, second = (after(events, n_things=2) for events in orders)
    np.testing.assert_array_equal(first.t, second.t)
    np.testing.assert_allclose(first.v, second.v, rtol=1e-12, atol=0)


@given(events_of_two, st.integers(0, 20))
def test_counting_in_two_calls_equals_counting_in_one(events, cut):
    states = after(events[:cut], n_things=2)
    rest = events[cut:]
    rows, times = (np.array([event[side] for event in rest], np.int64) for side in (0, 1))
    advance(states, THING, rows, times, np.array([ACTIONS.index(event[2]) for event in rest], np.int32))
    whole = after(events, n_things=2)
    np.testing.assert_array_equal(states.v, whole.v)
    np.testing.assert_array_equal(states.t, whole.t)


def test_a_read_before_the_last_event_gives_counts_as_they_are():
    states = after([(0, T, "click")])
    assert counts_at(states, T - HOUR)[1].tolist() == [1.0, 1.0]


def test_the_result_does_not_depend_on_the_block_size():
    rng = np.random.default_rng(0)
    events = [(int(row), int(T + time), "click") for row, time in rng.integers(0, (3, 5 * DAY), (1000, 2))]
    at_once = after(events, n_things=3)
    one_by_one = States.zeros(3, THING)
    for row, time, action in events:
        advance(one_by_one, THING, np.array([row]), np.array([time]), np.array([ACTIONS.index(action)], np.int32))
    np.testing.assert_array_equal(at_once.v, one_by_one.v)
    np.testing.assert_array_equal(at_once.t, one_by_one.t)
