"""Events of the lake as arrays: exposures with their labels, and the one time-ordered stream of counted events.

Takes the lake and a catalogue. An exposure is an impression or, when `offline.impressions` is `implied`, everything
the server returned; never both. Its labels are the actions of the same user in the same request on the same post that
follow within the label window. Rows delivered twice (same event id) count once. It does not know what features or
models do with them.

Logs with fewer impressions than clicks do not say what was not clicked. There the clicks are exposures, and beside each
stand posts drawn at random (`sampling`); nobody saw those, so they are no events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config import OfflineConfig
from recsys.errors import DataError
from recsys.hashing import GOLDEN_GAMMA, mix64
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.offline.logs.negatives import draw_negatives
from recsys.offline.logs.stream_position import to_number
from recsys.offline.logs.visibility import UNKNOWN, Arrivals, in_order_of_arrival
from recsys.types import SECOND, Floats, Ids, Mask, Rows, Times

ACTIONS = ("impression", *ACTION_TYPES)
"""Counted events by code: an impression is 0, the actions follow in the schema's order."""

CLICK = ACTIONS.index("click")

Negatives = Literal["shown", "sampled"]
"""Where unclicked exposures come from: what users saw, or posts drawn at random."""

LeftOut = Callable[[Ids, Times], Mask]
"""Of users (M,) and the moments of their events (M,): which are to be left out."""

SAMPLED_POLICY = "sampled"
"""Policy of exposures that were made up."""


