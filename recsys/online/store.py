"""The online store: what a request reads about its user and its candidates, and what its answer writes.

Takes outside user ids and dense post rows, gives dense rows and counters decayed to `now`. `RedisStore` reads Redis, in
one round trip for the user and one for the candidates; `SnapshotStore` gives the same numbers from memory. Neither
knows features: `features.assemble` makes columns of the counters.

Every read fetches the pointer to the current generation in the same atomic command as the rows. So the next read
notices a batch load, and no read mixes two generations. A damaged row is an error, never a wrong count: rows are
validated before use, and a key without an answer counts as absent only when Redis confirms that it does not exist,
because MGET gives the same answer for a key of another type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.errors import DependencyError
from recsys.features import decay
from recsys.features.decay import States
from recsys.features.point_in_time import Snapshot, entity_keys
from recsys.features.spec import AUTHOR, ENTITIES, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online.connection.commands import read_together, send, send_packed, send_together
from recsys.online.connection.parse import invalid_value, parse_number, parse_stream_id, wrong_type
from recsys.online.generations import current
from recsys.online.rows import trending
from recsys.online.rows.counter_layout import Names, unpack
from recsys.online.rows.user_layout import UserColumns, unpack_users
from recsys.online.stream.log import RedisStream
from recsys.online.stream.records import Returned
from recsys.types import Doubles, Ids, Rows

__all__ = ["CountsRead", "OnlineStore", "RedisStore", "SnapshotStore", "UserRead"]

_NO_POSTS: Rows = np.empty(0, np.int32)
_ATTEMPTS = 5
"""Reads before an error, when a batch load replaces the rows again and again."""
_MEMBER_BYTES = 8
"""Bytes of a post in a sorted set (`trending.to_members`)."""


@dataclass(frozen=True, slots=True)
class UserRead:
    """What a request reads about its user first. Posts outside the catalogue are dropped."""

    history: Rows
    """Clicked posts, newest first, at most `history_size`."""
    returned: Rows
    """Posts sent before, newest first, at most `returned_size`."""
    trending: Rows
    """Trending posts of the language, best first, at most `trending_size`."""
    watermark: str
    """Last stream id that `history` reflects; empty when nothing was streamed yet."""
    erased_at: int | None
    """When this user was last erased, microseconds; None when never."""
    row: UserColumns | None = None
    """The user's row, read together with `history`, for `read_counts`. None from `SnapshotStore`."""


@dataclass(frozen=True, slots=True)
class CountsRead:
    """Counters of one request's candidates, decayed to its `now`."""

    counts: dict[str, Doubles]
    """Entity name to (C, A, H); `user` has (1, A, H)."""
    watermark: str
    """Last stream id these counters reflect; empty when nothing was streamed yet."""


class OnlineStore(Protocol):
    """What a request reads. User ids may be outside the catalogue; post rows are >= 0."""

    @property
    def catalogue(self) -> Catalogue:
        """Gives dense rows their meaning."""
        ...

    def read_user(self, user_id: int, language: int, now: int) -> UserRead: ...

    def read_counts(self, user_id: int, post_row: Rows, now: int, row: UserColumns | None = None) -> CountsRead:
        """`row`: the user's row from `read_user`; None reads it here."""
        ...


class _Found(NamedTuple):
    """Rows of one entity, as `unpack` takes them."""

    names: Names
    values: Sequence[bytes | None]


