"""Load a snapshot of all counters into Redis while readers and writers go on.

Takes a `Snapshot` made from the lake and what it reflects (`SnapshotReach`). It

    1. writes every row under a new generation number,
    2. applies what came on the stream since, with the code of the consumer,
    3. switches to the new generation once it holds every record that the one in use does,
    4. removes the older generations.

So counters never go back in time. This module does not know how the snapshot was computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import redis

from recsys.config import OnlineConfig
from recsys.errors import DependencyError
from recsys.features.decay import States
from recsys.features.histories import KEPT as CLICKS_KEPT
from recsys.features.point_in_time import Snapshot
from recsys.features.spec import AUTHOR, POST, TOPIC, USER, USER_AUTHOR, USER_TOPIC, Entity
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online import keys
from recsys.online.connection.commands import send
from recsys.online.consumer.to_redis import OnlineSink
from recsys.online.generations import CHUNK, newest, remove_older
from recsys.online.rows import trending
from recsys.online.rows.counter_layout import FORGOTTEN, pack
from recsys.online.rows.user_layout import ClickColumns, Entries, UserColumns, newest_clicks, pack_users
from recsys.online.stream.log import RedisStream
from recsys.online.tombstones import Erased, read_erased
from recsys.types import Ids, Mask, Times

_WRITE_ROWS = """
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end
"""
"""One command instead of hundreds. ARGV: the time to live in ms, then one value per key."""

_SWITCH = """
local current = redis.call('GET', KEYS[1])
if current == ARGV[1] then return 'switched' end
if current and (tonumber(current) or 0) > tonumber(ARGV[1]) then return 'overtaken' end
if (redis.call('GET', KEYS[2]) or '0') ~= ARGV[2] then return 'erased' end
if current then
  local theirs, ours = redis.call('GET', ARGV[3] .. current .. ARGV[4]), redis.call('GET', KEYS[3])
  theirs = theirs and string.match(theirs, '^%d+%-?%d*$')
  if theirs and #redis.call('XRANGE', KEYS[4], '(' .. ours, theirs, 'COUNT', 1) > 0 then return 'behind' end
end
redis.call('SET', KEYS[1], ARGV[1])
return 'switched'
"""
"""KEYS: the pointer, the tombstones' version, our applied position, the stream. ARGV: our number, the version of the
tombstones that our rows respect, and the prefix and suffix around the generation's number in its applied key.

