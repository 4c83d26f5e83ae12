"""Turn records of the stream into rows of the lake's tables, file by file.

Takes decoded records and tombstones, gives Arrow tables with the columns of `offline.lake.schemas`. This module does
not know where files are written, nor how far the lake reaches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.offline.logs.events import ACTIONS
from recsys.offline.logs.stream_position import to_numbers
from recsys.online.stream.records import Decoded, Returned
from recsys.online.tombstones import Erased
from recsys.types import DAY, Ids, Times


def tables_by_date(decoded: Decoded) -> Iterator[tuple[str, str, pa.Table]]:
    """Table, date and rows of every file. Unreadable records are left out; the online sink reports them."""
    events = decoded.events
    shown = events["action"] == ACTIONS.index("impression")
    position = pa.array(events["position"], mask=events["position"] < 0)
    columns: dict[str, Any] = {name: events[name] for name in ("event_id", "request_id", "user_id", "post_id")}
    columns |= {name: _times(events[name]) for name in ("event_time", "ingest_time")}
    columns["stream_position"] = to_numbers(decoded.event_stream_id)
    both = pa.table(
        {
            **columns,
            "position": position,
            "value": pa.array(events["value"], mask=np.isnan(events["value"])),
            "type": pa.array(ACTIONS).take(pa.array(events["action"].astype(np.int32))),
        }
    )
    for table, some, absent in (("impressions", shown, ["value", "type"]), ("actions", ~shown, ["position"])):
        rows = both.drop_columns(absent).filter(pa.array(some))
        yield from _by_date(table, rows, events["ingest_time"][some])
    if decoded.returned:
        now = np.array([record.now for record in decoded.returned])
        yield from _by_date("requests", _requests(decoded.returned, now), now)
        sent, of_item = _returned(decoded.returned, to_numbers(decoded.returned_stream_id), now)
        yield from _by_date("returned", sent, of_item)


def without_erased(decoded: Decoded, erased: Erased) -> Decoded:
    """The records without those of erased people."""
    events = decoded.events
    keep = ~erased.covers(events["user_id"], np.minimum(events["event_time"], events["ingest_time"]))
    people = np.array([record.user_id for record in decoded.returned], np.int64)
    now = np.array([record.now for record in decoded.returned], np.int64)
    kept = np.flatnonzero(~erased.covers(people, now))
    return Decoded(
        events[keep],
        [decoded.event_stream_id[place] for place in np.flatnonzero(keep)],
        [decoded.returned[place] for place in kept],
        [decoded.returned_stream_id[place] for place in kept],
        decoded.bad,
    )


def _by_date(table: str, rows: pa.Table, time: Times) -> Iterator[tuple[str, str, pa.Table]]:
    day = time // DAY
    for number in np.unique(day):
        yield table, str(np.datetime64(int(number), "D")), rows.filter(pa.array(day == number))


def _requests(returned: Sequence[Returned], now: Times) -> pa.Table:
    return pa.table(
        {
            "request_id": [record.request_id for record in returned],
            "user_id": [record.user_id for record in returned],
            "now": _times(now),
            "policy": [record.policy for record in returned],
            "release": [record.release for record in returned],
            "watermark": [record.watermark for record in returned],
            "user_watermark": [record.user_watermark for record in returned],
            "candidates": _lists([record.candidates for record in returned], np.int64),
        }
    )


def _returned(returned: Sequence[Returned], stream_position: Ids, now: Times) -> tuple[pa.Table, Times]:
    items = [len(record.post_id) for record in returned]
    of_item = np.repeat(now, items)
    columns = {
        name: np.concatenate([getattr(record, name) for record in returned])
        for name in ("post_id", "position", "propensity", "sources", "score")
    }
    table = {
        "request_id": np.repeat([record.request_id for record in returned], items),
        "user_id": np.repeat([record.user_id for record in returned], items),
        "now": _times(of_item),
        "features": _lists([row for record in returned for row in record.features], np.float32),
        "stream_position": np.repeat(stream_position, items),
        **columns,
    }
    return pa.table(table), of_item


def _lists(rows: Sequence[np.ndarray], kind: type[np.generic]) -> pa.Array:
    ends = np.cumsum([0, *map(len, rows)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.concatenate([np.empty(0, kind), *rows])))


def _times(time: Times) -> pa.Array:
    return pa.array(time).cast(pa.timestamp("us", tz="UTC"))
