"""Counts as of 5 million queries from 20 million events, beside DuckDB and Polars on the same tables.

Takes a scale and the peers, gives rows a second. All programs read the same Arrow files, unsorted, and two threads, and
gives the same (Q, 3) array in the order of the queries; reading the files is not timed, sorting is. What the peers
made is held against ours before any time is told.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.bench.peers import Peers
from recsys.errors import DataError
from recsys.features.as_of import EventColumns, QueryColumns, as_of
from recsys.features.spec import WEEK, Entity
from recsys.memory import peak_memory
from recsys.offline.logs.events import CLICK
from recsys.progress import Report
from recsys.types import DAY, HOUR, Doubles, Ids

ITEM = Entity("item", ("click",), (HOUR, DAY, WEEK))
N_THREADS = 2
ROUNDS = 3
START = 20_000 * DAY
PEERS = ("duckdb", "polars")
TOLERANCE = 1e-9
"""Relative difference allowed between sums of doubles added in another order."""

_SPAN = 14 * DAY
"""336 times the shortest half-life: 2^336 fits a double, so peers may use sums that only grow."""
_SCRIPTS = {name: f"{name}_as_of.py" for name in PEERS}
_BATCH_ROWS = 1 << 20
_EVENTS, _QUERIES, _ITEMS = 20_000_000, 5_000_000, 300_000


def write_tables(folder: Path, scale: float, span: int = _SPAN) -> None:
    """Write `events.arrow` and `queries.arrow`: entity_id and time in random order, popularity of ids as 1 / rank.

    Queries also have a row number, so that peers need not number them.
    """
    rng = np.random.default_rng(0)
    n_items = max(10, round(_ITEMS * scale))
    # Ids as in real logs: large, unordered, most numbers unused.
    ids = rng.permutation(np.unique(rng.integers(0, 1 << 40, 2 * n_items))[::2])[:n_items]
    share = np.cumsum(1 / np.arange(1, len(ids) + 1))
    for name, size in (("events", _EVENTS), ("queries", _QUERIES)):
        n_rows = max(100, round(size * scale))
        entity_id = ids[np.searchsorted(share, rng.random(n_rows) * share[-1])]
        columns = {"entity_id": entity_id, "time": START + rng.integers(0, span, n_rows)}
        if name == "queries":
            columns["row"] = np.arange(n_rows)
        table = pa.table(columns)
        with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=_BATCH_ROWS)


def counts(events: pa.Table, queries: pa.Table) -> Doubles:
    """Decayed counts as of each query, events strictly before it, (Q, 3)."""
    time, now = _column(events, "time"), _column(queries, "time")
    action = np.full(len(time), CLICK, np.int32)
    key, query_key = _column(events, "entity_id"), _column(queries, "entity_id")
    seen = as_of(ITEM, EventColumns(key, time, time, action), QueryColumns(query_key, now, now), N_THREADS)
    return seen[:, 0, :]


def bench_point_in_time(folder: Path, scale: float, peers: Peers, report: Report) -> dict[str, Any]:
    """Time ours and the peers in turns, `ROUNDS` each.

    `rows_per_s` is events and queries over the median of ours; a peer's is that of its best formulation, whose name is
    in `best_formulation`. `ratio_to_best` is ours over the better peer's, above 1 where ours is faster.
    `cpu_seconds` adds up all threads: on a busy machine it says more than the clock.
    """
    write_tables(folder, scale)
    events, queries = (_read(folder / f"{name}.arrow") for name in ("events", "queries"))
    n_rows = len(events) + len(queries)
    counts(events.slice(0, 100), queries.slice(0, 100))  # compiles
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    peer_runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PEERS}
    with peak_memory() as peak:  # outside the timed part: sampling memory stops processes that allocate
        np.save(folder / "ours.npy", counts(events, queries))
    for number in range(ROUNDS):
        start, cpu_start = time.perf_counter(), time.process_time()
        counts(events, queries)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
        for name in PEERS:
            run = peers.run(_SCRIPTS[name], folder, START, *ITEM.half_lives)
            peer_runs[name] += [] if run is None else [run]
        report(number + 1, ROUNDS)
    rate = n_rows / float(np.median(seconds))
    told = {name: _peer(name, runs, n_rows) for name, runs in peer_runs.items()}
    rates = {name: figures["rows_per_s"] for name, figures in told.items() if figures is not None}
    return {
        "rows_per_s": round(rate),
        **{f"{name}_rows_per_s": rates.get(name) for name in PEERS},
        "ratio_to_best": round(rate / max(rates.values()), 3) if rates else None,
        "events": len(events),
        "queries": len(queries),
        "threads": N_THREADS,
        "seconds": [round(second, 3) for second in seconds],
        "cpu_seconds": [round(second, 3) for second in cpu_seconds],
        "peak_memory_mb": peak.megabytes,
        "peers": told,
    }


def _peer(name: str, runs: list[dict[str, Any]], n_rows: int) -> dict[str, Any] | None:
    """Combine the runs of one peer; None when one failed. Memory is the maximum over all formulations.

    Raises: DataError when its counts differ from ours.
    """
    if len(runs) < ROUNDS:
        return None
    seconds, cpu_seconds = (
        {name: [run[kind][name] for run in runs] for name in runs[0][kind]} for kind in ("seconds", "cpu_seconds")
    )
    difference = max(run["max_relative_difference"] for run in runs)
    if not difference <= TOLERANCE:
        raise DataError(
            f"counts of {name} must be ours within {TOLERANCE:g} relative, they differ by {difference:g}; "
            "its times would say nothing"
        )
    best = min(seconds, key=lambda name: float(np.median(seconds[name])))
    return {
        "rows_per_s": round(n_rows / float(np.median(seconds[best]))),
        "best_formulation": best,
        "version": runs[0]["version"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "max_relative_difference": difference,
        "peak_memory_mb": max(run["peak_memory_mb"] for run in runs),
    }


def _read(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _column(table: pa.Table, name: str) -> Ids:
    """All chunks of a column as one array, copied by as many threads as count later."""
    column = np.empty(len(table), np.int64)
    ends = np.cumsum([0, *(len(chunk) for chunk in table[name].chunks)]).tolist()
    with ThreadPoolExecutor(N_THREADS) as pool:
        copies = zip(ends, ends[1:], table[name].chunks, strict=False)
        list(pool.map(lambda copy: np.copyto(column[copy[0] : copy[1]], copy[2].to_numpy()), copies))
    return column
