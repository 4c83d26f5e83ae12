"""What counts among the records of the stream, and for which rows. Without Redis, and without what rows hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple

import numpy as np

from recsys.features.spec import AUTHOR, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.labels import ACTIONS, CLICK
from recsys.online import keys
from recsys.online.stream.records import Returned
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


class Touched(NamedTuple):
    """What a batch changes of one entity."""

    entity: Entity
    events: Counted
    """Those that change something, M of them."""
    ids: Ids
    """The rows they change, each once."""
    place: Ids
    """Place in `ids` of each event's row, (M,)."""

    def reordered(self, order: Ids) -> Touched:
        """The same with the rows in this order, (len(ids),)."""
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return self._replace(ids=self.ids[order], place=place[self.place])


def touched(events: Counted) -> list[Touched]:
    """Rows of posts, authors, topics and users that these events change, in this order."""
    everything = np.ones(len(events), bool)
    of_plain = [
        (POST, everything, events.post_id),
        (AUTHOR, events.has_author, events.author_id),
        (TOPIC, everything, events.topic_key),
    ]
    masks = [(entity, known & (entity.action_rows[events.action] >= 0), key) for entity, known, key in of_plain]
    masks.append((USER, touches_user(events.action), events.user_id))
    parts = []
    for entity, some, key in masks:
        ids, place = np.unique(key[some], return_inverse=True)
        parts.append(Touched(entity, events.where(some), ids, place.astype(np.int64)))
    return parts


def _at(values: np.ndarray, rows: Rows) -> np.ndarray:
    """Values at these rows, -1 for row -1."""
    if not len(values):
        return np.full(len(rows), -1, values.dtype)
    return np.where(rows >= 0, values[rows], -1)
