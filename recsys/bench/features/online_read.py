"""Read one user and 500 candidates from the online store, beside a bare MGET of the same keys and beside Feast.

Takes a loaded store and the peers, gives milliseconds. The read is `RedisStore.read_counts`, decoding and decaying
included; the floor is one command on the same client that fetches the same keys and throws the answer away. Feast gets
the same Redis and the same counts, as features of users and posts, and is called through its public API.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import redis

from recsys.bench.features.random_log import END
from recsys.bench.own_redis import OwnRedis
from recsys.bench.peers import Peers
from recsys.errors import DependencyError
from recsys.features import decay
from recsys.features.point_in_time import Snapshot
from recsys.features.spec import POST, USER, Entity
from recsys.lookup import lookup
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.online.store import CountsRead, RedisStore, SnapshotStore
from recsys.progress import Report
from recsys.types import SECOND, Doubles, Ids, Rows

N_POSTS = 500
NOW = END + SECOND
_WARM_UP = 20
_COMPARED = 5
"""Reads whose counts are all compared with the snapshot in memory."""


class Rounds(NamedTuple):
    """Timed reads."""

    ours: int
    """Of our store and of the floor."""
    peer: int
    """Of Feast, whose reads take tens of milliseconds."""


class Ask(NamedTuple):
    """One request's read."""

    user_id: int
    post_row: Rows


def draw_asks(catalogue: Catalogue, n_asks: int) -> list[Ask]:
    """Draw users and posts at random, each post once per read."""
    rng = np.random.default_rng(4)
    users = rng.choice(np.asarray(catalogue.user_id), n_asks).tolist()
    return [Ask(user, rng.choice(catalogue.n_posts, N_POSTS, replace=False).astype(np.int32)) for user in users]


def bench_online_read(
    own: OwnRedis, client: redis.Redis, catalogue: Catalogue, snapshot: Snapshot,
    rounds: Rounds, folder: Path, peers: Peers, report: Report,
) -> dict[str, Any]:  # fmt: skip
    """Time our read and the floor in turns, then Feast.

    `ratio_to_floor` and `ratio_to_feast` are our median over theirs: 1 is the floor itself, below 1 is faster.
    `feast_p50_ms` is the call and its answer as lists; `call_p50_ms` below `feast` is the call alone. Feast
    reads the user's and the posts' own counts only; ours reads those of authors, topics and the user with both as well.
    """
    store = RedisStore(client, catalogue, own.config)
    asks = draw_asks(catalogue, rounds.ours + _WARM_UP)
    keys = [_keys_read(client, store, ask) for ask in asks]
    ours: list[float] = []
    floor: list[float] = []
    for number, (ask, names) in enumerate(zip(asks, keys, strict=True)):
        turns: list[tuple[list[float], Callable[..., Any], tuple[Any, ...]]] = [
            (ours, store.read_counts, (*ask, NOW)),
            (floor, client.execute_command, ("MGET", *names)),
        ]
        # The second of a pair finds the rows in the processor's cache, so the order alternates.
        for spent, work, words in turns if number % 2 else reversed(turns):
            start = time.perf_counter()
            work(*words)
            spent.append(time.perf_counter() - start)
        report(number + 1, len(asks))
    ours, floor = ours[_WARM_UP:], floor[_WARM_UP:]
    feast = _feast(own, catalogue, snapshot, store, asks[: rounds.peer], folder, peers)
    feast_p50 = None if feast is None else feast["p50_ms"]
    return {
        "p50_ms": _ms(ours, 50),
        "p99_ms": _ms(ours, 99),
        "floor_p50_ms": _ms(floor, 50),
        "floor_p99_ms": _ms(floor, 99),
        "ratio_to_floor": round(_ms(ours, 50) / _ms(floor, 50), 3),
        "feast_p50_ms": feast_p50,
        "ratio_to_feast": None if feast_p50 is None else round(_ms(ours, 50) / feast_p50, 5),
        "rounds": rounds.ours,
        "posts": catalogue.n_posts,
        "keys": round(float(np.median([len(names) for names in keys]))),
        "max_relative_difference": max(
            _difference(store.read_counts(*ask, NOW), SnapshotStore(catalogue, snapshot, own.config), ask)
            for ask in asks[:_COMPARED]
        ),
        "redis_version": own.version,
        "feast": feast,
    }


def _keys_read(client: redis.Redis, store: RedisStore, ask: Ask) -> list[bytes]:
    """The keys that a read fetches, as the server sees them (MONITOR)."""
    with client.monitor() as monitor:  # type: ignore[no-untyped-call]
        store.read_counts(*ask, NOW)
        client.echo(b"over")
        names: list[bytes] = []
        for told in monitor.listen():
            command, *words = told["command"].split(" ")
            if command == "MGET":
                names += [word.encode() for word in words]
            if command == "ECHO":
                break
    if len(names) < N_POSTS:
        raise DependencyError(f"a read of {N_POSTS} posts must be seen to fetch their rows by MGET, saw {len(names)}")
    return names


def _difference(read: CountsRead, memory: SnapshotStore, ask: Ask) -> float:
    """Largest relative difference to the counts in memory."""
    expected = memory.read_counts(*ask, NOW).counts
    return max(_relative(read.counts[name], expected[name]) for name in expected)


def _relative(a: Doubles, b: Doubles) -> float:
    largest = np.maximum(np.abs(a), np.abs(b))
    known = largest > 0
    return float(np.max(np.abs(a - b)[known] / largest[known], initial=0.0))


def _feast(
    own: OwnRedis, catalogue: Catalogue, snapshot: Snapshot, store: RedisStore, asks: list[Ask], folder: Path,
    peers: Peers,
) -> dict[str, Any] | None:  # fmt: skip
    """Write the counts of all posts and users through Feast, time its reads, and compare its first answer with ours."""
    if peers.python is None:
        return None
    folder.mkdir()
    posts, users = np.arange(catalogue.n_posts), np.arange(catalogue.n_users)
    _write(folder / "posts.arrow", catalogue.post_id, _flat(snapshot, POST, posts))
    _write(folder / "users.arrow", catalogue.user_id, _flat(snapshot, USER, users))
    asked = {
        "user_id": [ask.user_id for ask in asks],
        "post_id": [np.asarray(catalogue.post_id)[ask.post_row] for ask in asks],
    }
    _write_table(folder / "asks.arrow", pa.table(asked))
    figures = peers.run("feast_read.py", folder, own.port)
    if figures is not None:
        ours = store.read_counts(*asks[0], NOW).counts
        told = np.load(folder / "answer.npy")
        width = POST.shape[0] * POST.shape[1]
        figures["max_relative_difference"] = max(
            _relative(told[:, :width], ours[POST.name].reshape(N_POSTS, -1)),
            _relative(told[:, width:], np.repeat(ours[USER.name].reshape(1, -1), N_POSTS, axis=0)),
        )
    return figures


def _flat(snapshot: Snapshot, entity: Entity, key: Ids) -> Doubles:
    """Counts as of NOW, a column each."""
    counts = decay.read(snapshot.states[entity.name], entity, lookup(snapshot.keys[entity.name], key), NOW)
    return counts.reshape(len(key), -1)


def _write(path: Path, ids: Ids, counts: Doubles) -> None:
    _write_table(path, pa.table({"id": ids, **{f"c{place}": counts[:, place] for place in range(counts.shape[1])}}))


def _write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _ms(seconds: list[float], percentile: float) -> float:
    return round(float(np.percentile(seconds, percentile)) * 1000, 3)
