"""Counted events: impressions and actions as one stream in the order in which they became readable.

Takes the lake and a catalogue, gives arrays. Also reads the log rows that `exposures` needs: each event once, by its
event id. It does not know which impression earned which click.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config import OfflineConfig
from recsys.hashing import GOLDEN_GAMMA, mix64
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.offline.logs.visibility import Arrivals, order_by_arrival
from recsys.types import Ids, Mask, Rows, Times

ACTIONS = ("impression", *ACTION_TYPES)
"""Names of counted events by code: impression is 0, the actions follow in the schema's order."""

CLICK = ACTIONS.index("click")

ExcludeEvents = Callable[[Ids, Times], Mask]
"""From the users and times of M events to the events to skip; all (M,)."""


@dataclass(frozen=True)
class Events:
    """Counted events in the order in which they became readable (`visibility`); every array is (M,)."""

    ingest_time: Times
    """When the event became readable, microseconds, ascending."""
    time: Times
    """min(event_time, ingest_time), microseconds: the event's count decays from here."""
    action: Rows
    """Code in `ACTIONS`."""
    user_row: Rows
    post_row: Rows

    def __len__(self) -> int:
        return len(self.ingest_time)


@dataclass(frozen=True)
class LogRows:
    """Impressions and actions as the lake has them, each event id once."""

    impressions: pa.Table
    actions: pa.Table
    action: Rows
    """Code in `ACTIONS` of each row of `actions`."""

    @property
    def n_clicks(self) -> int:
        return int((self.action == CLICK).sum())

    def clicks(self) -> pa.Table:
        """The rows of `actions` that are clicks."""
        return self.actions.filter(pa.array(self.action == CLICK))


def mentioned_ids(lake: Lake) -> tuple[Ids, Ids]:
    """Post ids found in logs, and user ids found in logs, follows and blocks; ascending, without repeats.

    A user who only blocked somebody is included: without a row in the catalogue the block would be lost.
    """
    posts, users = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for table in ("returned", "impressions", "actions"):
        rows = lake.read(table, ["post_id", "user_id"])
        posts.append(np.unique(rows["post_id"].to_numpy()))
        users.append(np.unique(rows["user_id"].to_numpy()))
    for table in ("follows", "blocks"):
        users.append(np.unique(lake.read(table, ["user_id"])["user_id"].to_numpy()))
    return np.unique(np.concatenate(posts)), np.unique(np.concatenate(users))


def read_events(lake: Lake, catalogue: Catalogue, config: OfflineConfig) -> tuple[Events, Arrivals]:
    """Read the counted events, and the `Arrivals` that say how many of them a request saw."""
    return order_events(lake, catalogue, read_rows(lake, config))


def read_rows(lake: Lake, config: OfflineConfig, exclude: ExcludeEvents | None = None) -> LogRows:
    """Read impressions and actions, each event id once.

    With `offline.impressions` set to `implied`, every returned post is an impression and the table is not read.

    Args:
        exclude: chooses events to skip although the lake still holds them.
    """
    impressions = lake.read("impressions") if config.impressions == "explicit" else _returned_as_impressions(lake)
    tables = [_drop_repeats(table) for table in (impressions, lake.read("actions"))]
    if exclude is not None:
        tables = [_drop_excluded(table, exclude) for table in tables]
    impressions, actions = tables
    place = pc.index_in(actions["type"], value_set=pa.array(ACTION_TYPES)).to_numpy()
    return LogRows(impressions, actions, place.astype(np.int32) + 1)  # code 0 is the impression


def order_events(lake: Lake, catalogue: Catalogue, rows: LogRows) -> tuple[Events, Arrivals]:
    """Merge impressions and actions into one stream, ordered by arrival."""

    def column(name: str) -> Ids:
        return np.concatenate([table[name].cast(pa.int64()).to_numpy() for table in (rows.impressions, rows.actions)])

    ingest_time = column("ingest_time")  # (M,), impressions first, as every column here
    position = np.concatenate(
        [table["stream_position"].fill_null(-1).to_numpy() for table in (rows.impressions, rows.actions)]
    )
    is_world = lake.info().get("origin") == "world"
    order, arrivals = order_by_arrival(ingest_time, position, column("event_id"), preloaded=is_world)
    events = Events(
        ingest_time=arrivals.time,
        time=np.minimum(column("event_time"), ingest_time)[order],
        action=np.concatenate([np.zeros(len(rows.impressions), np.int32), rows.action])[order],
        user_row=catalogue.user_rows(column("user_id"))[order],
        post_row=catalogue.post_rows(column("post_id"))[order],
    )
    return events, arrivals


def _returned_as_impressions(lake: Lake) -> pa.Table:
    """The rows of `returned` in the columns of `impressions`; a hash of request and post is the event id."""
    returned = lake.read("returned", ["request_id", "user_id", "post_id", "position", "now", "stream_position"])
    columns = {name: returned[name] for name in ("request_id", "user_id", "post_id", "position", "stream_position")}
    event_id = pa.array(_hash_pairs(returned["request_id"].to_numpy(), returned["post_id"].to_numpy()))
    return pa.table({"event_id": event_id, **columns, "event_time": returned["now"], "ingest_time": returned["now"]})


def _hash_pairs(a: Ids, b: Ids) -> Ids:
    """An int64 per pair, (N,): splitmix64 of both numbers."""
    pair: Ids = mix64(a.astype(np.uint64) * GOLDEN_GAMMA + b.astype(np.uint64)).view(np.int64)
    return pair


def _drop_repeats(rows: pa.Table) -> pa.Table:
    """Keep one row per event id: the first on the stream or, if none was streamed, the first to arrive."""
    ids, arrived = rows["event_id"].to_numpy(), rows["ingest_time"].cast(pa.int64()).to_numpy()
    position = rows["stream_position"].fill_null(np.iinfo(np.int64).max).to_numpy()
    order = np.lexsort((arrived, position, ids))
    repeated = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
    if not len(repeated):
        return rows
    keep = np.ones(len(rows), bool)
    keep[order[repeated]] = False
    return rows.filter(pa.array(keep))


def _drop_excluded(rows: pa.Table, exclude: ExcludeEvents) -> pa.Table:
    times = [rows[name].cast(pa.int64()).to_numpy() for name in ("event_time", "ingest_time")]
    return rows.filter(pa.array(~exclude(rows["user_id"].to_numpy(), np.minimum(*times))))
