"""The stream into the online store: each record once in effect, whatever is killed when.

Reads the records after the generation's `applied` position and the rows they touch, applies them, and writes rows,
trending and the new position in one transaction that goes through only if generation and position are still what was
read. Whoever loses that race, to another consumer or to a batch load, has changed nothing and simply reads again. It
does not know who wrote the records.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.features.decay import advance
from recsys.features.spec import AUTHOR, POST, TOPIC, USER, Entity
from recsys.offline.catalogue import Catalogue
from recsys.offline.labels import CLICK
from recsys.online import keys, trending
from recsys.online.apply import Counted, advance_users, counted, touches_user
from recsys.online.commands import send
from recsys.online.generations import CLICKS_KEPT, WRITE_ROWS, current
from recsys.online.records import Entry, decode
from recsys.online.rows import pack, pack_users, unpack, unpack_users
from recsys.online.stream import EventStream
from recsys.types import Ids, Mask

log = logging.getLogger(__name__)

DEAD_LETTERS_KEPT = 10_000


class Touched(NamedTuple):
    """What a batch changes of one entity."""

    entity: Entity
    some: Mask
    """Events that change something, (M,)."""
    ids: Ids
    """The rows they change, ascending."""
    key: Ids
    """Row of each event, (M,)."""


class OnlineSink:
    """Applies the stream to the current generation. Several may run; they take turns by losing races."""

    def __init__(
        self,
        client: redis.Redis,
        stream: EventStream,
        catalogue: Catalogue,
        config: OnlineConfig,
        impressions: Literal["explicit", "implied"],
    ) -> None:
        self.client = client
        self.stream = stream
        self.catalogue = catalogue
        """Tells author, topic and language of a post; may be replaced by a newer one between steps."""
        self.config = config
        self.impressions = impressions

    def step(self, block_ms: int = 0) -> int:
        """Apply the next batch, waiting up to `block_ms` for one.

        Returns: records applied; 0 when there was none or a race was lost.
        Raises: DataError when no generation was loaded or a row cannot be trusted, DependencyError or redis.RedisError
        when Redis fails.
        """
        generation = current(self.client)
        applied = send(self.client, "GET", generation.applied)
        if applied is None:
            return 0
        entries = self.stream.read(applied.decode(), self.config.batch_size, block_ms)
        if not entries:
            return 0
        decoded = decode(entries)
        events = counted(self.catalogue, decoded.events, decoded.returned, self.impressions)
        touched = _touched(events)
        names = [generation.rows(entity.name, ids) for entity, _, ids, _ in touched]
        pipe: Any
        with self.client.pipeline(transaction=True) as pipe:
            pipe.watch(keys.CURRENT, generation.applied)
            number, still, origin, *values = pipe.execute_command(
                "MGET", keys.CURRENT, generation.applied, generation.origin, *chain(*names)
            )
            if number != b"%d" % generation.number or still != applied:
                return 0
            rows = self._after(events, touched, names, values)
            pipe.multi()
            pipe.execute_command("EVAL", WRITE_ROWS, len(rows), *chain(*names), self._ttl_ms, *rows)
            self._count_trending(pipe, generation, events, int(origin))
            for entry, reason in decoded.bad:
                _bury(pipe, entry, reason)
            pipe.execute_command("SET", generation.applied, entries[-1].id)
            try:
                pipe.execute()
            except redis.WatchError:
                return 0
        return len(entries)

    @property
    def _ttl_ms(self) -> int:
        return int(self.config.ttl_s * 1000)

    def _after(
        self, events: Counted, touched: list[Touched], names: list[list[bytes]], values: list[bytes | None]
    ) -> list[bytes]:
        """The rows of `names`, in that order, once these events are applied to `values`."""
        after: list[bytes] = []
        start = 0
        for (entity, some, ids, key), asked in zip(touched, names, strict=True):
            found = values[start : start + len(asked)]
            start += len(asked)
            place = np.searchsorted(ids, key[some])
            if entity is USER:
                kept = CLICKS_KEPT * self.config.history_size
                after += pack_users(advance_users(unpack_users(asked, found), events.where(some), place, kept))
            else:
                states = unpack(entity, asked, found)
                advance(states, entity, place.astype(np.int32), events.time[some], events.action[some])
                after += pack(entity, states)
        return after

    def _count_trending(self, pipe: Any, generation: keys.Generation, events: Counted, origin: int) -> None:
        clicks = events.where(events.action == CLICK)
        weight = trending.weight(clicks.time, origin)
        language = np.where(clicks.post_row >= 0, self.catalogue.language[clicks.post_row], -1)
        sets: list[tuple[str | None, Mask]] = [(None, np.ones(len(clicks), bool))]
        sets += [(self.catalogue.languages[row], language == row) for row in np.unique(language[language >= 0])]
        for name, some in sets:
            post_id, place = np.unique(clicks.post_id[some], return_inverse=True)
            if not len(post_id):
                continue
            key = generation.trending(name)
            gain = np.bincount(place, weight[some])
            for number, member in zip(gain.tolist(), trending.to_members(post_id), strict=True):
                pipe.execute_command("ZINCRBY", key, number, member)
            pipe.execute_command("ZREMRANGEBYRANK", key, 0, -1 - self.config.trending_size)
            pipe.execute_command("PEXPIRE", key, self._ttl_ms)


def _touched(events: Counted) -> list[Touched]:
    everything = np.ones(len(events), bool)
    of_plain = [
        (POST, everything, events.post_id),
        (AUTHOR, events.has_author, events.author_id),
        (TOPIC, everything, events.topic_key),
    ]
    masks = [(entity, known & (entity.action_rows[events.action] >= 0), key) for entity, known, key in of_plain]
    masks.append((USER, touches_user(events.action), events.user_id))
    return [Touched(entity, some, np.unique(key[some]), key) for entity, some, key in masks]


def _bury(pipe: Any, entry: Entry, reason: str) -> None:
    log.warning("stream record %s cannot be applied and was set aside: %s", entry.id, reason)
    fields = ("id", entry.id, "kind", entry.kind, "payload", entry.payload, "reason", reason)
    pipe.execute_command("XADD", keys.DEAD_LETTERS, "MAXLEN", "~", DEAD_LETTERS_KEPT, "*", *fields)
