"""Decayed counts as each query saw them: one merge of events and queries, key by key, in bounded memory.

Takes unsorted columns of events and queries of one entity; gives the counts that each query saw. It does not know what
the keys stand for.

How the work is divided:

    all rows --hash of key--> rounds    one thread takes one round at a time; a round fits ROUND_ROWS
                              buckets   a round has many buckets; a bucket fits a core's cache
    a bucket: sort by order (skipped if sorted), then walk events and queries together once

All rows of a key fall into one bucket and are walked in one order by one thread, so results do not depend on the number
of threads or rounds, to the last bit.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from queue import SimpleQueue
from typing import NamedTuple

import numba
import numpy as np

from recsys.features.decay import JIT, run
from recsys.features.spec import Entity
from recsys.hashing import mix64
from recsys.types import Doubles, Ids, Rows, Times

_mix64 = numba.extending.register_jitable(mix64)

ROUND_ROWS = 1 << 23
"""Rows per round, at 32 bytes each. Peak memory beyond input and output is this times the threads, plus 4 bytes a row
for its bucket number. One key cannot be split: a round with a larger key is as large as that key."""
_BUCKET_ROWS = 1 << 13
"""Rows per bucket: a quarter of a megabyte of rows, and as much again of working memory, fit a core's cache."""


class EventColumns(NamedTuple):
    """M events of one entity, in any order."""

    key: Ids
    """What the event counts for; -1 for nothing, (M,)."""
    time: Times
    """Moment the event decays from, microseconds, (M,)."""
    order: Times
    """An event is visible to the queries of higher order. Events of equal order are taken in row order, (M,)."""
    action: Rows
    """Codes in `ACTIONS`; those the entity does not keep are skipped, (M,)."""


class QueryColumns(NamedTuple):
    """Q queries, in any order."""

    key: Ids
    """What to count for; -1 for nothing, (Q,)."""
    now: Times
    """Moment the counts are decayed to, microseconds, (Q,)."""
    order: Times
    """The query sees the events of lower order, (Q,)."""


