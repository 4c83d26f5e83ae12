"""Generations: a batch load replaces all rows of counters at once, under readers and writers that go on.

Takes a `Snapshot` made from the lake and the stream id it reaches to. Writes every row under a new number, applies what
came on the stream since with the code that the consumer uses, and moves the pointer only when the new rows hold every
record that the old ones do: counters never go back in time. It does not know how the snapshot was computed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

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
from recsys.online.pointer import current, newest, no_generation
from recsys.online.rows import trending
from recsys.online.rows.layout import FORGOTTEN, ClickColumns, Entries, UserColumns, newest_clicks, pack, pack_users
from recsys.online.stream.log import RedisStream
from recsys.online.tombstones import Erased, read_erased
from recsys.types import Ids, Mask, Times

__all__ = ["clear", "current", "load_snapshot", "no_generation", "snapshot_users"]

CHUNK = 500
"""Rows per round trip: Redis answers nobody else while it writes them, some 5 ms."""

_WRITE_ROWS = """
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[1]) end
"""
"""One command instead of hundreds: ARGV[1] is the lifetime in ms, then one value per key."""

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
"""KEYS: the pointer, the tombstones' version, our applied position, the stream. ARGV: our number, the version whose
people our rows leave out, and what stands before and behind the number of a generation in its applied key.

A client that lost the answer sends this again: it has switched, then. A pointer that is no number is overwritten, and
nobody waits for a position that is none."""

_WAITS_S = (0.05, 0.2, 0.5)
"""Before a step of the replay that failed is tried again."""


def load_snapshot(
    client: redis.Redis,
    catalogue: Catalogue,
    snapshot: Snapshot,
    config: OnlineConfig,
    watermark: str,
    now: int,
    progress: Callable[[int, int], None] | None = None,
    impressions: Literal["explicit", "implied"] = "explicit",
    left_out: Erased | None = None,
) -> None:
    """Write a new generation, bring it up to the stream, switch to it, remove the older ones.

    Rows idle for longer than `rows.FORGOTTEN` before `now` are left out: nothing is left of their counts.

    Args:
        watermark: last stream id whose events the snapshot holds (`consumer.lake_watermark`); empty when none.
        now: the logs' end and origin of the trending scores, microseconds.
        progress: called with rows written and rows in all.
        impressions: what counts as exposure in the records after the watermark, `offline.impressions`.
        left_out: tombstones that the snapshot respects already; users of others lose their rows. None: of all, also
            those who came back as new people since.
    Raises: DataError when the stream was trimmed past the watermark or a number is none, DependencyError when Redis
    fails or a newer load overtook this one.
    """
    stream = RedisStream(client, config)
    with stream.hold(watermark) as still_held:
        newest(client)  # of what is no number INCR would not say where it is
        generation = keys.Generation(int(send(client, "INCR", keys.NEWEST)))
        erased = read_erased(client)
        _write_rows(client, catalogue, snapshot, config, generation, now, _erased_since(left_out, erased), progress)
        _write_trending(client, catalogue, snapshot, config, generation, now)
        send(client, "SET", generation.origin, now)
        send(client, "SET", generation.applied, watermark or "0-0")
        sink = OnlineSink(client, stream, catalogue, config, impressions, generation)
        answer = b"behind"
        while answer != b"switched":
            if answer == b"behind":
                while _replayed(sink) >= config.batch_size:
                    pass
                still_held()
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
    _remove_older(client, generation)


def _replayed(sink: OnlineSink) -> int:
    """One step of the replay. A dropped connection is bridged: the position says what became of the write."""
    for wait_s in _WAITS_S:
        try:
            return sink.step()
        except DependencyError:
            time.sleep(wait_s)
    return sink.step()


def _erased_since(before: Erased | None, erased: Erased) -> Ids:
    """Users whose tombstone is not among those of before, or says a later moment."""
    if before is None:
        return erased.user_id
    return erased.user_id[~before.covers(erased.user_id, erased.until)]


def clear(client: redis.Redis) -> None:
    """Remove everything of ours, stream and clock included: for another world, whose ids mean other things."""
    for name in client.scan_iter(match=keys.EVERYTHING, count=CHUNK):
        send(client, "UNLINK", name)


def snapshot_users(catalogue: Catalogue, snapshot: Snapshot, limit: int) -> tuple[Ids, UserColumns]:
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

    clicks: ClickColumns = newest_clicks(
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
    """Every row but those of `erased` users and those that nothing happened to for `FORGOTTEN`."""
    oldest = now - FORGOTTEN
    user_id, users = snapshot_users(catalogue, snapshot, CLICKS_KEPT * config.history_size)
    users_kept = (_newest(users) >= oldest) & ~np.isin(user_id, erased)
    kept = {entity: snapshot.states[entity.name].t >= oldest for entity in (POST, AUTHOR, TOPIC)}
    total = int(users_kept.sum() + sum(rows.sum() for rows in kept.values()))
    done = 0
    for names, values in _chunks(catalogue, snapshot, generation, kept, user_id, users, users_kept):
        send(client, "EVAL", _WRITE_ROWS, len(names), *names, int(config.ttl_s * 1000), *values)
        done += len(names)
        if progress is not None:
            progress(done, total)


def _newest(users: UserColumns) -> Times:
    """When each user was last heard of, (U,)."""
    newest = users.states.t.copy()
    parts = [(part.count, part.states.t) for part in (users.topics, users.authors)]
    for count, moment in [*parts, (users.clicks.count, users.clicks.time)]:
        np.maximum.at(newest, np.repeat(np.arange(len(newest)), count), moment)
    return newest.astype(np.int64)


def _chunks(
    catalogue: Catalogue,
    snapshot: Snapshot,
    generation: keys.Generation,
    kept: dict[Entity, Mask],
    user_id: Ids,
    users: UserColumns,
    users_kept: Mask,
) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Names and rows, some at a time."""
    outside = {POST: catalogue.post_id, AUTHOR: catalogue.author_id, TOPIC: keys.topic_keys(catalogue)}
    for entity, ids in outside.items():
        t, v = snapshot.states[entity.name]
        rows = np.flatnonzero(kept[entity])
        for start in range(0, len(rows), CHUNK):
            some = rows[start : start + CHUNK]
            named = ids[snapshot.keys[entity.name][some]]
            yield generation.rows(entity.name, named), pack(entity, States(t[some], v[some]))
    for start in range(0, len(user_id), CHUNK):
        part = slice(start, start + CHUNK)
        chosen = np.flatnonzero(users_kept[part]).tolist()
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