A client that lost the answer sends this again, and learns that it has switched. A pointer that is not a number is
overwritten; a position in the current generation that is not a stream id is ignored."""

_WAITS_S = (0.05, 0.2, 0.5)
"""Seconds to wait before each retry of a failed step of the replay."""


class SnapshotReach(NamedTuple):
    """What a snapshot reflects."""

    watermark: str
    """Last stream id whose events it holds (`consumer.to_lake.lake_watermark`); empty when none."""
    now: int
    """End of the logs, microseconds; origin of the trending scores."""
    erased: Erased | None = None
    """Tombstones that it respects: people erased since lose their rows. None: everybody who was ever erased loses
    theirs, also those who came back as new people."""


def load_snapshot(
    client: redis.Redis,
    catalogue: Catalogue,
    snapshot: Snapshot,
    config: OnlineConfig,
    reach: SnapshotReach,
    progress: Callable[[int, int], None] | None = None,
    impressions: Literal["explicit", "implied"] = "explicit",
) -> None:
    """Write a new generation, bring it up to the stream, switch to it, remove the older ones.

    Rows idle for longer than `FORGOTTEN` before `reach.now` are left out: nothing is left of their counts.

    Args:
        reach: what the snapshot reflects.
        progress: called with rows written and rows in all.
        impressions: what counts as exposure in the records after the watermark, `offline.impressions`.
    Raises: DataError when the stream was trimmed past the watermark or a stored number is invalid, DependencyError when
    Redis fails or a newer load overtook this one.
    """
    stream = RedisStream(client, config)
    with stream.hold(reach.watermark) as check_hold:
        # 1. Write every row under a new number. Parse the last number first: INCR would not name the key in its error.
        newest(client)
        generation = keys.Generation(int(send(client, "INCR", keys.NEWEST)))
        erased = read_erased(client)
        left_out = _erased_since(reach.erased, erased)
        _write_rows(client, catalogue, snapshot, config, generation, reach.now, left_out, progress)
        _write_trending(client, catalogue, snapshot, config, generation, reach.now)
        send(client, "SET", generation.origin, reach.now)
        send(client, "SET", generation.applied, reach.watermark or "0-0")
        sink = OnlineSink(client, stream, catalogue, config, impressions, generation)
        answer = b"behind"
        while answer != b"switched":
            # 2. Replay the stream from the watermark on.
            if answer == b"behind":
                while _replay_step(sink) >= config.batch_size:
                    pass
                check_hold()
            # 3. Switch, unless the rows in use hold records that the new ones do not, or somebody was erased meanwhile.
            answer = send(
                client, "EVAL", _SWITCH, 4, keys.CURRENT, keys.ERASED_VERSION, generation.applied, keys.STREAM,
                generation.number, erased.version, keys.GENERATIONS, b":applied",
            )  # fmt: skip
            if answer == b"overtaken":
                raise DependencyError(
                    f"generation {generation.number} of the online features was overtaken by a newer load; "
                    "keep that one"
                )
            if answer == b"erased":
                before, erased = erased, read_erased(client)
                users = _erased_since(before, erased)
                if len(users):
                    send(client, "UNLINK", *generation.rows(USER.name, users))
    # 4. Remove the older generations.
    remove_older(client, generation)


def _replay_step(sink: OnlineSink) -> int:
    """One step of the replay, retried when the connection drops: the position tells whether the write went through."""
    for wait_s in _WAITS_S:
        try:
            return sink.step()
        except DependencyError:
            time.sleep(wait_s)
    return sink.step()


def _erased_since(before: Erased | None, erased: Erased) -> Ids:
    """Users whose tombstone is not in `before`, or has a later moment now."""
    if before is None:
        return erased.user_id
    return erased.user_id[~before.covers(erased.user_id, erased.until)]


def snapshot_users(catalogue: Catalogue, snapshot: Snapshot, limit: int) -> tuple[Ids, UserColumns]:
    """Ids and rows of all users in a snapshot, at most `limit` clicks each."""
    # 1. Every user with a counter, an entry or a click, by user row, (U,). Keys of entries are user row * n + column.
    n_topics, n_authors = len(catalogue.topics) + 1, max(catalogue.n_authors, 1)
    user_key, topic_key, author_key = (snapshot.keys[entity.name] for entity in (USER, USER_TOPIC, USER_AUTHOR))
    user_row = np.unique(
        np.concatenate([user_key, topic_key // n_topics, author_key // n_authors, snapshot.click_user])
    )
    # 2. Own counters: t (U,), v (U, A, H).
    own = States.zeros(len(user_row), USER)
    place = np.searchsorted(user_row, user_key)
    own.t[place], own.v[place] = snapshot.states[USER.name]

    # 3. Entries under outside keys, by user and then by key.
    def entries(owner: Ids, key: Ids, states: States) -> Entries:
        owner = np.searchsorted(user_row, owner)
        order = np.lexsort((key, owner))
        return Entries(
            np.bincount(owner, minlength=len(user_row)), key[order], States(states.t[order], states.v[order])
        )

    outside_topic = keys.topic_keys(catalogue)
    topics = entries(topic_key // n_topics, outside_topic[topic_key % n_topics], snapshot.states[USER_TOPIC.name])
    authors = entries(
        author_key // n_authors, catalogue.author_id[author_key % n_authors], snapshot.states[USER_AUTHOR.name]
    )
    # 4. Clicks, newest first.
    clicks: ClickColumns = newest_clicks(
        np.searchsorted(user_row, snapshot.click_user),
        catalogue.post_id[snapshot.click_post],
        snapshot.click_time,
        len(user_row),
        limit,
    )
    return catalogue.user_id[user_row], UserColumns(own, topics, authors, clicks)


def _write_rows(
    client: redis.Redis,
    catalogue: Catalogue,
    snapshot: Snapshot,
    config: OnlineConfig,
    generation: keys.Generation,
    now: int,
    erased: Ids,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Write all rows except those of `erased` users and those idle for `FORGOTTEN`."""
    oldest = now - FORGOTTEN
    user_id, users = snapshot_users(catalogue, snapshot, CLICKS_KEPT * config.history_size)
    users_kept = (_last_seen(users) >= oldest) & ~np.isin(user_id, erased)
    kept = {entity: snapshot.states[entity.name].t >= oldest for entity in (POST, AUTHOR, TOPIC)}
    total = int(users_kept.sum() + sum(rows.sum() for rows in kept.values()))
    done = 0
    chunks = (
        _counter_chunks(catalogue, snapshot, generation, kept),
        _user_chunks(generation, user_id, users, users_kept),
    )
    for names, values in (chunk for part in chunks for chunk in part):
        send(client, "EVAL", _WRITE_ROWS, len(names), *names, int(config.ttl_s * 1000), *values)
        done += len(names)
        if progress is not None:
            progress(done, total)


def _last_seen(users: UserColumns) -> Times:
    """Time of each user's newest counter, entry or click, (U,)."""
    newest_time = users.states.t.copy()
    parts = [(part.count, part.states.t) for part in (users.topics, users.authors)]
    for count, moment in [*parts, (users.clicks.count, users.clicks.time)]:
        np.maximum.at(newest_time, np.repeat(np.arange(len(newest_time)), count), moment)
    return newest_time.astype(np.int64)


def _counter_chunks(
    catalogue: Catalogue, snapshot: Snapshot, generation: keys.Generation, kept: dict[Entity, Mask]
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Keys and rows of posts, authors and topics, at most `CHUNK` at a time."""
    outside = {POST: catalogue.post_id, AUTHOR: catalogue.author_id, TOPIC: keys.topic_keys(catalogue)}
    for entity, ids in outside.items():
        t, v = snapshot.states[entity.name]
        rows = np.flatnonzero(kept[entity])
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            named = ids[snapshot.keys[entity.name][chunk]]
            yield generation.rows(entity.name, named), pack(entity, States(t[chunk], v[chunk]))


def _user_chunks(
    generation: keys.Generation, user_id: Ids, users: UserColumns, kept: Mask
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Keys and rows of users, at most `CHUNK` at a time."""
    for start in range(0, len(user_id), CHUNK):
        part = slice(start, start + CHUNK)
        chosen = np.flatnonzero(kept[part]).tolist()
        if chosen:
            packed = pack_users(users.part(start, start + CHUNK))
            yield generation.rows(USER.name, user_id[part][chosen]), [packed[place] for place in chosen]


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
