"""Write log rows into a lake and read them back as exposures and events."""

import pytest

from recsys.config import OfflineConfig
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.logs.events import mentioned_ids
from recsys.offline.logs.exposures import read_logs
from recsys.types import SECOND

MINUTE = 60 * SECOND
T = 1_767_571_200 * SECOND
WINDOW = 30 * MINUTE


@pytest.fixture
def log(put):
    """`log(table, row, ...)` writes rows, each a dict; times count from T, the user is 1, events arrive at once."""
    files = iter(range(100))

    def write(table, *rows):
        default = {"user_id": 1, "event_time": 0, "created_at": 0, "now": 0, "author_id": 1, "visible": True}
        rows = [{**default, "ingest_time": row.get("event_time", 0), **row} for row in rows]
        wanted = {
            "impressions": (
                "event_id", "request_id", "user_id", "post_id", "position", "event_time", "ingest_time",
                "stream_position",
            ),
            "actions": (
                "event_id", "request_id", "user_id", "post_id", "type", "event_time", "ingest_time", "stream_position",
            ),
            "requests": ("request_id", "user_id", "now", "policy", "watermark", "user_watermark"),
            "returned": ("request_id", "user_id", "post_id", "position", "now", "propensity"),
        }[table]  # fmt: skip
        times = ("event_time", "ingest_time", "now")
        columns = {name: [row.get(name, 0) + T if name in times else row.get(name) for row in rows] for name in wanted}
        put(table, name=f"{next(files)}", **columns)

    return write


def read(lake, mentioned=None, **settings):
    catalogue = build_catalogue(lake, *(mentioned or mentioned_ids(lake)))
    return catalogue, read_logs(lake, catalogue, OfflineConfig(**settings))


def impression(event_id, request_id, post_id, at=0, position=0, **more):
    return {"event_id": event_id, "request_id": request_id, "post_id": post_id, "event_time": at} | {
        "position": position,
        **more,
    }


def action(event_id, request_id, post_id, at, kind="click", **more):
    return {"event_id": event_id, "request_id": request_id, "post_id": post_id, "type": kind, "event_time": at, **more}
