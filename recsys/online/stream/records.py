"""Records of the stream to bytes and back: an `Event` of a user, or the `Returned` record of an answered request.

Encoding refuses a record that breaks a rule. Decoding takes many payloads at once and gives columns. It lists records
that it cannot read with the reason, so that one wrong record does not stop the others. This module knows nothing of
Redis.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from recsys.errors import RequestError
from recsys.offline.logs.events import ACTIONS
from recsys.types import DAY, Floats, Ids, Mask, Rows

EVENT = b"e"
RETURNED = b"r"

EVENT_TYPE = np.dtype(
    [
        ("event_id", "<i8"), ("request_id", "<i8"), ("user_id", "<i8"), ("post_id", "<i8"),
        ("event_time", "<i8"), ("ingest_time", "<i8"),
        ("value", "<f4"), ("position", "<i2"), ("action", "u1"),
    ]
)  # fmt: skip
"""Columns of events: `action` is a code in `ACTIONS`; unknown `value` is NaN, unknown `position` -1."""

LATEST = 200 * 365 * DAY
"""Times must lie between 1970 and about 2169. Counters decay from them: one absurd time would spoil a row for good."""

_MIN_ID, _MAX_ID = -(1 << 63), (1 << 63) - 1
_MAX_POSITION = (1 << 15) - 1
_MAX_ITEMS = 1 << 20
"""Largest number of items, features or candidates in one record."""

_EVENT_STRUCT = struct.Struct("<6qfhB")
_BLOBS = (("post_id", "<i8"), ("position", "<i4"), ("propensity", "<f4"), ("sources", "<u2"), ("score", "<f4"))


class Entry(NamedTuple):
    """One record of the stream, still encoded."""

    id: str
    """Position in the stream."""
    kind: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """An impression, or an action of `schemas.ACTION_TYPES`. Times in microseconds."""

    kind: str
    event_id: int
    request_id: int
    user_id: int
    post_id: int
    event_time: int
    ingest_time: int
    position: int | None = None
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Returned:
    """The answer to one request, K items, and the C candidates it was chosen from."""

    request_id: int
    user_id: int
    now: int
    release: str
    policy: str
    """Policy or variant that chose the items."""
    watermark: str
    """Stream position that the counters reflect."""
    user_watermark: str
    """Stream position that the user's history reflects."""
    post_id: Ids
    """(K,)."""
    position: Rows
    """(K,)."""
    propensity: Floats
    """(K,)."""
    sources: np.ndarray
    """Bits of `types.Source`, uint16, (K,)."""
    score: Floats
    """(K,)."""
    features: Floats
    """(K, F); F may be 0."""
    candidates: Ids
    """Post ids, (C,)."""


class Decoded(NamedTuple):
    """Decoded records of the stream."""

    events: np.ndarray
    """Of `EVENT_TYPE`, in stream order."""
    event_stream_id: list[str]
    """Stream id of each event."""
    returned: list[Returned]
    returned_stream_id: list[str]
    bad: list[tuple[Entry, str]]
    """Records that cannot be read, with the reason."""


def encode_event(event: Event) -> bytes:
    """Raises: RequestError naming the field that breaks a rule."""
    if event.kind not in ACTIONS:
        raise RequestError(f"event type must be one of {', '.join(ACTIONS)}, got {event.kind!r}")
    for name, time in (("event_time", event.event_time), ("ingest_time", event.ingest_time)):
        if not 0 <= time <= LATEST:
            raise RequestError(f"event {name} must be between 1970 and 2169, got {time} microseconds")
    position = -1 if event.position is None else event.position
    value = float("nan") if event.value is None else event.value
    if value < 0 or value == float("inf"):
        raise RequestError(f"event value must be finite and >= 0, or None, got {value}")
    if position < -1:
        raise RequestError(f"event position must be >= 0, or None, got {position}")
    try:
        return _EVENT_STRUCT.pack(
            event.event_id, event.request_id, event.user_id, event.post_id, event.event_time, event.ingest_time,
            value, position, ACTIONS.index(event.kind),
        )  # fmt: skip
    except (struct.error, OverflowError) as error:
        raise RequestError(f"event {event.event_id} has a number out of range: {error}") from None


