"""Adding in chunks gives the same state as adding all at once."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.offline.imports.running import Earliest, Latest, Seen

CHUNKS = st.lists(st.lists(st.tuples(st.integers(-5, 5), st.integers(-9, 9)), max_size=8), max_size=8)


def columns(chunk):
    return [np.array([row[place] for row in chunk], np.int64) for place in (0, 1)]


@given(CHUNKS)
def test_earliest_gives_the_earliest_time_of_each_id(chunks):
    earliest, expected = Earliest(), {}
    for chunk in chunks:
        earliest.add(*columns(chunk))
        for key, time in chunk:
            expected[key] = min(expected.get(key, time), time)
        assert dict(zip(earliest.ids().tolist(), earliest.times().tolist(), strict=True)) == expected
    assert earliest.ids().tolist() == sorted(expected)
    assert earliest.of(np.arange(-6, 7), 99).tolist() == [expected.get(key, 99) for key in range(-6, 7)]


@given(CHUNKS)
def test_seen_reports_a_value_from_its_second_time_on(chunks):
    seen, before = Seen(), set()
    for chunk in chunks:
        values, _ = columns(chunk)
        repeated = []
        for value in values.tolist():
            repeated.append(value in before)
            before.add(value)
        assert seen.add(values).tolist() == repeated
        assert seen.contains(np.arange(-6, 7)).tolist() == [value in before for value in range(-6, 7)]


@given(CHUNKS)
def test_latest_keeps_the_latest_row_and_the_last_among_equals(chunks):
    latest, expected, number = Latest(), {}, 0
    for chunk in chunks:
        ids, times = columns(chunk)
        latest.add(ids, times, pa.table({"row": np.arange(number, number + len(chunk))}))
        for key, time in chunk:
            if key not in expected or time >= expected[key][0]:
                expected[key] = (time, number)
            number += 1
    ids, rows = latest.rows()
    assert ids.tolist() == sorted(expected)
    assert ([] if rows is None else rows["row"].to_pylist()) == [expected[key][1] for key in sorted(expected)]
