"""Generations: a batch load replaces all rows of counters at once, under readers and writers that go on.

Takes a `Snapshot` made from the lake and the stream id it reaches to. Writes every row under a new number, records that
id as applied and only then moves the pointer; the consumer goes on from there, so events that came after the snapshot
are applied to it next. It does not know how the snapshot was computed, nor what a stream record holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.errors import DataError, DependencyError
from recsys.features.decay import States
from recsys.features.point_in_time import Snapshot
from recsys.features.spec import AUTHOR, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC
from recsys.offline.catalogue import Catalogue
from recsys.online import keys, trending
from recsys.online.commands import send
from recsys.online.rows import Clicks, Entries, Users, newest_clicks, pack, pack_users
from recsys.online.stream import position
from recsys.types import Ids

CHUNK = 2000
"""Rows per round trip."""

CLICKS_KEPT = 2
"""Clicks kept per user, in `history_size`s: readers drop posts they do not know and still find a full history."""

WRITE_ROWS = """
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end
"""
"""One command instead of thousands: ARGV[1] is the lifetime in ms, then one value per key."""

_SWITCH = """
if tonumber(redis.call('GET', KEYS[1]) or 0) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""


def no_generation() -> DataError:
    return DataError("the online store holds no features yet; run `recsys train`, which ends by loading them")


def current(client: redis.Redis) -> keys.Generation:
    """The generation in use. Raises: DataError when none was ever loaded."""
    number = send(client, "GET", keys.CURRENT)
    if number is None:
        raise no_generation()
    return keys.Generation(int(number))


