"""A request saw the events its server had read or, without a watermark, those that had arrived before it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.offline.logs.stream_position import to_number, to_numbers
from recsys.offline.logs.visibility import UNKNOWN, order_by_arrival

NEVER = -1


def arrivals(*events):
    """Order and arrivals of (ingest_time, stream_position) pairs, with random event ids."""
    time, position = np.array(events, np.int64).reshape(-1, 2).T
    return order_by_arrival(time, position, np.random.default_rng(len(time)).permutation(len(time)))


def seen(made, *requests):
    now, watermark = np.array(requests, np.int64).T
    return made.count_seen(now, watermark).tolist()


def test_without_a_watermark_requests_see_what_arrived_strictly_before():
    order, made = arrivals((30, NEVER), (10, NEVER), (20, NEVER))
    assert order.tolist() == [1, 2, 0]
    assert seen(made, (10, UNKNOWN), (11, UNKNOWN), (30, UNKNOWN), (31, UNKNOWN)) == [0, 1, 2, 3]


def test_a_watermark_decides_which_streamed_events_were_seen_whatever_the_clock_says():
    _, made = arrivals((10, 100), (20, 101), (30, 102))
    assert seen(made, (99, 100), (99, 101), (0, 102), (0, 0), (99, 105)) == [1, 2, 3, 0, 3]


def test_events_that_were_never_streamed_count_by_their_time():
    _, made = arrivals((10, NEVER), (20, 100), (30, 101), (25, NEVER))
    assert made.time.tolist() == [10, 20, 25, 30]
    assert seen(made, (40, 0), (5, 0), (22, 100), (26, 100), (99, 100)) == [1, 0, 2, 3, 3]


def test_streamed_events_keep_stream_order_whatever_their_timestamps():
    order, made = arrivals((50, 100), (40, 101), (60, 102))
    assert order.tolist() == [0, 1, 2]
    assert made.time.tolist() == [50, 50, 60]
    assert seen(made, (55, UNKNOWN), (45, 100)) == [2, 1]


def test_a_watermark_covers_all_rows_of_one_record_or_none():
    _, made = arrivals((50, 100), (50, 100), (50, 100))
    assert seen(made, (51, 99), (40, 100)) == [0, 3]


def test_every_request_with_a_watermark_saw_all_preloaded_events():
    time, position = np.array([10, 90, 20, 30]), np.array([NEVER, NEVER, 100, 101])
    order, made = order_by_arrival(time, position, np.arange(4), preloaded=True)
    assert order.tolist() == [0, 1, 2, 3]
    assert made.time.tolist() == [10, 20, 20, 30]
    assert seen(made, (15, 0), (15, 100), (99, 100), (15, UNKNOWN)) == [2, 3, 3, 1]
    _, alone = order_by_arrival(time[:2], position[:2], np.arange(2), preloaded=True)
    assert seen(alone, (15, 0), (15, UNKNOWN)) == [2, 1]


def test_events_of_one_moment_are_ordered_by_id():
    assert order_by_arrival(np.array([5, 5, 5]), np.full(3, NEVER), np.array([9, 3, 4]))[0].tolist() == [1, 2, 0]


events = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40) | st.just(NEVER)), max_size=20)


@given(events, st.lists(st.tuples(st.integers(0, 22), st.integers(0, 42)), min_size=1, max_size=10))
def test_a_watermark_shows_exactly_the_streamed_events_up_to_it(events, requests):
    order, made = arrivals(*events)
    position = np.array([position for _, position in events], np.int64)[order]
    for (_, watermark), n in zip(requests, seen(made, *requests), strict=True):
        streamed = position >= 0
        assert (streamed & (position <= watermark))[:n].sum() == (streamed & (position <= watermark)).sum()
        assert not (streamed & (position > watermark))[:n].any()


def test_stream_positions_compare_in_stream_order():
    ids = ["", "0-1", "5", "5-1", "5-900000", "6-0", "1700000000000-3"]
    assert (np.diff(to_numbers(ids)) > 0).all()
    assert to_number("") == 0


def test_records_beyond_the_room_of_a_millisecond_share_its_last_position():
    ids = ["5-1048574", "5-1048575", "5-1048576", f"5-{2**64 - 1}", "6-0"]
    assert np.diff(to_numbers(ids)).tolist() == [1, 0, 0, 1]


def test_out_of_range_times_are_clamped_to_the_last_position():
    ids = [f"{2**43 - 1}-1048574", f"{2**43}-0", f"{2**64 - 1}-{2**64 - 1}"]
    assert to_numbers(ids).tolist() == [2**63 - 2, 2**63 - 1, 2**63 - 1]


@pytest.mark.parametrize("bad", ["x", "5-x", "-5-1", "5-", "5-1-1", "+5-1", "1_0", f"{2**64}-0", f"5-{2**64}"])
def test_a_text_that_is_not_a_stream_id_is_refused(bad):
    with pytest.raises(ValueError, match="a stream id must be"):
        to_number(bad)
