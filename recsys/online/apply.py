"""Events into rows: the arithmetic of the consumer, without Redis.

Takes decoded records and the rows they touch, gives the rows after them. The step is `features.decay.advance`, the same
that the batch build takes, so both stores hold the same numbers. It does not know where rows come from or go to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from recsys.features import decay
from recsys.features.decay import States
from recsys.features.spec import USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.offline.catalogue import Catalogue
from recsys.offline.labels import ACTIONS, CLICK
from recsys.online import keys
from recsys.online.records import Returned
from recsys.online.rows import Entries, Users, newest_clicks
from recsys.types import Ids, Mask, Rows, Times

IMPRESSION = ACTIONS.index("impression")


@dataclass(frozen=True)
class Counted:
    """Events that count, with what each counts for; every array has length M."""

    action: Rows
    """Code in `ACTIONS`."""
    time: Times
    """min(event_time, ingest_time): the moment that decays count from."""
    user_id: Ids
    post_id: Ids
    post_row: Rows
    """-1 for a post the catalogue does not know: it counts for its post, its user and the missing topic."""
    author_id: Ids
    """Meaningless where `has_author` is False."""
    has_author: Mask
    topic_key: Ids
    """0 for a missing topic."""

    def __len__(self) -> int:
        return len(self.action)

    def where(self, mask: Mask) -> Counted:
        return Counted(**{column.name: getattr(self, column.name)[mask] for column in fields(self)})


def counted(
    catalogue: Catalogue,
    events: np.ndarray,
    returned: Sequence[Returned],
    impressions: Literal["explicit", "implied"],
) -> Counted:
    """What counts among these records.

    Args:
        events: of `records.EVENT_TYPE`.
        impressions: `explicit` takes impression events and passes over returned records; `implied` the reverse. Never
        both.
    """
    if impressions == "implied":
        events = events[events["action"] != IMPRESSION]
        shown = [np.full(len(record.post_id), record.user_id) for record in returned]
        shown_post = [record.post_id for record in returned]
        shown_time = [np.full(len(record.post_id), record.now) for record in returned]
    else:
        shown, shown_post, shown_time = [], [], []
    action = events["action"].astype(np.int32)
    time = np.minimum(events["event_time"], events["ingest_time"])
    n_shown = sum(map(len, shown))
    post_id = np.concatenate([events["post_id"], *shown_post])
    post_row = catalogue.post_rows(post_id)
    author_row = _at(catalogue.author, post_row)
    return Counted(
        action=np.concatenate([action, np.full(n_shown, IMPRESSION, np.int32)]),
        time=np.concatenate([time, *shown_time]),
        user_id=np.concatenate([events["user_id"], *shown]),
        post_id=post_id,
        post_row=post_row,
        author_id=_at(catalogue.author_id, author_row),
        has_author=author_row >= 0,
        topic_key=keys.topic_keys(catalogue)[_at(catalogue.likely_topic, post_row) + 1],
    )


def touches_user(action: Rows) -> Mask:
    """Whether an action changes anything in its user's row."""
    kept = [entity.action_rows[action] >= 0 for entity in (USER, USER_TOPIC, USER_AUTHOR)]
    return np.asarray(np.logical_or.reduce([action == CLICK, *kept]))


def advance_users(users: Users, events: Counted, owner: Ids, clicks_kept: int) -> Users:
    """The users' rows after these events.

    Args:
        owner: place in `users` of each event's user, (M,).
        clicks_kept: clicked posts to keep per user.
    """
    n_users = len(users.states.t)
    own = States(users.states.t.copy(), users.states.v.copy())
    decay.advance(own, USER, owner.astype(np.int32), events.time, events.action)
    clicked = events.action == CLICK
    clicks = newest_clicks(
        np.concatenate([np.repeat(np.arange(n_users), users.clicks.count), owner[clicked]]),
        np.concatenate([users.clicks.post_id, events.post_id[clicked]]),
        np.concatenate([users.clicks.time, events.time[clicked]]),
        n_users,
        clicks_kept,
    )
    everything = np.ones(len(events), bool)
    topics = _advance_entries(USER_TOPIC, users.topics, owner, events.topic_key, events, everything)
    authors = _advance_entries(USER_AUTHOR, users.authors, owner, events.author_id, events, events.has_author)
    return Users(own, topics, authors, clicks)


def _advance_entries(entity: Entity, entries: Entries, owner: Ids, key: Ids, events: Counted, known: Mask) -> Entries:
    """Entries after the events, with new ones where an event is the first of its kind."""
    n_users, n_old = len(entries.count), len(entries.key)
    counts = known & (entity.action_rows[events.action] >= 0)
    all_owner = np.concatenate([np.repeat(np.arange(n_users), entries.count), owner[counts]])
    all_key = np.concatenate([entries.key, key[counts]])
    order = np.lexsort((all_key, all_owner))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(all_owner[order]) != 0) | (np.diff(all_key[order]) != 0)
    slot = np.empty(len(order), np.int32)
    slot[order] = np.cumsum(first) - 1
    states = States.zeros(int(first.sum()), entity)
    states.t[slot[:n_old]], states.v[slot[:n_old]] = entries.states
    decay.advance(states, entity, slot[n_old:], events.time[counts], events.action[counts])
    kept = order[first]
    return Entries(np.bincount(all_owner[kept], minlength=n_users), all_key[kept], states)


def _at(values: np.ndarray, rows: Rows) -> np.ndarray:
    """Values at these rows, -1 for row -1."""
    if not len(values):
        return np.full(len(rows), -1, values.dtype)
    return np.where(rows >= 0, values[rows], -1)
