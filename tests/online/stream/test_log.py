"""Records on the stream: appended once, read in order, decoded whole or set aside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import orjson
import pytest
import redis

from recsys.config import OnlineConfig
from recsys.errors import RequestError
from recsys.online.stream.log import RedisStream, position
from recsys.online.stream.records import (
    EVENT,
    EVENT_TYPE,
    RETURNED,
    Entry,
    Event,
    Returned,
    decode,
    encode_event,
    encode_returned,
)
from recsys.types import SECOND

from ..conftest import START

EVENT_1 = Event("click", 1, 2, -3, 2**62, START, START + SECOND, position=4, value=0.5)


def test_an_event_posted_twice_is_appended_once(client: redis.Redis, config: OnlineConfig) -> None:
    stream = RedisStream(client, config)
    assert stream.append([EVENT_1, replace(EVENT_1, event_id=2), EVENT_1]) == 2
    assert stream.append([EVENT_1, replace(EVENT_1, event_id=3)]) == 1
    assert list(decode(stream.read("", 10)).events["event_id"]) == [1, 2, 3]


def test_an_event_id_can_be_reused_after_the_dedup_window(client: redis.Redis, config: OnlineConfig) -> None:
    stream = RedisStream(client, config.model_copy(update={"dedup_window_s": 7}))
    stream.append([EVENT_1])
    marks = client.keys("recsys:event:*")
    assert 0 < client.ttl(marks[0]) <= 7
    client.delete(*marks)
    assert stream.append([EVENT_1]) == 1


def test_a_request_is_appended_once(
    client: redis.Redis, config: OnlineConfig, returned_record: Callable[..., Returned]
) -> None:
    stream = RedisStream(client, config)
    for _ in range(2):
        stream.append_returned(returned_record(1, 5, [100]))
    assert len(stream.read("", 10)) == 1


def test_reading_goes_on_after_a_position_and_waits_for_what_comes(client: redis.Redis, config: OnlineConfig) -> None:
    stream = RedisStream(client, config)
    stream.append([replace(EVENT_1, event_id=number) for number in range(5)])
    first = stream.read("", 2)
    rest = stream.read(first[-1].id, 10)
    assert list(decode([*first, *rest]).events["event_id"]) == [0, 1, 2, 3, 4]
    assert stream.read(rest[-1].id, 10, block_ms=5) == []


def test_stream_ids_compare_as_numbers() -> None:
    assert position("") < position("9-1") < position("10-0") < position("10-2") < position("10-10")


def test_an_event_comes_back_as_it_was_sent() -> None:
    row = decode([Entry("1-0", EVENT, encode_event(EVENT_1))]).events[0]
    assert (row["event_id"], row["request_id"], row["user_id"], row["post_id"]) == (1, 2, -3, 2**62)
    assert (row["event_time"], row["ingest_time"], row["position"], row["value"]) == (START, START + SECOND, 4, 0.5)
    plain = decode([Entry("1-0", EVENT, encode_event(replace(EVENT_1, position=None, value=None)))]).events[0]
    assert plain["position"] == -1
    assert np.isnan(plain["value"])


def test_a_returned_record_comes_back_as_it_was_sent(returned_record: Callable[..., Returned]) -> None:
    record = returned_record(-1, 2**62, [100, 107, -5])
    (back,) = decode([Entry("1-0", RETURNED, encode_returned(record))]).returned
    for column in fields(Returned):
        np.testing.assert_array_equal(getattr(back, column.name), getattr(record, column.name), err_msg=column.name)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"kind": "frown"}, "type must be one of impression, click"),
        ({"event_time": -1}, "event_time must be between 1970"),
        ({"ingest_time": 2**62}, "ingest_time must be between 1970"),
        ({"user_id": 2**63}, "out of range"),
        ({"position": 40_000}, "out of range"),
        ({"value": 1e300}, "out of range"),
        ({"value": -0.5}, "event value must be finite and >= 0"),
        ({"value": float("inf")}, "event value must be finite and >= 0"),
        ({"position": -2}, "event position must be >= 0"),
    ],
)
def test_an_event_out_of_range_is_refused_and_nothing_is_appended(
    client: redis.Redis, config: OnlineConfig, change: dict[str, object], rule: str
) -> None:
    stream = RedisStream(client, config)
    with pytest.raises(RequestError, match=rule):
        stream.append([EVENT_1, replace(EVENT_1, event_id=9, **change)])
    assert stream.read("", 10) == []


def test_unreadable_records_are_set_aside_with_their_reason_and_stop_nothing(
    returned_record: Callable[..., Returned],
) -> None:
    event, record = encode_event(EVENT_1), encode_returned(returned_record(1, 5, [100]))
    decoded = decode(
        [
            Entry("1-0", EVENT, event[:-1]),
            Entry("2-0", EVENT, event[:-1] + b"\xff"),
            Entry("3-0", RETURNED, record[:-1]),
            Entry("4-0", RETURNED, record + b"?"),
            Entry("5-0", RETURNED, b"nonsense"),
            Entry("6-0", b"z", b""),
            Entry("7-0", EVENT, event),
            Entry("8-0", RETURNED, record),
        ]
    )
    assert len(decoded.events) == len(decoded.returned) == 1
    assert sorted(entry.id for entry, _ in decoded.bad) == ["1-0", "2-0", "3-0", "4-0", "5-0", "6-0"]
    assert all(reason for _, reason in decoded.bad)


@pytest.mark.parametrize(
    ("column", "value"), [("value", -0.5), ("value", np.inf), ("value", -np.inf), ("position", -2), ("event_time", -1)]
)
def test_an_event_that_the_lake_would_quarantine_is_set_aside_naming_its_column(column: str, value: float) -> None:
    row = np.frombuffer(encode_event(EVENT_1), EVENT_TYPE).copy()
    row[column] = value
    decoded = decode([Entry("1-0", EVENT, row.tobytes()), Entry("2-0", EVENT, encode_event(EVENT_1))])
    assert decoded.event_stream_id == ["2-0"]
    assert [(entry.id, reason.split()[0]) for entry, reason in decoded.bad] == [("1-0", column)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"request_id": "abc"}, "request_id"),
        ({"request_id": True}, "request_id"),
        ({"user_id": 2**63}, "user_id"),
        ({"now": 1.5}, "now"),
        ({"now": -1}, "now"),
        ({"release": 7}, "release"),
        ({"user_watermark": None}, "user_watermark"),
        ({"k": 1e30}, "k"),
        ({"k": -1}, "k"),
        ({"f": 2**62}, "f"),
        ({"more": 1}, "more"),
    ],
)
def test_a_returned_record_with_a_wrong_head_is_set_aside_and_stops_nothing(
    returned_record: Callable[..., Returned], change: dict[str, object], named: str
) -> None:
    payload = encode_returned(returned_record(1, 5, [100]))
    end = 4 + int.from_bytes(payload[:4], "little")
    head = orjson.dumps({**orjson.loads(payload[4:end]), **change})
    wrong = len(head).to_bytes(4, "little") + head + payload[end:]
    decoded = decode([Entry("1-0", RETURNED, wrong), Entry("2-0", RETURNED, payload)])
    assert decoded.returned_stream_id == ["2-0"]
    ((entry, reason),) = decoded.bad
    assert entry.id == "1-0"
    assert named in reason


@pytest.mark.parametrize("head", [b"5", b"null", b"[]", b'"text"', b"{}"])
def test_a_returned_record_whose_head_is_no_object_of_its_fields_is_set_aside(head: bytes) -> None:
    decoded = decode([Entry("1-0", RETURNED, len(head).to_bytes(4, "little") + head)])
    assert [reason.split(":")[0] for _, reason in decoded.bad] == ["not a returned record"]


@pytest.mark.parametrize("position", [-1, 2**15])
def test_a_returned_record_with_a_position_that_the_lake_has_no_room_for_is_set_aside(
    returned_record: Callable[..., Returned], position: int
) -> None:
    record = replace(returned_record(1, 5, [100, 107]), position=np.array([0, position], np.int32))
    ((_, reason),) = decode([Entry("1-0", RETURNED, encode_returned(record))]).bad
    assert "positions must be from 0 to 32767" in reason
