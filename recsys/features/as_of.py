"""Counts as they stood at each query: the linear merge of events with queries, entity by entity, in bounded memory.

Takes unsorted columns of events and queries of one kind of entity, gives the counts that each query saw. It does not
know what the keys are keys of.

An entity's events and queries belong together, so everything is split by a hash of the key: first into rounds that
threads take in turn, each small enough for `ROUND_ROWS`, then within a round into buckets small enough for a core's
cache. In a bucket, rows are sorted by order (skipped where they are sorted already) and walked once. Each entity is
always walked in the same order by one thread, so no bit depends on how many threads or rounds there are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from queue import SimpleQueue

import numba
import numpy as np

from recsys.features.decay import JIT, run
from recsys.features.spec import Entity
from recsys.hashing import mix64
from recsys.types import Doubles, Ids, Rows, Times

_mix64 = numba.extending.register_jitable(mix64)

ROUND_ROWS = 1 << 23
"""Rows a thread works on at a time, 32 bytes each. The memory beyond input and output is this times the threads, and
four bytes per row for the number of its bucket. Rows of one key cannot be divided: a round that has a key of more rows
than these takes as much more."""
_BUCKET_ROWS = 1 << 13
"""32 bytes each: a quarter of a megabyte, and as much again for sorting and running."""


def as_of(
    entity: Entity,
    key: Ids, time: Times, order: Times, action: Rows,
    query_key: Ids, query_now: Times, query_order: Times,
    n_threads: int,
) -> Doubles:  # fmt: skip
    """Counts decayed to each query's `now`, from the events whose order is below the query's.

    Args:
        key, query_key: what each event counts for and each query asks for; -1 for nothing, (M,) and (Q,).
        time: moments that events decay from, microseconds, (M,).
        order, query_order: an event is visible to a query when its order is lower; events of equal order are taken as
            they come, (M,) and (Q,).
        action: codes in `ACTIONS`; those the entity does not keep are passed over, (M,).
        query_now: microseconds, (Q,).
    Returns: (Q, A, H); zeros where nothing was visible.
    """
    out = np.zeros((len(query_key), *entity.shape))
    if not len(query_key) or not len(key):
        return out
    key, time, order = (np.ascontiguousarray(column, np.int64) for column in (key, time, order))
    query_key, query_now, query_order = (
        np.ascontiguousarray(column, np.int64) for column in (query_key, query_now, query_order)
    )
    action, kept, half_life_us = np.ascontiguousarray(action, np.int32), entity.action_rows, entity.half_life_us
    n_rounds = n_threads * -(-(len(key) + len(query_key)) // (ROUND_ROWS * n_threads))
    n_buckets = n_rounds * ((len(key) + len(query_key)) // (_BUCKET_ROWS * n_rounds) + 1)
    with ThreadPoolExecutor(n_threads) as pool:
        bucket, n_events = _buckets(key, n_buckets, n_threads, pool)
        query_bucket, n_queries = _buckets(query_key, n_buckets, n_threads, pool)
        events, queries = (counts.reshape(n_rounds, -1).sum(axis=1).max() for counts in (n_events, n_queries))
        rooms: SimpleQueue[tuple[Ids, Ids]] = SimpleQueue()
        for _ in range(n_threads):
            rooms.put((np.empty((events, 4), np.int64), np.empty((queries, 4), np.int64)))

        def work(number: int) -> None:
            room = rooms.get()
            per_round = n_buckets // n_rounds
            part = slice(number * per_round, (number + 1) * per_round)
            _gather_events(bucket, part.start, key, time, order, action, kept, n_events[part], room[0])
            _gather_queries(query_bucket, part.start, query_key, query_now, query_order, n_queries[part], room[1])
            _round(room[0], n_events[part], room[1], n_queries[part], half_life_us, out)
            rooms.put(room)

        list(pool.map(work, range(n_rounds)))
    return out


def _buckets(key: Ids, n_buckets: int, n_threads: int, pool: ThreadPoolExecutor) -> tuple[Rows, Ids]:
    """Bucket of each key, -1 for none, (M,); and how many keys each bucket has, (n_buckets,)."""
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
    counts = np.zeros(n_buckets, np.int64)
    for i in range(key.shape[0]):
        bucket[i] = -1
        if key[i] >= 0:
            # Multiplying and shifting spreads 32 bits over a range as a remainder does, without dividing.
            bucket[i] = (_hash(key[i]) * n_buckets) >> 32
            counts[bucket[i]] += 1
    return counts


@JIT
def _gather_events(bucket, first, key, time, order, action, kept, counts, rows):  # type: ignore[no-untyped-def]
    """Write the events of some buckets, from `first` on, bucket by bucket: key, time, order, place of the action."""
    place = np.cumsum(counts) - counts
    n = np.uint64(counts.shape[0])
    for i in range(key.shape[0]):
        b = np.uint64(bucket[i] - first)  # a bucket before the first is far above n
        if b < n:
            at = place[b]
            place[b] = at + 1
            rows[at, 0] = key[i]
            rows[at, 1] = time[i]
            rows[at, 2] = order[i]
            rows[at, 3] = kept[action[i]]


@JIT
def _gather_queries(bucket, first, key, now, order, counts, rows):  # type: ignore[no-untyped-def]
    """Write the queries of some buckets, from `first` on, bucket by bucket: key, now, order, number of the query."""
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
    """Bucket after bucket of gathered rows."""
    event_end = np.cumsum(n_events)
    query_end = np.cumsum(n_queries)
    # Room for the largest bucket, once: memory that is given back and taken again is cleared each time.
    room = np.empty((5, n_events.max() + n_queries.max()), np.int64)
    keys, places = np.empty(_table_size(n_queries.max()), np.int64), np.empty(_table_size(n_queries.max()), np.int64)
    for bucket in range(n_events.shape[0]):
        if n_queries[bucket] and n_events[bucket]:
            some_events = events[event_end[bucket] - n_events[bucket] : event_end[bucket]]
            some_queries = queries[query_end[bucket] - n_queries[bucket] : query_end[bucket]]
            _bucket(some_events, some_queries, room, keys, places, half_life_us, out)


@JIT
def _table_size(n_keys):  # type: ignore[no-untyped-def]
    """Slots of a hash table that stays half empty: a power of two."""
    size = 1
    while size < 2 * n_keys:
        size *= 2
    return size


@JIT
def _slot(key, keys, places):  # type: ignore[no-untyped-def]
    """Where a key stands in a hash table, or the free slot where it would (linear probing)."""
    # Buckets are told apart by the high bits of the hash; the low ones still differ within a bucket.
    mask = np.uint64(keys.shape[0] - 1)
    at = np.uint64(_hash(key)) & mask
    while places[at] >= 0 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return at


@JIT
def _bucket(events, queries, room, keys, places, half_life_us, out):  # type: ignore[no-untyped-def]
    """One merge. Keys are replaced by dense places, found in a hash table of the queried ones."""
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
        events[e, 0] = places[_slot(events[e, 0], keys, places)]  # -1: nobody asks
    row, moment, what = room[0], room[1], room[2]
    n_events = events.shape[0]
    event_at = _sorted_by(events, room[3, :n_events], room[0, :n_events])
    query_at = _sorted_by(queries, room[4, : queries.shape[0]], room[1, : queries.shape[0]])
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
    n = e + queries.shape[0]  # nobody asks for what came later
    t = np.zeros(n_keys)
    v = np.zeros((n_keys, out.shape[1], out.shape[2]))
    run(t, v, row[:n], moment[:n], what[:n], half_life_us, out)


@JIT
def _sorted_by(rows, words, other):  # type: ignore[no-untyped-def]
    """Places of rows in ascending order of column 2, equal ones as they come: a radix sort, 11 bits at a time.

    `words` gets them, `other` is room to work in, both (n,).

    What is sorted is the order with the place in its low bits, so that one word moves per row and pass. Where both do
    not fit into 63 bits, low bits of the order would be lost: then a sort by comparison.
    """
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
    place_bits, bits = 1, 1
    while n >> place_bits:
        place_bits += 1
    # Differences of int64 may need 64 bits; compared as doubles first they cannot wrap around.
    if float(high) - float(low) >= 2.0**62 or (high - low) >> (63 - place_bits):
        words[:] = np.argsort(rows[:, 2].copy(), kind="mergesort")
        return words
    while (high - low) >> bits:
        bits += 1
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
    for i in range(n):
        result[i] = words[i] & ((1 << place_bits) - 1)
    return result