@dataclass(frozen=True)
class Exposures:
    """What was shown, in order of request time, with what came of it; every array has length E."""

    request_id: Ids
    user_row: Rows
    post_row: Rows
    position: Rows
    """0-based place in the slate; -1 unknown."""
    now: Times
    """When the request was answered, microseconds: counts are decayed to it."""
    seen: Ids
    """How many of `Logs.events`, from the first on, the request's counters held; see `arrival`."""
    history_seen: Ids
    """As `seen`, for the user's click history, which a server reads a moment before the counters."""
    shown_at: Times
    """When the post came on screen, microseconds: its label window begins. Without impressions it is `now`."""
    policy: Rows
    """Row in `Logs.policies`, -1 unknown."""
    propensity: Floats
    """NaN unknown."""
    click: Mask

    def __len__(self) -> int:
        return len(self.request_id)

    def take(self, rows: np.ndarray) -> Self:
        """The exposures of a mask or of these places."""
        return type(self)(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


@dataclass(frozen=True)
class Events:
    """Counted events in the order in which they became readable (`arrival`); every array has length M."""

    ingest_time: Times
    """Moment at which each could be read, microseconds, ascending."""
    time: Times
    """min(event_time, ingest_time): the moment that decays count from."""
    action: Rows
    """Code in `ACTIONS`."""
    user_row: Rows
    post_row: Rows

    def __len__(self) -> int:
        return len(self.ingest_time)


@dataclass(frozen=True)
class Logs:
    """Everything the lake says happened, numbered by the catalogue."""

    exposures: Exposures
    events: Events
    policies: tuple[str, ...]
    negatives: Negatives = "shown"


def mentioned_ids(lake: Lake) -> tuple[Ids, Ids]:
    """Post ids that occur in logs and user ids that occur in logs, follows or blocks, ascending without repeats.

    A user who only ever blocked somebody needs a row too: without one the block would be forgotten.
    """
    posts, users = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for table in ("returned", "impressions", "actions"):
        rows = lake.read(table, ["post_id", "user_id"])
        posts.append(np.unique(rows["post_id"].to_numpy()))
        users.append(np.unique(rows["user_id"].to_numpy()))
    for table in ("follows", "blocks"):
        users.append(np.unique(lake.read(table, ["user_id"])["user_id"].to_numpy()))
    return np.unique(np.concatenate(posts)), np.unique(np.concatenate(users))


def read_logs(
    lake: Lake,
    catalogue: Catalogue,
    config: OfflineConfig,
    negatives: Negatives | None = None,
    left_out: LeftOut | None = None,
) -> Logs:
    """Exposures with labels and the counted events. Posts and users the catalogue does not know have row -1.

    Args:
        negatives: where unclicked exposures come from; None takes what was shown, unless clicks are more than that.
        left_out: events not to read although the lake still holds them.
    Raises: DataError when the lake holds neither an exposure nor a click.
    """
    impressions, actions, kind = _read(lake, config, left_out)
    # A lake of clicks that has been served from for a while holds a few impressions; they are not what it is about.
    negatives = negatives or ("shown" if len(impressions) >= int((kind == CLICK).sum()) else "sampled")
    events, arrivals = _events(lake, catalogue, impressions, actions, kind)
    if negatives == "shown":
        exposures, policies = _exposures(lake, catalogue, config, impressions, actions, kind, arrivals)
    else:
        clicks = actions.filter(pa.array(kind == CLICK))
        exposures, policies = _sampled(lake, catalogue, config, impressions, clicks, arrivals), (SAMPLED_POLICY,)
    if not len(exposures):
        raise DataError(
            f"no impressions and no clicks in {lake.url}; run `recsys simulate` to make a world, or import logs"
        )
    return Logs(exposures, events, policies, negatives)


def read_events(lake: Lake, catalogue: Catalogue, config: OfflineConfig) -> tuple[Events, Arrivals]:
    """The counted events alone, and what tells how many of them a request saw."""
    return _events(lake, catalogue, *_read(lake, config))


def _read(
    lake: Lake, config: OfflineConfig, left_out: LeftOut | None = None
) -> tuple[pa.Table, pa.Table, Rows]:  # fmt: skip
    """Impressions, actions, and each action's code; every event once."""
    impressions, actions = (_once(rows) for rows in (_shown(lake, config), lake.read("actions")))
    if left_out is not None:
        impressions, actions = (_without(rows, left_out) for rows in (impressions, actions))
    kind = pc.index_in(actions["type"], value_set=pa.array(ACTION_TYPES)).to_numpy().astype(np.int32) + 1
    return impressions, actions, kind


def _without(rows: pa.Table, left_out: LeftOut) -> pa.Table:
    times = [rows[name].cast(pa.int64()).to_numpy() for name in ("event_time", "ingest_time")]
    return rows.filter(pa.array(~left_out(rows["user_id"].to_numpy(), np.minimum(*times))))


def _shown(lake: Lake, config: OfflineConfig) -> pa.Table:
    if config.impressions == "explicit":
        return lake.read("impressions")
    returned = lake.read("returned", ["request_id", "user_id", "post_id", "position", "now", "stream_position"])
    columns = {name: returned[name] for name in ("request_id", "user_id", "post_id", "position", "stream_position")}
    identity = pa.array(_pair_hash(returned["request_id"].to_numpy(), returned["post_id"].to_numpy()))
    return pa.table({"event_id": identity, **columns, "event_time": returned["now"], "ingest_time": returned["now"]})


def _pair_hash(a: Ids, b: Ids) -> Ids:
    """An int64 for each pair, the same for the same pair (splitmix64 of both)."""
    pair: Ids = mix64(a.astype(np.uint64) * GOLDEN_GAMMA + b.astype(np.uint64)).view(np.int64)
    return pair


def _once(rows: pa.Table) -> pa.Table:
    """Each event id once: the delivery that came first by the stream or, where none did, that arrived first."""
    ids, arrived = rows["event_id"].to_numpy(), rows["ingest_time"].cast(pa.int64()).to_numpy()
    position = rows["stream_position"].fill_null(np.iinfo(np.int64).max).to_numpy()
    order = np.lexsort((arrived, position, ids))
    repeated = np.flatnonzero(ids[order][1:] == ids[order][:-1]) + 1
    if not len(repeated):
        return rows
    keep = np.ones(len(rows), bool)
    keep[order[repeated]] = False
    return rows.filter(pa.array(keep))


def _exposures(
    lake: Lake, catalogue: Catalogue, config: OfflineConfig, impressions: pa.Table, actions: pa.Table, kind: Rows,
    arrivals: Arrivals,
) -> tuple[Exposures, tuple[str, ...]]:  # fmt: skip
    requests = lake.read("requests", ["request_id", "now", "policy", "watermark", "user_watermark"])
    returned = lake.read("returned", ["request_id", "user_id", "post_id", "position", "propensity"])
    known = np.unique(
        np.concatenate([table["request_id"].to_numpy() for table in (impressions, actions, requests, returned)])
    )
    request = np.searchsorted(known, impressions["request_id"].to_numpy())
    post_row = catalogue.post_rows(impressions["post_id"].to_numpy())
    clicks = actions.filter(pa.array(kind == CLICK))
    shown_key, returned_key, click_key = _join_keys([impressions, returned, clicks], known)
    shown_at = impressions["event_time"].cast(pa.int64()).to_numpy()

    answered, watermark, user_watermark = (np.full(len(known), unknown, np.int64) for unknown in (-1, UNKNOWN, UNKNOWN))
    policy_of = np.full(len(known), -1, np.int32)
    place = np.searchsorted(known, requests["request_id"].to_numpy())
    answered[place] = requests["now"].cast(pa.int64()).to_numpy()
    watermark[place] = watermarks(requests["watermark"])
    user_watermark[place] = watermarks(requests["user_watermark"])
    policy_names = requests["policy"].combine_chunks().dictionary_encode()
    policy_of[place] = policy_names.indices.fill_null(-1).to_numpy()
    # Of a request nobody logged only the arrival is certain: a client's own clock may say anything.
    arrived = impressions["ingest_time"].cast(pa.int64()).to_numpy()
    now = np.where(answered[request] >= 0, answered[request], arrived)

    propensity = np.full(len(impressions), np.nan, np.float32)
    position = impressions["position"].fill_null(-1).to_numpy().astype(np.int32)
    if len(returned_key):
        order = np.argsort(returned_key, kind="stable")
        found = np.minimum(np.searchsorted(returned_key[order], shown_key), len(order) - 1)
        match = returned_key[order[found]] == shown_key
        propensity[match] = returned["propensity"].to_numpy()[order[found[match]]]
        # A client need not repeat the position: the server knows what it returned where.
        unknown = match & (position < 0)
        position[unknown] = returned["position"].to_numpy()[order[found[unknown]]]

    clicked_at = clicks["event_time"].cast(pa.int64()).to_numpy()
    click = _followed_within(shown_key, shown_at, click_key, clicked_at, int(config.label_window_s * SECOND))
    order = np.lexsort((position, impressions["request_id"].to_numpy(), now))
    exposures = Exposures(
        request_id=impressions["request_id"].to_numpy(),
        user_row=catalogue.user_rows(impressions["user_id"].to_numpy()),
        post_row=post_row,
        position=position,
        now=now,
        seen=arrivals.seen(now, watermark[request]),
        history_seen=arrivals.seen(now, user_watermark[request]),
        shown_at=shown_at,
        policy=policy_of[request],
        propensity=propensity,
        click=click,
    ).take(order)
    return exposures, tuple(name for name in policy_names.dictionary.to_pylist() if name is not None)


def _sampled(
    lake: Lake, catalogue: Catalogue, config: OfflineConfig, impressions: pa.Table, clicks: pa.Table, arrivals: Arrivals
) -> Exposures:  # fmt: skip
    """Clicks as exposures, each with posts of its request that the user did not click."""
    requests = lake.read("requests", ["request_id", "now", "watermark", "user_watermark"])
    order = np.argsort(requests["request_id"].to_numpy(), kind="stable")
    place = lookup(requests["request_id"].to_numpy()[order], clicks["request_id"].to_numpy())
    answered = order[place[place >= 0]]
    now = _before_shown(impressions, clicks)
    now[place >= 0] = requests["now"].cast(pa.int64()).to_numpy()[answered]
    watermark, user_watermark = np.full(len(now), UNKNOWN), np.full(len(now), UNKNOWN)
    watermark[place >= 0] = watermarks(requests["watermark"])[answered]
    user_watermark[place >= 0] = watermarks(requests["user_watermark"])[answered]
    user_id = clicks["user_id"].to_numpy()
    post_row = catalogue.post_rows(clicks["post_id"].to_numpy())
    of_click, negative = draw_negatives(
        clicks["event_id"].to_numpy(), user_id, post_row, now,
        np.asarray(catalogue.created_at), np.asarray(catalogue.visible), config.sampled_negatives,
    )  # fmt: skip
    row = np.concatenate([np.arange(len(clicks)), of_click])
    unknown = np.full(len(row), -1, np.int32)
    request_id = clicks["request_id"].to_numpy()[row]
    exposures = Exposures(
        request_id=request_id,
        user_row=catalogue.user_rows(user_id)[row],
        post_row=np.concatenate([post_row, negative]),
        position=unknown,
        now=now[row],
        seen=arrivals.seen(now, watermark)[row],
        history_seen=arrivals.seen(now, user_watermark)[row],
        shown_at=clicks["event_time"].cast(pa.int64()).to_numpy()[row],
        policy=np.zeros(len(row), np.int32),
        propensity=np.full(len(row), np.nan, np.float32),
        click=np.arange(len(row)) < len(clicks),
    )
    return exposures.take(np.lexsort((request_id, exposures.now)))


def _before_shown(impressions: pa.Table, clicks: pa.Table) -> Times:
    """When each click arrived or, where it is earlier, its impression: having seen that would give the label away."""
    now: Times = clicks["ingest_time"].cast(pa.int64()).to_numpy().copy()
    if not len(impressions):
        return now
    known = np.unique(np.concatenate([table["request_id"].to_numpy() for table in (impressions, clicks)]))
    shown_key, click_key = _join_keys([impressions, clicks], known)
    arrived = impressions["ingest_time"].cast(pa.int64()).to_numpy()
    order = np.lexsort((arrived, shown_key))
    place = lookup(shown_key[order], click_key)
    return np.asarray(np.where(place >= 0, np.minimum(now, arrived[order][place]), now))


def _join_keys(tables: list[pa.Table], known_requests: Ids) -> list[Ids]:
    """A number for each row's (request, user, post), the same for the same three in every table.

    Outside logs may number the requests of each user by themselves: the request alone does not say whose it is.
    """
    users, posts = (
        np.unique(np.concatenate([np.unique(table[name].to_numpy()) for table in tables]))
        for name in ("user_id", "post_id")
    )
    requests = [
        np.searchsorted(known_requests, table["request_id"].to_numpy()) * np.int64(len(users))
        + np.searchsorted(users, table["user_id"].to_numpy())
        for table in tables
    ]
    known = np.unique(np.concatenate([np.unique(request) for request in requests]))
    return [
        np.searchsorted(known, request) * np.int64(len(posts)) + np.searchsorted(posts, table["post_id"].to_numpy())
        for table, request in zip(tables, requests, strict=True)
    ]


def _followed_within(key: Ids, shown_at: Times, action_key: Ids, action_at: Times, window: int) -> Mask:
    """Whether an action with the same key lies in [shown_at, shown_at + window]."""
    if not len(action_key):
        return np.zeros(len(key), bool)
    order = np.lexsort((action_at, action_key))
    sorted_key, sorted_at = action_key[order], action_at[order]
    # Each (key, time) pair is found by its place among the keys, then the first action not before the exposure.
    low = np.searchsorted(sorted_key, key, side="left")
    high = np.searchsorted(sorted_key, key, side="right")
    found = np.zeros(len(key), bool)
    rows = np.flatnonzero(high > low)
    place = low[rows]
    while len(rows):
        early = sorted_at[place] < shown_at[rows]
        found[rows[~early]] = sorted_at[place[~early]] <= shown_at[rows[~early]] + window
        place, rows = place[early] + 1, rows[early]
        more = place < high[rows]
        place, rows = place[more], rows[more]
    return found


def watermarks(column: pa.ChunkedArray) -> Ids:
    """Stream positions as numbers, each different one read once; `UNKNOWN` where null or of another kind of stream."""
    encoded = column.combine_chunks().dictionary_encode()
    numbers = np.array([*map(_watermark, encoded.dictionary.to_pylist()), UNKNOWN], np.int64)
    return np.asarray(numbers[encoded.indices.fill_null(-1).to_numpy()])


def _watermark(text: str) -> int:
    try:
        return to_number(text)
    except ValueError:
        return UNKNOWN


def _events(
    lake: Lake, catalogue: Catalogue, impressions: pa.Table, actions: pa.Table, kind: Rows
) -> tuple[Events, Arrivals]:  # fmt: skip
    def both(name: str) -> Ids:
        return np.concatenate([table[name].cast(pa.int64()).to_numpy() for table in (impressions, actions)])

    ingest_time = both("ingest_time")
    position = np.concatenate(
        [table["stream_position"].fill_null(-1).to_numpy() for table in (impressions, actions)]
    )  # fmt: skip
    of_world = lake.info().get("origin") == "world"
    order, arrivals = in_order_of_arrival(ingest_time, position, both("event_id"), before_serving=of_world)
    events = Events(
        ingest_time=arrivals.time,
        time=np.minimum(both("event_time"), ingest_time)[order],
        action=np.concatenate([np.zeros(len(impressions), np.int32), kind])[order],
        user_row=catalogue.user_rows(both("user_id"))[order],
        post_row=catalogue.post_rows(both("post_id"))[order],
    )
    return events, arrivals
