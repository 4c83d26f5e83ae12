"""Events as the rows take them: which counters each event changes, grouped by row.

Takes columns of events, gives columns of events. It knows nothing of Redis or of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from recsys.features.spec import AUTHOR, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.offline.logs.events import CLICK
from recsys.types import Ids, Mask, Rows, Times


@dataclass(frozen=True)
class CountedEvents:
    """Events that counters count, with author and topic of their posts; every array has shape (M,)."""

    action: Rows
    """Code in `ACTIONS`."""
    time: Times
    """min(event_time, ingest_time), microseconds: counters decay from this moment."""
    user_id: Ids
    post_id: Ids
    post_row: Rows
    """-1 for a post outside the catalogue. Such an event counts for its post, its user and the missing topic."""
    author_id: Ids
    """Meaningless where `has_author` is False."""
    has_author: Mask
    topic_key: Ids
    """0 for a missing topic."""

    def __len__(self) -> int:
        return len(self.action)

    def where(self, mask: Mask) -> CountedEvents:
        return CountedEvents(**{column.name: getattr(self, column.name)[mask] for column in fields(self)})


class RowEvents(NamedTuple):
    """The events of a batch that change rows of one entity, with the R rows they change."""

    entity: Entity
    events: CountedEvents
    """(M,)."""
    ids: Ids
    """Ids of the changed rows, each once, (R,)."""
    place: Ids
    """Each event's row, as a place in `ids`, (M,)."""

    def reordered(self, order: Ids) -> RowEvents:
        """The same events with the rows in this order, (R,)."""
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return self._replace(ids=self.ids[order], place=place[self.place])


def group_by_row(events: CountedEvents) -> list[RowEvents]:
    """Group events by the rows they change: those of posts, authors, topics and users, in this order."""
    always = np.ones(len(events), bool)
    counters = [
        (POST, always, events.post_id),
        (AUTHOR, events.has_author, events.author_id),
        (TOPIC, always, events.topic_key),
    ]
    chosen = [(entity, known & (entity.action_rows[events.action] >= 0), key) for entity, known, key in counters]
    chosen.append((USER, changes_user_row(events.action), events.user_id))
    groups = []
    for entity, mask, key in chosen:
        ids, place = np.unique(key[mask], return_inverse=True)
        groups.append(RowEvents(entity, events.where(mask), ids, place.astype(np.int64)))
    return groups


def changes_user_row(action: Rows) -> Mask:
    """Whether an action changes anything in the row of its user."""
    kept = [entity.action_rows[action] >= 0 for entity in (USER, USER_TOPIC, USER_AUTHOR)]
    return np.asarray(np.logical_or.reduce([action == CLICK, *kept]))
