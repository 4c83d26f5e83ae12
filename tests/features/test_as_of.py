"""The merge equals counting by hand, however the work is divided into threads and rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.features import as_of as module
from recsys.features.as_of import EventColumns, QueryColumns, as_of
from recsys.features.spec import Entity
from recsys.types import DAY, HOUR

THING = Entity("thing", ("impression", "click"), (HOUR, DAY))
T = 20_000 * DAY


def by_hand(events, queries):
    key, time, order, action = events
    out = np.zeros((len(queries.key), *THING.shape))
    for q, (asked, now, until) in enumerate(zip(*queries, strict=True)):
        seen = [i for i in range(len(key)) if key[i] == asked >= 0 and order[i] < until and action[i] < 2]
        newest = max((time[i] for i in seen), default=0)
        for i in seen:
            for h, half_life in enumerate(THING.half_lives):
                out[q, action[i], h] += 2.0 ** (-(max(now, newest) - time[i]) / half_life)
    return out


def random_columns(rng, m, q, n_keys, *, spread=3 * DAY):
    time = T + rng.integers(0, spread, m)
    late = np.where(rng.random(m) < 0.3, rng.integers(0, HOUR, m), 0)
    now = T + rng.integers(0, spread, q)
    key, action = rng.integers(-1, n_keys, m) * 7_000_000_000, rng.integers(0, 4, m).astype(np.int32)
    query_key = rng.integers(-1, n_keys, q) * 7_000_000_000
    return EventColumns(key, time - late, time, action), QueryColumns(query_key, now, now)


@pytest.mark.parametrize("round_rows", [module.ROUND_ROWS, 64])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_every_query_sees_exactly_the_events_of_lower_order(monkeypatch, n_threads, round_rows):
    monkeypatch.setattr(module, "ROUND_ROWS", round_rows)
    rng = np.random.default_rng(n_threads)
    columns = random_columns(rng, 400, 100, 9)
    expected = by_hand(*columns)
    np.testing.assert_allclose(as_of(THING, *columns, n_threads), expected, rtol=1e-11, atol=1e-300)
    assert (expected > 0).sum() > 200


def test_the_result_does_not_depend_on_threads_or_rounds(monkeypatch):
    columns = random_columns(np.random.default_rng(5), 30_000, 5_000, 300)
    whole = as_of(THING, *columns, 1)
    for n_threads, rows in ((2, 1 << 23), (1, 1000), (3, 500)):
        monkeypatch.setattr(module, "ROUND_ROWS", rows)
        np.testing.assert_array_equal(as_of(THING, *columns, n_threads), whole)


def test_one_key_may_have_most_of_the_rows():
    rng = np.random.default_rng(6)
    events, queries = random_columns(rng, 40_000, 200, 3)
    events.key[:39_000] = 14_000_000_000
    few = QueryColumns(*(column[:50] for column in queries))
    np.testing.assert_allclose(as_of(THING, events, few, 2), by_hand(events, few), rtol=1e-10, atol=1e-300)


def test_events_of_equal_order_are_all_seen_or_none_and_orders_may_be_any_int64():
    ends = np.iinfo(np.int64)
    order = np.array([ends.max - 1, 0, ends.min, 0, 5])
    key = np.zeros(5, np.int64)
    time = T + np.array([4, 2, 0, 3, 1]) * HOUR
    action = np.ones(5, np.int32)
    events = EventColumns(key, time, order, action)
    queries = QueryColumns(np.zeros(4, np.int64), np.full(4, T + 4 * HOUR), np.array([ends.min, 0, 1, ends.max]))
    seen = as_of(THING, events, queries, 1)
    np.testing.assert_allclose(seen, by_hand(events, queries), rtol=1e-12)
    assert (seen[:, 1, 0] > 0).tolist() == [False, True, True, True]


@pytest.mark.parametrize(("m", "q"), [(0, 3), (3, 0), (0, 0)])
def test_no_events_or_no_queries_give_zeros(m, q):
    assert as_of(THING, *random_columns(np.random.default_rng(0), m, q, 2), 2).tolist() == np.zeros((q, 2, 2)).tolist()


small = st.integers(0, 5)


@given(
    st.lists(st.tuples(st.integers(-1, 2), small, small, small), max_size=30),
    st.lists(st.tuples(st.integers(-1, 2), small, small), max_size=10),
)
def test_the_merge_equals_counting_by_hand(events, queries):
    key, time, order, action = np.array(events, np.int64).reshape(-1, 4).T
    query_key, now, until = np.array(queries, np.int64).reshape(-1, 3).T
    columns = (
        EventColumns(key, T + time * HOUR, order, action.astype(np.int32)),
        QueryColumns(query_key, T + now * HOUR, until),
    )
    np.testing.assert_allclose(as_of(THING, *columns, 2), by_hand(*columns), rtol=1e-12, atol=1e-300)
