"""What a request reads about its user and its candidates, in one round trip each, and what it writes when answered.

Takes outside user ids and dense post rows, gives dense rows and counters decayed to `now`. `RedisStore` reads Redis,
`SnapshotStore` gives the same numbers from memory. Neither knows features: counters become columns in
`features.assemble`.

Every read fetches the pointer to the current generation in the same atomic command as the rows, so a batch load is
noticed by the very next read, and no read mixes two generations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.errors import DependencyError
from recsys.features import decay
from recsys.features.point_in_time import Snapshot, entity_keys
from recsys.features.spec import AUTHOR, ENTITIES, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC
from recsys.offline.catalogue import Catalogue, lookup
from recsys.online import keys, trending
from recsys.online.commands import send, send_together
from recsys.online.generations import current, load_snapshot, no_generation
from recsys.online.records import Returned
from recsys.online.rows import unpack, unpack_users
from recsys.online.stream import RedisStream
from recsys.types import Doubles, Ids, Rows

__all__ = ["CountsRead", "OnlineStore", "RedisStore", "SnapshotStore", "UserRead", "load_snapshot"]

_NOTHING: Rows = np.empty(0, np.int32)
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class UserRead:
    """What is known about a user before candidates are; posts the catalogue does not know are dropped."""

    history: Rows
    """Clicked posts, newest first, at most `history_size`."""
    returned: Rows
    """Posts sent before, newest first, at most `returned_size`."""
    trending: Rows
    """Trending posts of the language, best first, at most `trending_size`."""


@dataclass(frozen=True, slots=True)
class CountsRead:
    """Counters of one request's candidates, decayed to its `now`."""

    counts: dict[str, Doubles]
    """Entity name to (C, A, H); `user` has (1, A, H)."""
    watermark: str
    """Last stream id these counters reflect; empty when nothing was streamed yet."""