def encode_returned(record: Returned) -> bytes:
    head = orjson.dumps(
        {
            "request_id": record.request_id, "user_id": record.user_id, "now": record.now,
            "release": record.release, "policy": record.policy, "watermark": record.watermark,
            "user_watermark": record.user_watermark,
            "k": len(record.post_id), "f": record.features.shape[1], "c": len(record.candidates),
        }
    )  # fmt: skip
    blobs = [np.ascontiguousarray(getattr(record, name), kind).tobytes() for name, kind in _BLOBS]
    features = np.ascontiguousarray(record.features, "<f4").tobytes()
    candidates = np.ascontiguousarray(record.candidates, "<i8").tobytes()
    return b"".join([len(head).to_bytes(4, "little"), head, *blobs, features, candidates])


def decode(entries: Sequence[Entry]) -> Decoded:
    """Decode records into columns."""
    packed: list[Entry] = []
    returned: list[Returned] = []
    returned_stream_id: list[str] = []
    bad: list[tuple[Entry, str]] = []
    for entry in entries:
        if entry.kind == EVENT and len(entry.payload) == EVENT_TYPE.itemsize:
            packed.append(entry)
        elif entry.kind == EVENT:
            bad.append((entry, f"an event must have {EVENT_TYPE.itemsize} bytes, found {len(entry.payload)}"))
        elif entry.kind == RETURNED:
            try:
                returned.append(_decode_returned(entry.payload))
                returned_stream_id.append(entry.id)
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
                bad.append((entry, f"not a returned record: {type(error).__name__}: {error}"))
        else:
            bad.append((entry, f"kind must be e or r, found {entry.kind[:20]!r}"))
    events = np.frombuffer(b"".join([entry.payload for entry in packed]), EVENT_TYPE)
    good = np.ones(len(events), bool)
    for name, allowed in _allowed(events):
        value = events[name]
        bad += [(packed[at], f"{name} {value[at]} is out of range") for at in np.flatnonzero(good & ~allowed)]
        good &= allowed
    event_stream_id = [packed[place].id for place in np.flatnonzero(good)]
    return Decoded(events[good], event_stream_id, returned, returned_stream_id, bad)


def _allowed(events: np.ndarray) -> list[tuple[str, Mask]]:
    """For each column with a rule, which events obey it: the rules of `encode_event` and the lake's tables."""
    times = [(name, (events[name] >= 0) & (events[name] <= LATEST)) for name in ("event_time", "ingest_time")]
    value = events["value"]
    return [
        ("action", events["action"] < len(ACTIONS)),
        *times,
        ("value", np.isnan(value) | ((value >= 0) & (value < np.inf))),
        ("position", events["position"] >= -1),
    ]


def _decode_returned(payload: bytes) -> Returned:
    """Raises: ValueError, TypeError or KeyError when the payload is not a returned record."""
    end = 4 + int.from_bytes(payload[:4], "little")
    head: Any = orjson.loads(payload[4:end])
    if not isinstance(head, dict):
        raise ValueError(f"its head must be an object, found {repr(head)[:100]}")
    k, f, c = (_integer(name, head.pop(name), 0, _MAX_ITEMS) for name in ("k", "f", "c"))
    for name in ("request_id", "user_id"):
        _integer(name, head[name], _MIN_ID, _MAX_ID)
    _integer("now", head["now"], 0, LATEST)
    for name in ("release", "policy", "watermark", "user_watermark"):
        if not isinstance(head[name], str):
            raise ValueError(f"{name} must be text, found {repr(head[name])[:100]}")
    columns: dict[str, Any] = {}
    sizes = [*((name, kind, k) for name, kind in _BLOBS), ("features", "<f4", k * f), ("candidates", "<i8", c)]
    for name, kind, count in sizes:
        columns[name] = np.frombuffer(payload, kind, count, end)
        end += columns[name].nbytes
    if end != len(payload):
        raise ValueError(f"{len(payload) - end} bytes are left over")
    position = columns["position"]
    if k and not 0 <= position.min() <= position.max() <= _MAX_POSITION:
        raise ValueError(f"positions must be from 0 to {_MAX_POSITION}, found {position.tolist()[:20]}")
    columns["features"] = columns["features"].reshape(k, f)
    return Returned(**head, **columns)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, found {repr(value)[:100]}")
    return value
