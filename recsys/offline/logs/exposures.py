"""Exposures: posts shown to users, labelled with the clicks they earned.

Takes the lake and a catalogue, gives arrays. An exposure is an impression or, when `offline.impressions` is `implied`,
a returned post; never both. A click labels an exposure when user, request and post agree and it follows within the
label window. It does not know what features or models do with them.

Some logs hold clicks and hardly any impressions, so they do not say what was left unclicked. There each click is an
exposure, and posts drawn at random stand beside it (`negatives`). Nobody saw those posts, so they are not events.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, Self

import numpy as np
import pyarrow as pa

from recsys.config import OfflineConfig
from recsys.errors import DataError
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import Events, ExcludeEvents, LogRows, order_events, read_rows
from recsys.offline.logs.negatives import draw_negatives
from recsys.offline.logs.visibility import UNKNOWN, Arrivals, parse_watermarks
from recsys.types import SECOND, Floats, Ids, Mask, Rows, Times

Negatives = Literal["shown", "sampled"]
"""Where unclicked exposures come from: posts that users saw, or posts drawn at random."""

SAMPLED_POLICY = "sampled"
"""Policy of drawn exposures and of the clicks beside them."""


@dataclass(frozen=True)
class Exposures:
    """Posts shown and whether they were clicked, in order of request time; every array is (E,)."""

    request_id: Ids
    user_row: Rows
    post_row: Rows
    position: Rows
    """0-based place in the slate, -1 unknown."""
    now: Times
    """When the request was answered, microseconds: counts decay to this moment."""
    seen: Ids
    """Number of events the request's counters contained, from the start of `Logs.events`; see `visibility`."""
    history_seen: Ids
    """As `seen`, for the user's click history, which a server reads a moment before the counters."""
    shown_at: Times
    """When the post came on screen, microseconds: its label window starts here. Without impressions, `now`."""
    policy: Rows
    """Place in `Logs.policies`, -1 unknown."""
    propensity: Floats
    """NaN unknown."""
    click: Mask

    def __len__(self) -> int:
        return len(self.request_id)

    def take(self, rows: np.ndarray) -> Self:
        """Select exposures by a mask or by places."""
        return type(self)(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


@dataclass(frozen=True)
class Logs:
    """All exposures and counted events of a lake, in rows of the catalogue."""

    exposures: Exposures
    events: Events
    policies: tuple[str, ...]
    negatives: Negatives = "shown"


def read_logs(
    lake: Lake,
    catalogue: Catalogue,
    config: OfflineConfig,
    negatives: Negatives | None = None,
    exclude: ExcludeEvents | None = None,
) -> Logs:
    """Read exposures with labels, and the counted events. Posts and users outside the catalogue have row -1.

    Args:
        negatives: where unclicked exposures come from. None chooses `shown`, or `sampled` if the lake has fewer
            impressions than clicks.
        exclude: chooses events to skip although the lake still holds them.
    Raises: DataError when the lake holds neither an exposure nor a click.
    """
    rows = read_rows(lake, config, exclude)
    # A lake of clicks that also serves collects a few impressions, which say little about its many clicks.
    negatives = negatives or ("shown" if len(rows.impressions) >= rows.n_clicks else "sampled")
    events, arrivals = order_events(lake, catalogue, rows)
    policies: tuple[str, ...]
    if negatives == "shown":
        exposures, policies = _shown_exposures(lake, catalogue, config, rows, arrivals)
    else:
        exposures, policies = _sampled_exposures(lake, catalogue, config, rows, arrivals), (SAMPLED_POLICY,)
    if not len(exposures):
        raise DataError(
            f"no impressions and no clicks in {lake.url}; run `recsys simulate` to make a world, or import logs"
        )
    return Logs(exposures, events, policies, negatives)


def _shown_exposures(
    lake: Lake, catalogue: Catalogue, config: OfflineConfig, rows: LogRows, arrivals: Arrivals
) -> tuple[Exposures, tuple[str, ...]]:
    """Join impressions with their requests, returned posts and clicks.

    Shapes: E impressions, Q requests, R returned posts, L clicks.
    Returns: exposures, and the names that `Exposures.policy` refers to.
    """
    impressions, clicks = rows.impressions, rows.clicks()
    requests = lake.read("requests", ["request_id", "now", "policy", "watermark", "user_watermark"])
    returned = lake.read("returned", ["request_id", "user_id", "post_id", "position", "propensity"])

    # 1. Number the requests that any table mentions, and find each impression's.
    tables = (impressions, rows.actions, requests, returned)
    request_ids = np.unique(np.concatenate([table["request_id"].to_numpy() for table in tables]))  # (Q,)
    request = np.searchsorted(request_ids, impressions["request_id"].to_numpy())  # (E,)

    # 2. What was logged once per request, by request number; unknown where no row was logged.
    answered, watermark, user_watermark = (
        np.full(len(request_ids), unknown, np.int64) for unknown in (-1, UNKNOWN, UNKNOWN)
    )  # (Q,) each
    policy = np.full(len(request_ids), -1, np.int32)  # (Q,)
    logged = np.searchsorted(request_ids, requests["request_id"].to_numpy())
    answered[logged] = requests["now"].cast(pa.int64()).to_numpy()
    watermark[logged] = parse_watermarks(requests["watermark"])
    user_watermark[logged] = parse_watermarks(requests["user_watermark"])
    policies = requests["policy"].combine_chunks().dictionary_encode()
    policy[logged] = policies.indices.fill_null(-1).to_numpy()

    # 3. The moment of the request. Without a logged request only the arrival is reliable: a client's clock is not.
    arrived = impressions["ingest_time"].cast(pa.int64()).to_numpy()
    now = np.where(answered[request] >= 0, answered[request], arrived)  # (E,)

    # 4. One integer key per (request, user, post), equal across the three tables.
    shown_key, returned_key, click_key = _join_keys([impressions, returned, clicks], request_ids)  # (E,), (R,), (L,)

    # 5. Propensity and, where the client sent no position, position from the returned post.
    by_key = np.argsort(returned_key, kind="stable")
    place = lookup(returned_key[by_key], shown_key)  # (E,), -1 where the post was not logged as returned
    match = place >= 0
    source = by_key[place[match]]
    propensity = np.full(len(impressions), np.nan, np.float32)
    propensity[match] = returned["propensity"].to_numpy()[source]
    position = impressions["position"].fill_null(-1).to_numpy().astype(np.int32)  # (E,)
    position[match] = np.where(position[match] < 0, returned["position"].to_numpy()[source], position[match])

    # 6. Label: a click with the same key inside the window.
    shown_at = impressions["event_time"].cast(pa.int64()).to_numpy()
    clicked_at = clicks["event_time"].cast(pa.int64()).to_numpy()
    click = _followed_within(shown_key, shown_at, click_key, clicked_at, int(config.label_window_s * SECOND))  # (E,)

    # 7. Sort by time of request, then request, then position.
    request_id = impressions["request_id"].to_numpy()
    exposures = Exposures(
        request_id=request_id,
        user_row=catalogue.user_rows(impressions["user_id"].to_numpy()),
        post_row=catalogue.post_rows(impressions["post_id"].to_numpy()),
        position=position,
        now=now,
        seen=arrivals.count_seen(now, watermark[request]),
        history_seen=arrivals.count_seen(now, user_watermark[request]),
        shown_at=shown_at,
        policy=policy[request],
        propensity=propensity,
        click=click,
    ).take(np.lexsort((position, request_id, now)))
    return exposures, tuple(name for name in policies.dictionary.to_pylist() if name is not None)


def _sampled_exposures(
    lake: Lake, catalogue: Catalogue, config: OfflineConfig, rows: LogRows, arrivals: Arrivals
) -> Exposures:
    """Each click as an exposure, followed by drawn posts of the same request that the user did not click.

    Shapes: L clicks, D drawn posts; the result has L + D rows.
    """
    clicks = rows.clicks()
    # 1. The moment of each click and what was seen by then, (L,): from its request if that was logged.
    requests = lake.read("requests", ["request_id", "now", "watermark", "user_watermark"])
    by_id = np.argsort(requests["request_id"].to_numpy(), kind="stable")
    place = lookup(requests["request_id"].to_numpy()[by_id], clicks["request_id"].to_numpy())
    logged, request = place >= 0, by_id[place[place >= 0]]
    now = _before_own_impression(rows.impressions, clicks)
    now[logged] = requests["now"].cast(pa.int64()).to_numpy()[request]
    watermark, user_watermark = np.full(len(now), UNKNOWN), np.full(len(now), UNKNOWN)
    watermark[logged] = parse_watermarks(requests["watermark"])[request]
    user_watermark[logged] = parse_watermarks(requests["user_watermark"])[request]

    # 2. Draw negatives: the click each belongs to and its post, (D,) both.
    user_id = clicks["user_id"].to_numpy()
    post_row = catalogue.post_rows(clicks["post_id"].to_numpy())
    of_click, negative = draw_negatives(
        clicks["event_id"].to_numpy(), user_id, post_row, now,
        np.asarray(catalogue.created_at), np.asarray(catalogue.visible), config.sampled_negatives,
    )  # fmt: skip

    # 3. Clicks first, then drawn posts, which copy everything but the post from their click; then sort by time.
    click = np.concatenate([np.arange(len(clicks)), of_click])  # (L + D,)
    request_id = clicks["request_id"].to_numpy()[click]
    exposures = Exposures(
        request_id=request_id,
        user_row=catalogue.user_rows(user_id)[click],
        post_row=np.concatenate([post_row, negative]),
        position=np.full(len(click), -1, np.int32),
        now=now[click],
        seen=arrivals.count_seen(now, watermark)[click],
        history_seen=arrivals.count_seen(now, user_watermark)[click],
        shown_at=clicks["event_time"].cast(pa.int64()).to_numpy()[click],
        policy=np.zeros(len(click), np.int32),
        propensity=np.full(len(click), np.nan, np.float32),
        click=np.arange(len(click)) < len(clicks),
    )
    return exposures.take(np.lexsort((request_id, exposures.now)))


def _before_own_impression(impressions: pa.Table, clicks: pa.Table) -> Times:
    """When each click arrived or, if earlier, its impression, (L,).

    Only clicked posts have an impression here, so a counter that includes it would give the label away.
    """
    now: Times = clicks["ingest_time"].cast(pa.int64()).to_numpy().copy()
    if not len(impressions):
        return now
    request_ids = np.unique(np.concatenate([table["request_id"].to_numpy() for table in (impressions, clicks)]))
    shown_key, click_key = _join_keys([impressions, clicks], request_ids)
    arrived = impressions["ingest_time"].cast(pa.int64()).to_numpy()
    order = np.lexsort((arrived, shown_key))
    place = lookup(shown_key[order], click_key)
    return np.asarray(np.where(place >= 0, np.minimum(now, arrived[order][place]), now))


def _join_keys(tables: list[pa.Table], request_ids: Ids) -> list[Ids]:
    """A number per row for its (request, user, post), equal for equal triples in all tables.

    Imported logs may number each user's requests from 1, so the request alone does not identify the user.

    Args:
        request_ids: every request of the tables, ascending, without repeats.
    """
    users, posts = (
        np.unique(np.concatenate([np.unique(table[name].to_numpy()) for table in tables]))
        for name in ("user_id", "post_id")
    )
    # Pairs (request, user) are renumbered densely before the post is added, so that the product fits into int64.
    pairs = [
        np.searchsorted(request_ids, table["request_id"].to_numpy()) * np.int64(len(users))
        + np.searchsorted(users, table["user_id"].to_numpy())
        for table in tables
    ]
    known_pairs = np.unique(np.concatenate([np.unique(pair) for pair in pairs]))
    return [
        np.searchsorted(known_pairs, pair) * np.int64(len(posts)) + np.searchsorted(posts, table["post_id"].to_numpy())
        for table, pair in zip(tables, pairs, strict=True)
    ]


def _followed_within(key: Ids, shown_at: Times, action_key: Ids, action_at: Times, window: int) -> Mask:
    """Whether an action with the same key lies in [shown_at, shown_at + window], (E,).

    Args:
        key, shown_at: of exposures, (E,).
        action_key, action_at: of actions, (L,).
        window: microseconds.
    """
    if not len(action_key):
        return np.zeros(len(key), bool)
    # 1. Sort actions by key, then time: an exposure's actions are the run [low, high).
    order = np.lexsort((action_at, action_key))
    sorted_key, sorted_at = action_key[order], action_at[order]
    low = np.searchsorted(sorted_key, key, side="left")
    high = np.searchsorted(sorted_key, key, side="right")
    # 2. Walk all runs at once. The first action at or after `shown_at` decides; most runs have one action.
    found = np.zeros(len(key), bool)
    rows = np.flatnonzero(high > low)  # undecided exposures
    place = low[rows]  # the action each looks at
    while len(rows):
        early = sorted_at[place] < shown_at[rows]
        found[rows[~early]] = sorted_at[place[~early]] <= shown_at[rows[~early]] + window
        place, rows = place[early] + 1, rows[early]
        more = place < high[rows]
        place, rows = place[more], rows[more]
    return found