def load_snapshot(
    client: redis.Redis,
    catalogue: Catalogue,
    snapshot: Snapshot,
    config: OnlineConfig,
    watermark: str,
    now: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a new generation, switch to it, remove the older ones.

    Args:
        watermark: last stream id whose events the snapshot holds (`consumer.lake_watermark`); empty when none.
        now: origin of the trending scores, microseconds.
        progress: called with rows written and rows in all.
    Raises: DataError when the stream was trimmed past the watermark, DependencyError when Redis fails or a newer load
    overtook this one.
    """
    trimmed = (send(client, "GET", keys.TRIMMED) or b"").decode()
    if position(trimmed) > position(watermark):
        raise DataError(
            f"the stream must still hold what follows {watermark or 'its beginning'}, but was trimmed up to {trimmed}; "
            "run `recsys train` again, or empty the online store if the lake was made anew"
        )
    generation = keys.Generation(int(send(client, "INCR", keys.NEWEST)))
    _write_rows(client, catalogue, snapshot, config, generation, progress)
    _write_trending(client, catalogue, snapshot, config, generation, now)
    send(client, "SET", generation.origin, now)
    send(client, "SET", generation.applied, watermark or "0-0")
    if not send(client, "EVAL", _SWITCH, 1, keys.CURRENT, generation.number):
        raise DependencyError(
            f"generation {generation.number} of the online features was overtaken by a newer load; keep that one"
        )
    _remove_older(client, generation)


def clear(client: redis.Redis) -> None:
    """Remove everything of ours, stream and clock included: for another world, whose ids mean other things."""
    for name in client.scan_iter(match=keys.EVERYTHING, count=CHUNK):
        send(client, "UNLINK", name)


def snapshot_users(catalogue: Catalogue, snapshot: Snapshot, limit: int) -> tuple[Ids, Users]:
    """User ids and their rows, at most `limit` clicks each."""
    n_topics, n_authors = len(catalogue.topics) + 1, max(catalogue.n_authors, 1)
    user_key, topic_key, author_key = (snapshot.keys[entity.name] for entity in (USER, USER_TOPIC, USER_AUTHOR))
    user_row = np.unique(
        np.concatenate([user_key, topic_key // n_topics, author_key // n_authors, snapshot.click_user])
    )
    own = States.zeros(len(user_row), USER)
    place = np.searchsorted(user_row, user_key)
    own.t[place], own.v[place] = snapshot.states[USER.name]
    outside_topic = keys.topic_keys(catalogue)

    def entries(owner: Ids, key: Ids, states: States) -> Entries:
        owner = np.searchsorted(user_row, owner)
        order = np.lexsort((key, owner))
        return Entries(
            np.bincount(owner, minlength=len(user_row)), key[order], States(states.t[order], states.v[order])
        )

    clicks: Clicks = newest_clicks(
        np.searchsorted(user_row, snapshot.click_user),
        catalogue.post_id[snapshot.click_post],
        snapshot.click_time,
        len(user_row),
        limit,
    )
    topics = entries(topic_key // n_topics, outside_topic[topic_key % n_topics], snapshot.states[USER_TOPIC.name])
    authors = entries(
        author_key // n_authors, catalogue.author_id[author_key % n_authors], snapshot.states[USER_AUTHOR.name]
    )
    return catalogue.user_id[user_row], Users(own, topics, authors, clicks)


def _write_rows(
    client: redis.Redis,
    catalogue: Catalogue,
    snapshot: Snapshot,
    config: OnlineConfig,
    generation: keys.Generation,
    progress: Callable[[int, int], None] | None,
) -> None:
    user_id, users = snapshot_users(catalogue, snapshot, CLICKS_KEPT * config.history_size)
    total = len(user_id) + sum(len(snapshot.keys[entity.name]) for entity in (POST, AUTHOR, TOPIC))
    done = 0
    for names, values in _chunks(catalogue, snapshot, generation, user_id, users):
        send(client, "EVAL", WRITE_ROWS, len(names), *names, int(config.ttl_s * 1000), *values)
        done += len(names)
        if progress is not None:
            progress(done, total)


def _chunks(
    catalogue: Catalogue, snapshot: Snapshot, generation: keys.Generation, user_id: Ids, users: Users
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    outside = {POST: catalogue.post_id, AUTHOR: catalogue.author_id, TOPIC: keys.topic_keys(catalogue)}
    for entity, ids in outside.items():
        t, v = snapshot.states[entity.name]
        named = ids[snapshot.keys[entity.name]]
        for start in range(0, len(named), CHUNK):
            part = slice(start, start + CHUNK)
            yield generation.rows(entity.name, named[part]), pack(entity, States(t[part], v[part]))
    for start in range(0, len(user_id), CHUNK):
        stop = start + CHUNK
        yield generation.rows(USER.name, user_id[start:stop]), pack_users(users.part(start, stop))


def _write_trending(
    client: redis.Redis,
    catalogue: Catalogue,
    snapshot: Snapshot,
    config: OnlineConfig,
    generation: keys.Generation,
    now: int,
) -> None:
    ranked = trending.rank(catalogue, snapshot.click_post, snapshot.click_time, now, config.trending_size)
    for language, (post_row, score) in ranked.items():
        name = generation.trending(catalogue.languages[language] if language >= 0 else None)
        pairs: list[Any] = []
        for number, member in zip(score.tolist(), trending.to_members(catalogue.post_id[post_row]), strict=True):
            pairs += (number, member)
        send(client, "ZADD", name, *pairs)
        send(client, "PEXPIRE", name, int(config.ttl_s * 1000))


def _remove_older(client: redis.Redis, generation: keys.Generation) -> None:
    """Unlink rows of every earlier generation, those of loads that died half-way included.

    Nobody needs them from the moment of the switch: readers fetch the pointer in the same atomic command as the rows.
    """
    cursor: bytes | int = 0
    while True:
        cursor, names = send(client, "SCAN", cursor, "MATCH", keys.GENERATIONS + b"*", "COUNT", CHUNK)
        old = [name for name in names if int(name[len(keys.GENERATIONS) :].split(b":", 1)[0]) < generation.number]
        if old:
            send(client, "UNLINK", *old)
        if int(cursor) == 0:
            return
