"""The wire format: JSON bodies of feeds and of event batches.

Turns a `Slate` into a response body, and a request body into events. Each event is accepted or rejected on its own.
Ids are strings for clients and int64 inside (`offline.catalogue.ids`). It does not know HTTP, Redis or how a slate is
made.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, Literal, Self, get_args

import numpy as np
import orjson
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from recsys.errors import RequestError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.catalogue.ids import to_int64
from recsys.types import SECOND, Ids, Rows, Slate, Source

MAX_EVENTS = 1000
"""Most events in one batch."""
MAX_BODY_BYTES = 4 * 2**20
MAX_FUTURE_S = 300
"""Seconds an event may lie ahead of the server's clock, because clients' clocks are not exact."""
EARLIEST = 946_684_800 * SECOND
"""The year 2000 in microseconds. Smaller integers are rejected as times in seconds or milliseconds."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)

EventType = Literal["impression", "click", "like", "share", "hide", "dwell"]


class FeedItem(BaseModel):
    """One post of a feed."""

    model_config = ConfigDict(extra="forbid")

    post_id: str
    position: int
    """0-based within the page."""
    score: float | None
    """The ranker's value of the post."""
    probabilities: dict[str, float]
    """Calibrated P(action), by action."""
    sources: list[str]
    """Retrieval sources that found the post."""
    author_id: str | None
    topic: str | None
    text: str
    created_at: str | None
    """ISO-8601, UTC; null when the post is known only from events."""
    labels: list[str]
    """Moderation labels, such as `spam`."""
    propensity: float
    """P(this post here | earlier positions, recorded candidates), in (0, 1]."""


class Feed(BaseModel):
    """The response of `GET /v1/feed`."""

    model_config = ConfigDict(extra="forbid")

    request_id: str
    user_id: str
    release: str
    degraded: list[str]
    """Names of the parts that were left out; empty for a complete feed."""
    items: list[FeedItem]
    cursor: str
    """Send it to get the next page."""


