"""Times of outside logs are parsed, or reported as not parsed."""

from datetime import date, datetime

import pyarrow as pa
import pytest

from recsys.offline.imports.times import parse_mind_times, parse_times

NINE = 1573463158 * 1_000_000
"""2019-11-11 09:05:58 UTC."""


def parsed(*values, kind=None):
    times, known = parse_times(pa.array(values, kind))
    return [int(time) if understood else None for time, understood in zip(times, known, strict=True)]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2019-11-11T09:05:58Z", NINE),
        ("2019-11-11 09:05:58", NINE),
        (" 2019-11-11T09:05:58.5 ", NINE + 500_000),
        ("2019-11-11T09:05:58.123456789Z", NINE + 123_456),
        ("2019-11-11T11:05:58+02:00", NINE),
        ("2019-11-11T03:35:58-0530", NINE),
        ("2019-11-11 09:05:58 UTC", NINE),
        ("2019-11-11T09:05", NINE - 58_000_000),
        ("2019-11-11", NINE - (9 * 3600 + 5 * 60 + 58) * 1_000_000),
        ("1969-12-31T23:59:59Z", -1_000_000),
        ("2020-02-29", 1582934400 * 1_000_000),
    ],
)
def test_iso_8601_is_utc_unless_it_names_a_zone(text, time):
    assert parsed(text) == [time]


def test_numbers_count_seconds_milliseconds_or_microseconds_by_their_size():
    assert parsed("1573463158", "1573463158000", "1573463158000000", "1573463158.25") == [
        NINE, NINE, NINE, NINE + 250_000,
    ]  # fmt: skip
    assert parsed(1573463158, 1573463158000, 1573463158000000, 1573463158000000000) == [NINE] * 4


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2019-02-30", "2019-13-01", "2019-00-10", "2019-11-11T24:00:00", "2019-11-11T09:60:00",
     "2019-11-11T09:05:58+02:75", "11/11/2019", "2019-11-11T09:05:58 home", "nan", "12:30", "99999999999999999999"],
)  # fmt: skip
def test_text_that_is_not_a_time_is_not_parsed(text):
    assert parsed(text) == [None]


def test_arrow_times_and_dates_are_converted():
    noon = datetime(2019, 11, 11, 12)
    for unit in ("s", "ms", "us", "ns"):
        assert parsed(noon, kind=pa.timestamp(unit)) == [1573473600 * 1_000_000]
    assert parsed(date(2019, 11, 11), kind=pa.date32()) == [1573430400 * 1_000_000]
    assert parsed(None, kind=pa.timestamp("us")) == [None]
    assert parsed(2**62, kind=pa.timestamp("s")) == [None]


@pytest.mark.parametrize(
    ("text", "hour"),
    [("11/11/2019 9:05:58 AM", 9), ("11/11/2019 9:05:58 PM", 21), ("11/11/2019 12:05:58 AM", 0),
     ("11/11/2019 12:05:58 PM", 12)],
)  # fmt: skip
def test_mind_times_use_a_twelve_hour_clock(text, hour):
    times, known = parse_mind_times(pa.array([text]))
    assert known.all()
    assert times[0] == NINE + (hour - 9) * 3600 * 1_000_000


@pytest.mark.parametrize("text", ["11/11/2019 13:05:58 PM", "11/11/2019 0:05:58 AM", "2/30/2019 9:05:58 AM", "", "x"])
def test_impossible_mind_times_are_not_parsed(text):
    assert not parse_mind_times(pa.array([text]))[1].any()
