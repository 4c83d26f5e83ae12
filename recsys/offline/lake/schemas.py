"""The tables of the lake: Arrow schemas, and the rules that rows must meet.

Gives `TABLES`. It does not know where tables are stored or who writes them.

Three facts about a post in a feed are three tables: `returned` (the server sent it), `impressions` (the client reports
that it was on screen), `actions` (what the user did). A `request_id` joins them; `requests` has one row per request.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

SCHEMA_VERSION = "3"
"""2 added `ids`, `posts.labels` and `requests.session_id`, and allows null in `posts.author_id`. 3 added
`stream_position` and `requests.user_watermark`.

A version only adds tables and nullable columns; a column never changes its type or meaning. So every program reads
every version, newer ones too: missing columns read as null, unknown columns are ignored.
"""

ACTION_TYPES = ("click", "like", "share", "hide", "dwell")
MEDIA_TYPES = ("text", "image", "video", "link")
POST_LABELS = ("spam", "violation")
"""Labels that moderation may put on a post."""

TIME = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_STREAM_POSITION = pa.field("stream_position", pa.int64())
"""Position of a streamed row on the event stream (`stream_position.to_number`); null for other rows."""


@dataclass(frozen=True)
class Range:
    """Finite numbers within bounds."""

    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        bounds = (("above", self.above), ("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)


@dataclass(frozen=True)
class TableSpec:
    """One table: its schema, and the values that some columns allow beside null.

    Every time must be from 1970 on and, unless the logs are a world's, not in the future.
    """

    schema: pa.Schema
    enums: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)

    @property
    def required(self) -> list[str]:
        return [column.name for column in self.schema if not column.nullable]

    @property
    def times(self) -> list[str]:
        return [column.name for column in self.schema if pa.types.is_timestamp(column.type)]


def _table(
    *columns: pa.Field, enums: dict[str, tuple[str, ...]] | None = None, ranges: dict[str, Range] | None = None
) -> TableSpec:
    return TableSpec(pa.schema(columns, metadata={"recsys.schema": SCHEMA_VERSION}), enums or {}, ranges or {})


TABLES: dict[str, TableSpec] = {
    "users": _table(
        _required("user_id", pa.int64()),
        pa.field("language", pa.string()),
        pa.field("country", pa.string()),
        _required("created_at", TIME),
    ),
    "posts": _table(
        _required("post_id", pa.int64()),
        pa.field("author_id", pa.int64()),
        pa.field("topic", pa.string()),
        pa.field("language", pa.string()),
        pa.field("media", pa.string()),
        pa.field("text", pa.string()),
        _required("created_at", TIME),
        pa.field("duplicate_group", pa.int64()),
        _required("visible", pa.bool_()),
        pa.field("labels", pa.list_(pa.string())),
        enums={"media": MEDIA_TYPES},
    ),
    "ids": _table(
        _required("kind", pa.string()),
        _required("id", pa.int64()),
        _required("name", pa.string()),
        enums={"kind": ("user", "post")},
    ),
    "follows": _table(
        _required("user_id", pa.int64()), _required("author_id", pa.int64()), _required("created_at", TIME)
    ),
    "blocks": _table(
        _required("user_id", pa.int64()), _required("author_id", pa.int64()), _required("created_at", TIME)
    ),
    "requests": _table(
        _required("request_id", pa.int64()),
        _required("user_id", pa.int64()),
        _required("now", TIME),
        pa.field("policy", pa.string()),
        pa.field("release", pa.string()),
        pa.field("watermark", pa.string()),
        pa.field("candidates", pa.list_(pa.int64())),
        pa.field("session_id", pa.int64()),
        pa.field("user_watermark", pa.string()),
    ),
    "returned": _table(
        _required("request_id", pa.int64()),
        _required("user_id", pa.int64()),
        _required("post_id", pa.int64()),
        _required("position", pa.int16()),
        _required("now", TIME),
        pa.field("propensity", pa.float32()),
        pa.field("sources", pa.uint16()),
        pa.field("score", pa.float32()),
        pa.field("features", pa.list_(pa.float32())),
        _STREAM_POSITION,
        ranges={"position": Range(at_least=0), "propensity": Range(above=0, at_most=1)},
    ),
    "impressions": _table(
        _required("event_id", pa.int64()),
        _required("request_id", pa.int64()),
        _required("user_id", pa.int64()),
        _required("post_id", pa.int64()),
        pa.field("position", pa.int16()),
        _required("event_time", TIME),
        _required("ingest_time", TIME),
        _STREAM_POSITION,
        ranges={"position": Range(at_least=0)},
    ),
    "actions": _table(
        _required("event_id", pa.int64()),
        _required("request_id", pa.int64()),
        _required("user_id", pa.int64()),
        _required("post_id", pa.int64()),
        _required("type", pa.string()),
        pa.field("value", pa.float32()),
        _required("event_time", TIME),
        _required("ingest_time", TIME),
        _STREAM_POSITION,
        enums={"type": ACTION_TYPES},
        ranges={"value": Range(at_least=0)},
    ),
}
