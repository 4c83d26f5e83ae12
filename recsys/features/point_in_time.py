"""Point-in-time counters: for each exposure, the counts its request would have read; and the final state of all.

Takes `Events` in order of arrival, and how many of them each exposure could see. It does not know which features the
counts become.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from recsys.features.as_of import EventColumns, QueryColumns, as_of
from recsys.features.decay import States, advance
from recsys.features.spec import AUTHOR, ENTITIES, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.events import CLICK, Events
from recsys.types import Doubles, Ids, Rows, Times

T = TypeVar("T")


def entity_keys(entity: Entity, catalogue: Catalogue, user_row: Rows, post_row: Rows) -> Ids:
    """Key that each (user, post) pair counts for, -1 for none, (M,).

    The key of a post, user or author is its row. The key of a topic (`Catalogue.likely_topic`) is its row plus one;
    posts without a topic share key 0. The key of a cross is `user_row * width + other`. A post the catalogue does not
    know (row -1) has no author and topic key 0, as when the stream counts it.
    """
    known = post_row >= 0  # (M,)
    author = np.where(known, catalogue.author[post_row], -1).astype(np.int64)
    topic = np.where(known, catalogue.likely_topic[post_row], -1).astype(np.int64) + 1
    user = user_row.astype(np.int64)
    if entity is USER_TOPIC:
        return np.where(user < 0, -1, user * (len(catalogue.topics) + 1) + topic)
    if entity is USER_AUTHOR:
        return np.where((user < 0) | (author < 0), -1, user * max(catalogue.n_authors, 1) + author)
    return {POST.name: post_row.astype(np.int64), AUTHOR.name: author, TOPIC.name: topic, USER.name: user}[entity.name]


class EventsSeen(NamedTuple):
    """How many events, from the first on, each of Q queries could see. A request reads its user before its posts."""

    by_post: Ids
    """Events seen in the counters of posts, authors and topics, (Q,)."""
    by_user: Ids
    """Events seen in the user's row: the user's counters, crosses and history, (Q,)."""


_IN_USER_ROW = (USER, USER_TOPIC, USER_AUTHOR)
"""Entities whose counters are stored in the user's row."""


def point_in_time(
    catalogue: Catalogue, events: Events, user_row: Rows, post_row: Rows, now: Times, seen: EventsSeen, n_threads: int
) -> dict[str, Doubles]:
    """Counts of every entity as each query saw them.

    Args:
        user_row, post_row: the queries, -1 if the catalogue does not know the user or post, (Q,).
        now: moment the counts are decayed to, microseconds, (Q,).
        seen: how many events were visible to each query.
        n_threads: threads that share the work; results do not depend on it, to the last bit.
    Returns: entity name to counts decayed to the query's time, (Q, A, H).
    """
    # An event's order is its place in the log, a query's the number of events it saw: it sees those before.
    place = np.arange(len(events))  # (M,)
    counts: dict[str, Doubles] = {}
    for entity in ENTITIES:
        event_key = entity_keys(entity, catalogue, events.user_row, events.post_row)  # (M,)
        query_key = entity_keys(entity, catalogue, user_row, post_row)  # (Q,)
        n_seen = seen.by_user if entity in _IN_USER_ROW else seen.by_post  # (Q,)
        counts[entity.name] = as_of(
            entity,
            EventColumns(event_key, events.time, place, events.action),
            QueryColumns(query_key, now, n_seen),
            n_threads,
        )  # (Q, A, H)
    return counts


@dataclass(frozen=True)
class Snapshot:
    """All counters and click histories after the last event. A batch load writes them to the online store."""

    keys: dict[str, Ids]
    """Entity name to the keys (see `entity_keys`) that have counts, ascending, (n,)."""
    states: dict[str, States]
    """Entity name to the counts of each key, in the order of `keys`."""
    click_user: Rows
    """User rows of all clicks by known users on known posts, by user and then newest first, (K,)."""
    click_post: Rows
    """Post rows of these clicks, (K,)."""
    click_time: Times
    """Microseconds, (K,)."""


def snapshot(catalogue: Catalogue, events: Events, n_threads: int) -> Snapshot:
    """Counters and click histories after all events."""

    def build(entity: Entity) -> tuple[Ids, States]:
        event_keys = entity_keys(entity, catalogue, events.user_row, events.post_row)  # (M,)
        kept = (entity.action_rows[events.action] >= 0) & (event_keys >= 0)
        keys = np.unique(event_keys[kept])  # (n,)
        states = States.zeros(len(keys), entity)
        advance(states, entity, lookup(keys, event_keys), events.time, events.action)
        return keys, states

    built = _per_entity(build, n_threads)
    # Histories: by user, then newest first; equal times by the lower post row.
    clicks = np.flatnonzero((events.action == CLICK) & (events.user_row >= 0) & (events.post_row >= 0))
    order = clicks[np.lexsort((events.post_row[clicks], -events.time[clicks], events.user_row[clicks]))]
    return Snapshot(
        keys={name: keys for name, (keys, _) in built.items()},
        states={name: states for name, (_, states) in built.items()},
        click_user=events.user_row[order],
        click_post=events.post_row[order],
        click_time=events.time[order],
    )


def _per_entity(build: Callable[[Entity], T], n_threads: int) -> dict[str, T]:
    with ThreadPoolExecutor(n_threads) as pool:
        return dict(zip([entity.name for entity in ENTITIES], pool.map(build, ENTITIES), strict=True))