def _parse_id(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError(f"must be a string, got {_shorten(value)}")
    try:
        return to_int64(value)
    except RequestError as error:
        raise ValueError(f"is not an id: {error}") from None


def _parse_microseconds(value: Any) -> int:
    rule = "must be ISO-8601 with a timezone, or integer microseconds since 1970 UTC"
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{rule}, got {_shorten(value)}") from None
        if moment.tzinfo is None:
            raise ValueError(f"{rule}, got {_shorten(value)} without a timezone")
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        microseconds = (since.days * 86_400 + since.seconds) * SECOND + since.microseconds
    elif isinstance(value, int) and not isinstance(value, bool):
        microseconds = value
    else:
        raise ValueError(f"{rule}, got {_shorten(value)}")
    if microseconds < EARLIEST:
        raise ValueError(f"must be later than the year 2000 ({rule.removeprefix('must be ')}), got {_shorten(value)}")
    return microseconds


def _parse_number(value: Any) -> float | None:
    # Values are stored as float32, where a larger number would become infinity.
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > _FLOAT32_MAX:
        raise ValueError(f"must be a finite number or null, got {_shorten(value)}")
    return float(value)


_Id = Annotated[int, BeforeValidator(_parse_id)]


class EventIn(BaseModel):
    """One validated event of a client, with ids as int64. Unknown keys are ignored."""

    model_config = ConfigDict(frozen=True)

    event_id: _Id
    """Chosen by the client. Events with the same id count once."""
    request_id: _Id
    """Request id of the feed that returned the post."""
    user_id: _Id
    post_id: _Id
    type: EventType
    value: Annotated[float | None, BeforeValidator(_parse_number)] = None
    """Seconds for `dwell`; any number for other types."""
    event_time: Annotated[int, BeforeValidator(_parse_microseconds)]
    """Microseconds."""
    position: Annotated[int, Field(strict=True, ge=0, le=32_767)] | None = None
    """Position of the post in the feed, 0-based; optional."""

    @model_validator(mode="after")
    def _dwell_has_seconds(self) -> Self:
        if self.type == "dwell" and (self.value is None or self.value < 0):
            raise ValueError(f"value must be the seconds of the dwell, >= 0, got {orjson.dumps(self.value).decode()}")
        return self


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rejected event of a batch."""

    index: int
    """Index in the batch, 0-based."""
    reason: str


def parse_events(body: bytes, now: int, wall: int | None = None) -> tuple[list[EventIn], list[Rejected]]:
    """Parse a batch into accepted and rejected events.

    Args:
        body: JSON, `{"events": [...]}` or the bare list.
        now: current time in microseconds; events more than `MAX_FUTURE_S` later are rejected.
        wall: the wall clock in microseconds when `now` is simulated time, else None. Clients may report wall times:
            an event time that is nearer to `wall` than to `now` is shifted by `now - wall`.
    Raises: RequestError when the body is not such JSON or holds more than `MAX_EVENTS` events.
    """
    try:
        batch = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"body must be JSON, got {_shorten(body.decode(errors='replace'))}: {error}") from None
    items = batch.get("events") if isinstance(batch, dict) else batch
    if not isinstance(items, list):
        raise RequestError('body must be a list of events or {"events": [...]}, got ' + _shorten(batch))
    if len(items) > MAX_EVENTS:
        raise RequestError(f"a batch must hold at most {MAX_EVENTS} events, got {len(items)}; send several batches")
    events: list[EventIn] = []
    rejected: list[Rejected] = []
    for index, item in enumerate(items):
        try:
            event = EventIn.model_validate(item)
        except ValidationError as error:
            rejected.append(Rejected(index, _rejection_reason(item, error)))
            continue
        if wall is not None and abs(event.event_time - wall) < abs(event.event_time - now):
            event = event.model_copy(update={"event_time": event.event_time - wall + now})
        if (ahead := (event.event_time - now) // SECOND) >= MAX_FUTURE_S:
            rejected.append(Rejected(index, f"event_time must not be over {MAX_FUTURE_S} s ahead, got {ahead} s ahead"))
        else:
            events.append(event)
    return events, rejected


def feed_body(slate: Slate, catalogue: Catalogue, user_id: str, release: str, cursor: str) -> dict[str, Any]:
    """The body of a feed, in the form of `Feed`. Numbers stay float32, so that orjson writes them with few digits.

    Args:
        user_id: user id as the client wrote it. It is replaced by the catalogue's name of the user if there is one.
    """
    candidates = slate.candidates
    rows = candidates.post_row
    user_row = np.array([slate.context.user_row])
    # Gather whole columns: reading them post by post takes ten times as long.
    columns = zip(
        _public_ids(catalogue.post_id, catalogue.post_name, rows),
        candidates.sources.tolist(),
        _public_ids(catalogue.author_id, catalogue.author_name, catalogue.author[rows]),
        [catalogue.topics[topic] if topic >= 0 else None for topic in catalogue.topic[rows].tolist()],
        catalogue.texts.take(rows).to_pylist(),
        catalogue.created_at[rows].tolist(),
        catalogue.labels.take(rows).to_pylist(),
        strict=True,
    )
    items = [
        {
            "post_id": post_id,
            "position": position,
            "score": None if candidates.score is None else candidates.score[position],
            "probabilities": {} if candidates.probability is None else {"click": candidates.probability[position]},
            "sources": _source_names(sources),
            "author_id": author,
            "topic": topic,
            "text": text,
            "created_at": datetime.fromtimestamp(created_at / SECOND, UTC).isoformat() if created_at else None,
            "labels": labels or [],
            "propensity": slate.propensity[position],
        }
        for position, (post_id, sources, author, topic, text, created_at, labels) in enumerate(columns)
    ]
    return {
        "request_id": str(slate.context.request.request_id),
        "user_id": _names_of(catalogue.user_name, user_row)[0] or user_id,
        "release": release,
        "degraded": list(slate.degraded),
        "items": items,
        "cursor": cursor,
    }


def _public_ids(ids: Ids, names: pa.Array, rows: Rows) -> list[str | None]:
    """Ids as clients know them: the name if there is one, else the number; None for row -1."""
    named = zip(rows.tolist(), _names_of(names, rows), strict=True)
    return [None if row < 0 else str(ids[row]) if name is None else name for row, name in named]


def _names_of(names: pa.Array, rows: Rows) -> list[str | None]:
    found: list[str | None] = names.take(pa.array(rows, mask=rows < 0)).to_pylist()
    return found


def encode(body: Any) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


@cache
def _source_names(bits: int) -> list[str]:
    return Source.names(bits)


def _rejection_reason(item: Any, error: ValidationError) -> str:
    """The first validation error, as a sentence."""
    if not isinstance(item, dict):
        return f"an event must be a JSON object, got {_shorten(item)}"
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{name} is missing"
    if first["type"] == "literal_error":
        return f"{name} must be one of {', '.join(get_args(EventType))}, got {_shorten(first['input'])}"
    rule = first["msg"].removeprefix("Value error, ")
    value = f", got {_shorten(first['input'])}" if rule.startswith("Input should") else ""
    return f"{name} {rule.replace('Input should be', 'must be', 1)}{value}".strip()


def _shorten(value: Any) -> str:
    """The first characters of a value as JSON, for error messages."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # orjson can read deeper nesting than it can write
        text = "something deeply nested"
    return text if len(text) <= 60 else text[:60] + "…"
