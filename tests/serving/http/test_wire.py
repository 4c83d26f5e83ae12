"""Events are accepted or rejected one by one, with a reason; a body that is not a batch is refused."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import RequestError
from recsys.offline.catalogue.ids import to_int64
from recsys.serving.http.wire import MAX_EVENTS, parse_events
from recsys.types import HOUR, SECOND

NOW = 1_768_780_800_000_000  # 2026-01-19 00:00 UTC
GOOD = {
    "event_id": "e-1",
    "request_id": "77",
    "user_id": "12",
    "post_id": "34",
    "type": "click",
    "event_time": "2026-01-18T23:59:59Z",
}


def parse(*events, now=NOW, wall=None):
    return parse_events(orjson.dumps({"events": events}), now, wall)


def reason_of(**changes):
    (rejected,) = parse({**GOOD, **changes})[1]
    return rejected.reason


def test_a_valid_event_is_parsed_into_numbers():
    (event,), rejected = parse(GOOD)
    assert rejected == []
    assert (event.event_id, event.request_id, event.user_id, event.post_id) == (to_int64("e-1"), 77, 12, 34)
    assert (event.type, event.value, event.position, event.event_time) == ("click", None, None, NOW - SECOND)


def test_a_bare_list_is_a_batch():
    assert len(parse_events(orjson.dumps([GOOD, GOOD]), NOW)[0]) == 2


def test_bad_events_are_rejected_by_index_and_the_others_accepted():
    events, rejected = parse(
        {**GOOD, "type": "view"}, GOOD, "click", {**GOOD, "post_id": 34}, {**GOOD, "event_id": "e-2"}
    )
    assert [event.event_id for event in events] == [to_int64("e-1"), to_int64("e-2")]
    assert [(item.index, item.reason) for item in rejected] == [
        (0, 'type must be one of impression, click, like, share, hide, dwell, got "view"'),
        (2, 'an event must be a JSON object, got "click"'),
        (3, "post_id must be a string, got 34"),
    ]


def test_a_batch_of_bad_events_only_is_still_a_batch():
    events, rejected = parse({}, None, 3)
    assert events == []
    assert [item.index for item in rejected] == [0, 1, 2]


@pytest.mark.parametrize("name", ["event_id", "request_id", "user_id", "post_id", "type", "event_time"])
def test_every_missing_field_is_named(name):
    (rejected,) = parse({key: value for key, value in GOOD.items() if key != name})[1]
    assert rejected.reason == f"{name} is missing"


@pytest.mark.parametrize("name", ["event_id", "request_id", "user_id", "post_id"])
@pytest.mark.parametrize("value", ["", "x" * 201, 5, None, ["1"], True])
def test_an_invalid_id_is_named(name, value):
    assert reason_of(**{name: value}).startswith(f"{name} ")


@pytest.mark.parametrize(
    "value",
    ["2026-01-18T23:00:00Z", "2026-01-19T00:30:00+01:30", (NOW - HOUR), "20260118T230000Z"],
)
def test_the_same_moment_may_be_written_in_several_ways(value):
    (event,), _ = parse({**GOOD, "event_time": value})
    assert event.event_time == NOW - HOUR


@pytest.mark.parametrize("value", ["2026-01-18T23:00:00", "yesterday", "", 1.5e15, True, None, "1768780800000000"])
def test_a_time_without_a_timezone_or_of_another_type_is_rejected(value):
    assert "event_time must be ISO-8601 with a timezone, or integer microseconds" in reason_of(event_time=value)


@pytest.mark.parametrize(
    "value", [NOW // SECOND, NOW // 1000, -5, 0, "1999-12-31T00:00:00Z", "0001-01-01T00:00:00+14:00"]
)
def test_a_time_before_the_year_2000_is_rejected(value):
    assert "event_time must be later than the year 2000" in reason_of(event_time=value)


def test_an_event_may_lie_up_to_five_minutes_ahead():
    assert parse({**GOOD, "event_time": NOW + 299 * SECOND})[1] == []
    assert reason_of(event_time=NOW + 400 * SECOND) == "event_time must not be over 300 s ahead, got 400 s ahead"
    assert "ahead" in reason_of(event_time=2**63 + 5)
    assert "ahead" in reason_of(event_time="9999-12-31T23:59:59Z")


@pytest.mark.parametrize(("value", "said"), [(None, "null"), (-0.5, "-0.5")])
def test_a_dwell_needs_its_seconds(value, said):
    assert reason_of(type="dwell", value=value) == f"value must be the seconds of the dwell, >= 0, got {said}"


@pytest.mark.parametrize("value", ["3", True, [1], 1e39, -1e300])
def test_a_value_that_float32_cannot_hold_is_rejected(value):
    assert reason_of(value=value).startswith("value must be a finite number or null")


def test_a_dwell_of_zero_seconds_and_a_like_with_a_value_are_accepted():
    events, rejected = parse({**GOOD, "type": "dwell", "value": 0}, {**GOOD, "type": "like", "value": -1.5, "more": {}})
    assert [event.value for event in events] == [0.0, -1.5]
    assert rejected == []


@pytest.mark.parametrize("value", [-1, 40_000, "3", 1.0, True])
def test_an_invalid_position_is_rejected(value):
    assert reason_of(position=value).startswith("position ")
    (event,), _ = parse({**GOOD, "position": 3})
    assert event.position == 3


def test_on_simulated_time_wall_times_are_shifted_and_simulated_times_kept():
    wall = NOW + 300 * 24 * HOUR
    written = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=wall - 2 * SECOND)).isoformat()
    events, rejected = parse(
        {**GOOD, "event_time": written},
        {**GOOD, "event_time": NOW - 3 * SECOND},
        {**GOOD, "event_time": wall + 301 * SECOND},
        wall=wall,
    )
    assert [event.event_time for event in events] == [NOW - 2 * SECOND, NOW - 3 * SECOND]
    assert [(item.index, item.reason) for item in rejected] == [
        (2, "event_time must not be over 300 s ahead, got 301 s ahead")
    ]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[NaN]", b"[" * 2000, b'"e"', b"3", b"null", b'{"event": []}', b'{"events": 3}']
)
def test_a_body_that_is_not_a_batch_is_refused(body):
    with pytest.raises(RequestError, match="body must be"):
        parse_events(body, NOW)


def test_a_batch_over_the_limit_is_refused_with_both_numbers():
    assert len(parse(*[GOOD] * MAX_EVENTS)[0]) == MAX_EVENTS
    with pytest.raises(RequestError, match="at most 1000 events, got 1001"):
        parse(*[GOOD] * (MAX_EVENTS + 1))


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=6),
    max_leaves=8,
)


@given(
    st.lists(
        json | st.builds(lambda a, b: {**GOOD, a: b}, st.sampled_from([*GOOD, "value", "position"]), json), max_size=5
    )
)
def test_every_item_of_any_json_is_either_accepted_or_rejected(items):
    events, rejected = parse(*items)
    assert len(events) + len(rejected) == len(items)
    assert len({item.index for item in rejected}) == len(rejected)
    assert all(item.reason for item in rejected)


@pytest.mark.parametrize("text", ["0", "7", str(2**63 - 1), "-5", str(-(2**63)), "abc", "007", str(2**63), "é"])
def test_an_id_written_as_a_string_parses_to_the_same_number(text):
    assert to_int64(str(to_int64(text))) == to_int64(text)