class RedisStore:
    """The store in Redis. Safe to share between threads."""

    def __init__(self, client: redis.Redis, catalogue: Catalogue, config: OnlineConfig) -> None:
        self.client = client
        self.catalogue = catalogue
        self.config = config
        self._stream = RedisStream(client, config)
        self._generation: keys.Generation | None = None
        self._topic_key = keys.topic_keys(catalogue)

    def read_user(self, user_id: int, language: int, now: int) -> UserRead:
        """Raises: DependencyError when Redis does not answer, DataError when nothing is loaded or a row is invalid."""
        name = self.catalogue.languages[language] if language >= 0 else None
        sent = keys.returned(user_id)
        generation = self._generation or current(self.client)
        for _ in range(_ATTEMPTS):
            (row_key,), trend_key = generation.rows(USER.name, np.array([user_id])), generation.trending(name)
            pointer, applied, row, erased, returned, trend = read_together(
                self.client,
                [
                    (b"GET", keys.CURRENT),
                    (b"GET", generation.applied),
                    (b"GET", row_key),
                    (b"HGET", keys.ERASED, b"%d" % user_id),
                    (b"ZREVRANGE", sent, 0, self.config.returned_size - 1),
                    (b"ZREVRANGE", trend_key, 0, self.config.trending_size - 1),
                ],
            )
            if self._is_current(generation, pointer):
                user = unpack_users([row_key], [row])
                return UserRead(
                    history=self._known(user.clicks.post_id)[: self.config.history_size],
                    returned=self._known(_post_ids(sent, returned)),
                    trending=self._known(_post_ids(trend_key, trend)),
                    watermark=_watermark(generation, applied),
                    erased_at=None if erased is None else parse_number(keys.ERASED, erased),
                    row=user,
                )
            generation = current(self.client)
        raise _unsettled()

    def read_counts(self, user_id: int, post_row: Rows, now: int, row: UserColumns | None = None) -> CountsRead:
        """Raises: as `read_user`."""
        # 1. Distinct authors and topics of the C candidates, and each candidate's place among them, (C,).
        catalogue = self.catalogue
        author, of_author = _distinct(catalogue.author[post_row])
        topic, of_topic = _distinct(catalogue.likely_topic[post_row] + 1)
        author_id, topic_key = np.asarray(catalogue.author_id[author]), self._topic_key[topic]
        post_id = np.asarray(catalogue.post_id[post_row])
        # 2. Read all rows in one round trip.
        wanted = [(TOPIC, topic_key), (AUTHOR, author_id), (POST, post_id)]
        if row is None:
            wanted.append((USER, np.array([user_id])))
        (topics, authors, posts, *users), watermark = self._rows(wanted)
        user = unpack_users(*users[0]) if row is None else row
        # 3. Counters of each candidate, decayed to `now`, (C, A, H); the user's own (1, A, H).
        of_post, of_user = np.arange(len(post_id)), np.zeros(1, np.int32)
        counts = {
            TOPIC.name: _counts(unpack(TOPIC, *topics), TOPIC, np.arange(len(topic_key)), of_topic, now),
            AUTHOR.name: _counts(unpack(AUTHOR, *authors), AUTHOR, np.arange(len(author_id)), of_author, now),
            POST.name: decay.read(unpack(POST, *posts), POST, of_post, now),
            USER.name: decay.read(user.states, USER, of_user, now),
        }
        # 4. The user's entries for the topic and the author of each candidate, found by key, (C, A, H).
        for entity, entries, key, of_key in (
            (USER_TOPIC, user.topics, topic_key, of_topic),
            (USER_AUTHOR, user.authors, author_id, of_author),
        ):
            counts[entity.name] = _counts(entries.states, entity, lookup(entries.key, key), of_key, now)
        return CountsRead(counts, watermark)

    def record_returned(self, record: Returned) -> None:
        """Store what this user was sent and append the record to the stream, in one transaction and one round trip.

        Raises: DependencyError when Redis does not answer.
        """
        name = keys.returned(record.user_id)
        scored: list[Any] = []
        for member in trending.to_members(record.post_id):
            scored += (record.now, member)
        commands = [self._stream.returned_command(record)]
        if scored:
            commands += [
                ["ZADD", name, *scored],
                ["ZREMRANGEBYRANK", name, 0, -1 - self.config.returned_size],
                ["PEXPIRE", name, int(self.config.ttl_s * 1000)],
            ]
        send_together(self.client, commands)

    def _rows(self, wanted: Sequence[tuple[Entity, Ids]]) -> tuple[list[_Found], str]:
        """Rows read at one moment, and the stream id they reflect. Reads again when the generation or a key changed."""
        generation = self._generation or current(self.client)
        for _ in range(_ATTEMPTS):
            packed = [generation.packed_rows(entity.name, ids) for entity, ids in wanted]
            head = keys.packed([keys.CURRENT, generation.applied])
            n_keys = 2 + sum(len(ids) for _, ids in wanted)
            pointer, applied, *values = send_packed(self.client, b"MGET", n_keys, head + b"".join(packed))
            if self._is_current(generation, pointer) and self._are_absent(generation, wanted, values):
                found, start = [], 0
                for entity, ids in wanted:
                    names = partial(generation.rows, entity.name, ids)
                    found.append(_Found(names, values[start : start + len(ids)]))
                    start += len(ids)
                return found, _watermark(generation, applied or send(self.client, "GET", generation.applied))
            generation = current(self.client)
        raise _unsettled()

    def _are_absent(
        self, generation: keys.Generation, wanted: Sequence[tuple[Entity, Ids]], values: Sequence[bytes | None]
    ) -> bool:
        """Whether the keys that got no answer do not exist; False when one was written after the answer.

        Takes a second round trip, over these keys only: checking all keys in the first would slow down every read.
        Raises: DataError when one exists and has another type.
        """
        absent = [place for place, value in enumerate(values) if value is None]
        if not absent:
            return True
        missing: list[tuple[str, Ids]] = []
        # Ids of the absent keys, by entity.
        place, start = np.array(absent), 0
        for entity, ids in wanted:
            here = place[(place >= start) & (place < start + len(ids))]
            if len(here):
                missing.append((entity.name, ids[here - start]))
            start += len(ids)
        packed = b"".join([generation.packed_rows(entity, ids) for entity, ids in missing])
        if not send_packed(self.client, b"EXISTS", len(absent), packed):
            return True
        names = [name for entity, ids in missing for name in generation.rows(entity, ids)]
        for name, found in zip(names, read_together(self.client, [(b"TYPE", name) for name in names]), strict=True):
            if found not in (b"none", b"string"):
                raise wrong_type(name, "string", found.decode())
        return False

    def _is_current(self, generation: keys.Generation, found: bytes | None) -> bool:
        if found is None or parse_number(keys.CURRENT, found) != generation.number:
            return False
        self._generation = generation
        return True

    def _known(self, post_id: Ids) -> Rows:
        rows = self.catalogue.post_rows(post_id)
        return rows[rows >= 0]


