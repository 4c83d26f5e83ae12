"""Point-in-time build: for each exposure the counters as a request would have read them then; and the final state.

Takes `Events` in order of arrival and what each exposure had seen of them. It does not know what a model makes of the
counts.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from recsys.features.as_of import as_of
from recsys.features.decay import States, advance
from recsys.features.spec import AUTHOR, ENTITIES, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.labels import CLICK, Events
from recsys.types import Doubles, Ids, Rows, Times

T = TypeVar("T")


def entity_keys(entity: Entity, catalogue: Catalogue, user_row: Rows, post_row: Rows) -> Ids:
    """The thing each (user, post) pair counts for, -1 for none, (M,).

    Posts, users and authors are their rows. Topics (`Catalogue.likely_topic`) are rows plus one: posts with none share
    key 0. Crosses are `user_row * width + other`. A post the catalogue does not know (row -1) has no author and shares
    key 0 of the topics, as it does when the stream counts it.
    """
    known = post_row >= 0
    author = np.where(known, catalogue.author[post_row], -1).astype(np.int64)
    topic = np.where(known, catalogue.likely_topic[post_row], -1).astype(np.int64) + 1
    user = user_row.astype(np.int64)
    if entity is USER_TOPIC:
        return np.where(user < 0, -1, user * (len(catalogue.topics) + 1) + topic)
    if entity is USER_AUTHOR:
        return np.where((user < 0) | (author < 0), -1, user * max(catalogue.n_authors, 1) + author)
    return {POST.name: post_row.astype(np.int64), AUTHOR.name: author, TOPIC.name: topic, USER.name: user}[entity.name]


class Seen(NamedTuple):
    """How many events, from the first on, each of Q queries could see. A request reads its user before its posts."""

    by_post: Ids
    """When it read the counters of posts, authors and topics, (Q,)."""
    by_user: Ids
    """When it read its user's row: the user's counters, crosses and history, (Q,)."""


_IN_USER_ROW = (USER, USER_TOPIC, USER_AUTHOR)
"""Entities whose counters stand in the user's row."""


def point_in_time(
    catalogue: Catalogue, events: Events, user_row: Rows, post_row: Rows, now: Times, seen: Seen, n_threads: int
) -> dict[str, Doubles]:
    """Counts of every entity as each query saw them.

    Args:
        user_row, post_row: the queries, -1 for who and what the catalogue does not know, (Q,).
        now: what counts are decayed to, microseconds, (Q,).
        seen: how many events were visible to each query.
        n_threads: threads that share the entities of a kind; they change no bit.
    Returns: entity name to counts decayed to the query's time, (Q, A, H).
    """
    order = np.arange(len(events))
    return {
        entity.name: as_of(
            entity,
            entity_keys(entity, catalogue, events.user_row, events.post_row),
            events.time,
            order,
            events.action,
            entity_keys(entity, catalogue, user_row, post_row),
            now,
            seen.by_user if entity in _IN_USER_ROW else seen.by_post,
            n_threads,
        )
        for entity in ENTITIES
    }


@dataclass(frozen=True)
class Snapshot:
    """All counters and click histories after the last event: what a batch load writes to the online store."""

    keys: dict[str, Ids]
    """Entity name to the keys (see `entity_keys`) that have counts, ascending."""
    states: dict[str, States]
    """Entity name to counts, in the order of `keys`."""
    click_user: Rows
    """Clicks on known posts in order of user, then newest first: user rows."""
    click_post: Rows
    click_time: Times


def snapshot(catalogue: Catalogue, events: Events, n_threads: int) -> Snapshot:
    """Final state after all events."""

    def build(entity: Entity) -> tuple[Ids, States]:
        event_keys = entity_keys(entity, catalogue, events.user_row, events.post_row)
        kept = (entity.action_rows[events.action] >= 0) & (event_keys >= 0)
        keys = np.unique(event_keys[kept])
        states = States.zeros(len(keys), entity)
        advance(states, entity, lookup(keys, event_keys), events.time, events.action)
        return keys, states

    built = _per_entity(build, n_threads)
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