def as_of(entity: Entity, events: EventColumns, queries: QueryColumns, n_threads: int) -> Doubles:
    """Counts decayed to each query's `now`, from the events of lower order than the query.

    Returns: (Q, A, H); zeros where no event was visible.
    """
    n_rows = len(events.key) + len(queries.key)
    out = np.zeros((len(queries.key), *entity.shape))  # (Q, A, H)
    if not len(queries.key) or not len(events.key):
        return out
    key, time, order = (np.ascontiguousarray(column, np.int64) for column in events[:3])
    events = EventColumns(key, time, order, np.ascontiguousarray(events.action, np.int32))
    queries = QueryColumns(*(np.ascontiguousarray(column, np.int64) for column in queries))
    # 1. Divide: rounds for the memory, a multiple of the threads; buckets for the cache, a multiple of the rounds.
    n_rounds = n_threads * -(-n_rows // (ROUND_ROWS * n_threads))
    n_buckets = n_rounds * (n_rows // (_BUCKET_ROWS * n_rounds) + 1)
    with ThreadPoolExecutor(n_threads) as pool:
        # 2. Bucket of each row, (M,) and (Q,), and rows per bucket, (n_buckets,) each.
        event_bucket, n_events = _buckets(events.key, n_buckets, n_threads, pool)
        query_bucket, n_queries = _buckets(queries.key, n_buckets, n_threads, pool)
        # 3. One pair of buffers per thread, as large as the largest round: new memory for each round costs time.
        most_events, most_queries = (counts.reshape(n_rounds, -1).sum(axis=1).max() for counts in (n_events, n_queries))
        buffers: SimpleQueue[tuple[Ids, Ids]] = SimpleQueue()
        for _ in range(n_threads):
            buffers.put((np.empty((most_events, 4), np.int64), np.empty((most_queries, 4), np.int64)))

        def work(number: int) -> None:
            event_rows, query_rows = buffer = buffers.get()
            per_round = n_buckets // n_rounds
            part = slice(number * per_round, (number + 1) * per_round)
            # 4. Copy the round's rows together, bucket by bucket, then merge each bucket.
            _gather_events(events, event_bucket, part.start, entity.action_rows, n_events[part], event_rows)
            _gather_queries(queries, query_bucket, part.start, n_queries[part], query_rows)
            _round(event_rows, n_events[part], query_rows, n_queries[part], entity.half_life_us, out)
            buffers.put(buffer)

        list(pool.map(work, range(n_rounds)))
    return out


def _buckets(key: Ids, n_buckets: int, n_threads: int, pool: ThreadPoolExecutor) -> tuple[Rows, Ids]:
    """Bucket of each key, -1 for none, (M,); and the number of rows per bucket, (n_buckets,)."""
    bucket = np.empty(len(key), np.int32)
    ends = [len(key) * part // n_threads for part in range(n_threads + 1)]
    parts = [slice(start, end) for start, end in pairwise(ends)]
    counts = pool.map(lambda part: _assign(key[part], n_buckets, bucket[part]), parts)
    return bucket, np.sum(list(counts), axis=0)


@JIT
def _hash(key):  # type: ignore[no-untyped-def]
    """32 well-mixed bits."""
    return np.int64(_mix64(np.uint64(key)) >> np.uint64(32))


@JIT
def _assign(key, n_buckets, bucket):  # type: ignore[no-untyped-def]
    """Write the bucket of each key, (M,); return the number of keys per bucket, (n_buckets,)."""
    counts = np.zeros(n_buckets, np.int64)
    for i in range(key.shape[0]):
        bucket[i] = -1
        if key[i] >= 0:
            # Multiply and shift maps 32 bits evenly onto a range, like a remainder but without a division.
            bucket[i] = (_hash(key[i]) * n_buckets) >> 32
            counts[bucket[i]] += 1
    return counts


@JIT
def _gather_events(events, bucket, first, action_rows, counts, rows):  # type: ignore[no-untyped-def]
    """Copy the events of the buckets `first`, `first + 1`, ... into `rows`, bucket by bucket.

    Columns of `rows`: key, time, order, place of the action among the kept ones (-1: not kept).
    """
    key, time, order, action = events.key, events.time, events.order, events.action
    place = np.cumsum(counts) - counts  # next free row of each bucket
    n = np.uint64(counts.shape[0])
    for i in range(key.shape[0]):
        b = np.uint64(bucket[i] - first)  # a bucket below `first` wraps around to a huge number
        if b < n:
            at = place[b]
            place[b] = at + 1
            rows[at, 0] = key[i]
            rows[at, 1] = time[i]
            rows[at, 2] = order[i]
            rows[at, 3] = action_rows[action[i]]


@JIT
def _gather_queries(queries, bucket, first, counts, rows):  # type: ignore[no-untyped-def]
    """Copy the queries of the buckets `first`, `first + 1`, ... into `rows`, bucket by bucket.

    Columns of `rows`: key, now, order, number of the query.
    """
    key, now, order = queries.key, queries.now, queries.order
    place = np.cumsum(counts) - counts
    n = np.uint64(counts.shape[0])
    for i in range(key.shape[0]):
        b = np.uint64(bucket[i] - first)
        if b < n:
            at = place[b]
            place[b] = at + 1
            rows[at, 0] = key[i]
            rows[at, 1] = now[i]
            rows[at, 2] = order[i]
            rows[at, 3] = i


@JIT
def _round(events, n_events, queries, n_queries, half_life_us, out):  # type: ignore[no-untyped-def]
    """Merge the gathered rows of one round, one bucket after the other."""
    event_end = np.cumsum(n_events)
    query_end = np.cumsum(n_queries)
    # Working memory for the largest bucket, allocated once: fresh memory would be cleared for every bucket.
    scratch = np.empty((5, n_events.max() + n_queries.max()), np.int64)
    keys, places = np.empty(_table_size(n_queries.max()), np.int64), np.empty(_table_size(n_queries.max()), np.int64)
    for bucket in range(n_events.shape[0]):
        if n_queries[bucket] and n_events[bucket]:
            some_events = events[event_end[bucket] - n_events[bucket] : event_end[bucket]]
            some_queries = queries[query_end[bucket] - n_queries[bucket] : query_end[bucket]]
            _bucket(some_events, some_queries, scratch, keys, places, half_life_us, out)


@JIT
def _table_size(n_keys):  # type: ignore[no-untyped-def]
    """Slots of a hash table that stays at most half full: a power of two."""
    size = 1
    while size < 2 * n_keys:
        size *= 2
    return size


@JIT
def _slot(key, keys, places):  # type: ignore[no-untyped-def]
    """Slot of a key in the hash table, or the free slot where it belongs (linear probing)."""
    # The bucket number comes from the high bits of the hash, so the low bits still differ within a bucket.
    mask = np.uint64(keys.shape[0] - 1)
    at = np.uint64(_hash(key)) & mask
    while places[at] >= 0 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return at


@JIT
def _bucket(events, queries, scratch, keys, places, half_life_us, out):  # type: ignore[no-untyped-def]
    """Merge one bucket: m events (m, 4) and q queries (q, 4), as gathered above.

    Args:
        scratch: working memory, (5, >= m + q).
        keys, places: memory for the hash table.
    """
    # 1. Number the queried keys 0, 1, ... and replace keys by these numbers; -1 for events of keys nobody queries.
    size = _table_size(queries.shape[0])
    keys, places = keys[:size], places[:size]
    places[:] = -1
    n_keys = 0
    for q in range(queries.shape[0]):
        at = _slot(queries[q, 0], keys, places)
        if places[at] < 0:
            keys[at] = queries[q, 0]
            places[at] = n_keys
            n_keys += 1
        queries[q, 0] = places[at]
    for e in range(events.shape[0]):
        events[e, 0] = places[_slot(events[e, 0], keys, places)]
    # 2. Sort both by order: places of events (m,) and of queries (q,). The first rows of scratch are free until step 3.
    row, moment, what = scratch[0], scratch[1], scratch[2]
    n_events = events.shape[0]
    event_at = _sorted_by_order(events, scratch[3, :n_events], scratch[0, :n_events])
    query_at = _sorted_by_order(queries, scratch[4, : queries.shape[0]], scratch[1, : queries.shape[0]])
    # 3. Merge into one list of operations for `run`: before each query, the events of lower order.
    e = 0
    for place in range(queries.shape[0]):
        q = query_at[place]
        while e < events.shape[0] and events[event_at[e], 2] < queries[q, 2]:
            i = event_at[e]
            row[e + place] = events[i, 0] if events[i, 3] >= 0 else -1
            moment[e + place] = events[i, 1]
            what[e + place] = events[i, 3]
            e += 1
        row[e + place] = queries[q, 0]
        moment[e + place] = queries[q, 1]
        what[e + place] = -1 - queries[q, 3]
    n = e + queries.shape[0]  # events after the last query are left out
    # 4. Run them from empty states, one per key.
    t = np.zeros(n_keys)
    v = np.zeros((n_keys, out.shape[1], out.shape[2]))
    run(t, v, row[:n], moment[:n], what[:n], half_life_us, out)


@JIT
def _sorted_by_order(rows, words, other):  # type: ignore[no-untyped-def]
    """Places of the rows in ascending order of column 2, (n,); a stable radix sort, 11 bits at a time.

    The words sorted are `order << place_bits | place`, so that one word moves per row and pass. If order and place do
    not fit into 63 bits together, a comparison sort is used.

    Args:
        words: receives the result, (n,).
        other: working memory, (n,).
    """
    # 1. Range of the order; nothing to do if it ascends already.
    n = rows.shape[0]
    low, high, ascending = rows[0, 2], rows[0, 2], True
    for i in range(1, n):
        ascending &= rows[i, 2] >= rows[i - 1, 2]
        low = min(low, rows[i, 2])
        high = max(high, rows[i, 2])
    if ascending:
        for i in range(n):
            words[i] = i
        return words
    # 2. Bits for the place and for the order.
    place_bits, bits = 1, 1
    while n >> place_bits:
        place_bits += 1
    # The difference of two int64 may need 64 bits; compare as doubles first, which cannot wrap around.
    if float(high) - float(low) >= 2.0**62 or (high - low) >> (63 - place_bits):
        words[:] = np.argsort(rows[:, 2].copy(), kind="mergesort")
        return words
    while (high - low) >> bits:
        bits += 1
    # 3. Counting sort by each digit of the order, from the lowest up; the two arrays swap roles each pass.
    result = words
    for i in range(n):
        words[i] = (rows[i, 2] - low) << place_bits | i
    starts = np.empty(2048, np.int64)
    for shift in range(place_bits, place_bits + bits, 11):
        starts[:] = 0
        for i in range(n):
            starts[words[i] >> shift & 2047] += 1
        total = 0
        for digit in range(2048):
            total, starts[digit] = total + starts[digit], total
        for i in range(n):
            digit = words[i] >> shift & 2047
            other[starts[digit]] = words[i]
            starts[digit] += 1
        words, other = other, words
    # 4. Keep the place only.
    for i in range(n):
        result[i] = words[i] & ((1 << place_bits) - 1)
    return result