class SnapshotStore:
    """Answers from a `Snapshot` in memory: the same as Redis gives right after loading it."""

    def __init__(
        self,
        catalogue: Catalogue,
        snapshot: Snapshot,
        config: OnlineConfig,
        returned: Mapping[int, Rows] | None = None,
    ) -> None:
        """`returned`: user id to post rows sent before, newest first."""
        self.catalogue = catalogue
        self.snapshot = snapshot
        self.config = config
        self._returned = returned or {}
        # The order does not depend on the origin.
        origin = int(snapshot.click_time.max(initial=0))
        ranked = trending.rank(catalogue, snapshot.click_post, snapshot.click_time, origin, config.trending_size)
        self._trending = {language: post_row for language, (post_row, _) in ranked.items()}

    def read_user(self, user_id: int, language: int, now: int) -> UserRead:
        user_row = int(self.catalogue.user_rows([user_id])[0])
        start, stop = np.searchsorted(self.snapshot.click_user, [user_row, user_row + 1])
        clicked = self.snapshot.click_post[start:stop][: self.config.history_size]
        return UserRead(
            history=clicked if user_row >= 0 else _NO_POSTS,
            returned=self._returned.get(user_id, _NO_POSTS),
            trending=self._trending.get(language, _NO_POSTS),
            watermark="",
            erased_at=None,
        )

    def read_counts(self, user_id: int, post_row: Rows, now: int, row: UserColumns | None = None) -> CountsRead:
        user_row = self.catalogue.user_rows([user_id])
        counts: dict[str, Doubles] = {}
        for entity in ENTITIES:
            asked = entity_keys(entity, self.catalogue, user_row, post_row)
            place = np.where(asked < 0, -1, lookup(self.snapshot.keys[entity.name], asked))
            counts[entity.name] = decay.read(self.snapshot.states[entity.name], entity, place, now)
        return CountsRead(counts, "")


def _distinct(rows: Rows) -> tuple[Rows, Rows]:
    """The distinct rows >= 0, and each row's place among them, -1 for row -1."""
    distinct, place = np.unique(rows, return_inverse=True)
    unknown = int(len(distinct) > 0 and distinct[0] < 0)
    return distinct[unknown:], (place - unknown).astype(np.int32)


def _counts(states: States, entity: Entity, rows: Rows | Ids, place: Rows, now: int) -> Doubles:
    """Counts of `rows`, each decayed once, then repeated by `place` (into `rows`, -1 for zeros): (C, A, H)."""
    return np.asarray(decay.read(states, entity, np.append(rows, -1), now)[place])


def _post_ids(key: bytes, members: Sequence[bytes]) -> Ids:
    if not set(map(len, members)) <= {_MEMBER_BYTES}:
        wrong = next(member for member in members if len(member) != _MEMBER_BYTES)
        raise invalid_value(key, f"must hold members of {_MEMBER_BYTES} bytes", wrong)
    return trending.from_members(members)


def _watermark(generation: keys.Generation, applied: bytes | None) -> str:
    """The applied stream id; empty when a load had no records to apply."""
    found = parse_stream_id(generation.applied, applied)
    return "" if found == "0-0" else found


def _unsettled() -> DependencyError:
    return DependencyError(f"the online features were replaced {_ATTEMPTS} times during one read; try again")