class OnlineStore(Protocol):
    """Any user id may be asked for, also one the catalogue does not know; post rows are >= 0."""

    @property
    def catalogue(self) -> Catalogue:
        """What its rows mean."""
        ...

    def read_user(self, user_id: int, language: int, now: int) -> UserRead: ...

    def read_counts(self, user_id: int, post_row: Rows, now: int) -> CountsRead: ...


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
        """Raises: DependencyError when Redis does not answer, DataError when nothing is loaded or a row is not ours."""
        name = self.catalogue.languages[language] if language >= 0 else None

        def commands(generation: keys.Generation) -> list[list[Any]]:
            return [
                ["GET", *generation.rows(USER.name, np.array([user_id]))],
                ["ZREVRANGE", keys.returned(user_id), 0, self.config.returned_size - 1],
                ["ZREVRANGE", generation.trending(name), 0, self.config.trending_size - 1],
            ]

        asked, (row, returned, trend) = self._read(commands)
        users = unpack_users(asked[0][1:], [row])
        return UserRead(
            history=self._known(users.clicks.post_id)[: self.config.history_size],
            returned=self._known(trending.from_members(returned)),
            trending=self._known(trending.from_members(trend)),
        )

    def read_counts(self, user_id: int, post_row: Rows, now: int) -> CountsRead:
        """Raises: as `read_user`."""
        catalogue = self.catalogue
        post_id = np.asarray(catalogue.post_id[post_row])
        author, of_author = _distinct(catalogue.author[post_row])
        topic, of_topic = _distinct(catalogue.likely_topic[post_row] + 1)
        author_id, topic_key = np.asarray(catalogue.author_id[author]), self._topic_key[topic]
        ends = np.cumsum([1, len(topic_key), len(author_id), len(post_id)]).tolist()

        def commands(generation: keys.Generation) -> list[list[Any]]:
            return [
                [
                    "MGET",
                    keys.CURRENT,
                    generation.applied,
                    *generation.rows(USER.name, np.array([user_id])),
                    *generation.rows(TOPIC.name, topic_key),
                    *generation.rows(AUTHOR.name, author_id),
                    *generation.rows(POST.name, post_id),
                ]
            ]

        (command,), (values,) = self._read(commands)
        applied, names, values = values[1], command[3:], values[2:]
        counts: dict[str, Doubles] = {}
        for entity, start, stop, place in (
            (TOPIC, ends[0], ends[1], of_topic),
            (AUTHOR, ends[1], ends[2], of_author),
            (POST, ends[2], ends[3], np.arange(len(post_id), dtype=np.int32)),
        ):
            states = unpack(entity, names[start:stop], values[start:stop])
            counts[entity.name] = decay.read(states, entity, place, now)
        user = unpack_users(names[:1], values[:1])
        counts[USER.name] = decay.read(user.states, USER, np.zeros(1, np.int32), now)
        topic_place = lookup(user.topics.key, topic_key)[of_topic]
        counts[USER_TOPIC.name] = decay.read(user.topics.states, USER_TOPIC, topic_place, now)
        # One more place at the end, for posts without an author: index -1 finds it.
        author_place = np.append(lookup(user.authors.key, author_id), np.int32(-1))[of_author]
        counts[USER_AUTHOR.name] = decay.read(user.authors.states, USER_AUTHOR, author_place, now)
        return CountsRead(counts, "" if applied == b"0-0" else applied.decode())

    def record_returned(self, record: Returned) -> None:
        """Remember what this user was sent and put the record on the stream, all or nothing, in one round trip.

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

    def _read(self, commands: Callable[[keys.Generation], list[list[Any]]]) -> tuple[list[list[Any]], list[Any]]:
        """Send a generation's commands; again when it turns out to be no longer the current one.

        The pointer travels with them: as the first key of a lone MGET, or as a GET in the same transaction.
        """
        generation = self._generation or current(self.client)
        for _ in range(_ATTEMPTS):
            asked = commands(generation)
            if len(asked) == 1:
                answers = [send(self.client, *asked[0])]
                number = answers[0][0]
            else:
                number, *answers = send_together(self.client, [["GET", keys.CURRENT], *asked])
            if number is None:
                raise no_generation()
            if int(number) == generation.number:
                self._generation = generation
                return asked, answers
            generation = keys.Generation(int(number))
        raise DependencyError(f"the online features were replaced {_ATTEMPTS} times during one read; try again")

    def _known(self, post_id: Ids) -> Rows:
        rows = self.catalogue.post_rows(post_id)
        return rows[rows >= 0]


class SnapshotStore:
    """The same answers from a `Snapshot` in memory, as right after it was loaded."""

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
        # Any origin gives the same order.
        origin = int(snapshot.click_time.max(initial=0))
        ranked = trending.rank(catalogue, snapshot.click_post, snapshot.click_time, origin, config.trending_size)
        self._trending = {language: post_row for language, (post_row, _) in ranked.items()}

    def read_user(self, user_id: int, language: int, now: int) -> UserRead:
        user_row = int(self.catalogue.user_rows([user_id])[0])
        start, stop = np.searchsorted(self.snapshot.click_user, [user_row, user_row + 1])
        clicked = self.snapshot.click_post[start:stop][: self.config.history_size]
        return UserRead(
            history=clicked if user_row >= 0 else _NOTHING,
            returned=self._returned.get(user_id, _NOTHING),
            trending=self._trending.get(language, _NOTHING),
        )

    def read_counts(self, user_id: int, post_row: Rows, now: int) -> CountsRead:
        user_row = self.catalogue.user_rows([user_id])
        counts: dict[str, Doubles] = {}
        for entity in ENTITIES:
            asked = entity_keys(entity, self.catalogue, user_row, post_row)
            place = np.where(asked < 0, -1, lookup(self.snapshot.keys[entity.name], asked))
            counts[entity.name] = decay.read(self.snapshot.states[entity.name], entity, place, now)
        return CountsRead(counts, "")


def _distinct(rows: Rows) -> tuple[Rows, Rows]:
    """The different rows >= 0, and each row's place among them, -1 for row -1."""
    distinct, place = np.unique(rows, return_inverse=True)
    unknown = int(len(distinct) > 0 and distinct[0] < 0)
    return distinct[unknown:], (place - unknown).astype(np.int32)
