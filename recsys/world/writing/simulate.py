"""The world writes its logs: two weeks of sessions into the lake, their true probabilities beside it.

Takes settings and a lake, gives the lake's tables and a `truth` folder that training never reads. Works in chunks of
six hours: within a chunk popularity stands still, and memory is bounded by what is not written yet, however long the
period. The same seed gives the same bytes, whatever the number of threads. A request belongs to the date on which its
session began. It does not know what anyone learns from it.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from pyarrow.fs import LocalFileSystem

from recsys.config import WorldConfig
from recsys.offline.lake.encoding import encodings
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.offline.lake.storage import write_parquet
from recsys.progress import Report
from recsys.types import DAY, HOUR, SECOND, Doubles, Ids, Rows
from recsys.world.behaviour.calendar import hourly_use
from recsys.world.behaviour.candidates import Shelves, shelve
from recsys.world.behaviour.changes import broken
from recsys.world.behaviour.choice import KernelTruth, truth_of
from recsys.world.behaviour.sessions import CLICKED, MORE, Block, Sessions, Stage, bits_of, live
from recsys.world.population.population import Population, draw_population
from recsys.world.population.public_tables import date_of, write_known, write_truth
from recsys.world.writing.lake_rows import log_tables
from recsys.world.writing.notes import remove_notes, write_notes

CHUNK = 6 * HOUR
MAX_REQUESTS = 6
"""Requests a session may make."""
AGAIN = 0.5
"""P(another request follows in the session)."""
_BLOCK = 2048
"""Sessions lived through in one go: few enough for a core's cache; fixed, so that no byte depends on threads."""
_AHEAD = 8
"""Blocks begun before the oldest of them is taken: enough for every thread, few enough for memory."""
_FILE_ROWS = 1_000_000
"""Impressions after which a day goes on in another file."""

Lived: TypeAlias = tuple[dict[str, pa.Table], Rows]
"""Tables of a block, and the post row of each click in it."""


@dataclass(frozen=True)
class Written:
    """What a run wrote."""

    impressions: int
    clicks: int
    requests: int
    logs_end: int
    """One microsecond past the last day."""


def simulate(config: WorldConfig, lake: Lake, truth_folder: Path, n_threads: int, progress: Report) -> Written:
    """Write everything anew; what the lake held before is removed first, notes of a stream included.

    Args:
        lake: gets `users`, `posts`, `follows`, `blocks`, `requests`, `returned`, `impressions` and `actions`.
        truth_folder: gets the true probabilities by day, and what is true about users and posts; the settings go
            beside it as `world.json`.
        n_threads: threads that live through sessions and write; no byte depends on it.
        progress: called after each six hours with impressions written and wanted.
    Raises: ConfigError when the settings name a date, a topic or a country that cannot be.
    A run that is interrupted leaves the lake marked incomplete, and training refuses it.
    """
    population = draw_population(config)
    lake.begin()
    lake.delete([*TABLES, "quarantine", "stream"])
    remove_notes(truth_folder.parent)
    shutil.rmtree(truth_folder, ignore_errors=True)
    (truth_folder / "impressions").mkdir(parents=True)
    write_known(population, config, lake)
    write_truth(population, truth_folder)
    with ThreadPoolExecutor(n_threads) as pool:
        written = _Writer(lake, truth_folder / "impressions", population.start, config, pool)
        n_impressions, n_clicks, n_requests = _live_through(population, config, pool, written, progress)
        written.finish()
    logs_end = population.start + config.n_days * DAY
    write_notes(truth_folder.parent, config, population)
    lake.finish({"origin": "world", "logs_end": logs_end})
    return Written(n_impressions, n_clicks, n_requests, logs_end)


def _live_through(
    population: Population, config: WorldConfig, pool: ThreadPoolExecutor, written: _Writer, progress: Report
) -> tuple[int, int, int]:
    """All chunks in order; gives impressions, clicks and requests."""
    truth, shelves = truth_of(population, config), shelve(population)
    policy = config.policy
    mixture = np.array([policy.random, policy.popularity, policy.personalised])
    clicks = np.zeros(population.n_posts, np.float32)
    recent: list[Rows] = []
    n_impressions = n_requests = 0
    for chunk, sessions in enumerate(draw_sessions(config, population)):
        truth.posts["popular"] = (1.0 + clicks) ** 0.8
        stage = Stage(
            mixture=mixture / mixture.sum(),
            recent_clicks=np.concatenate([*recent, np.empty(0, np.int32)])[-(1 << 22) :],
            crowding=config.crowding,
            resent_share=config.redelivered_share,
        )
        cuts = [*range(0, len(sessions.user), _BLOCK), len(sessions.user)]
        clicked = [np.empty(0, np.int32)]
        jobs = (
            partial(_live_block, population, truth, shelves, stage, sessions, begin, end, n_requests, config)
            for begin, end in pairwise(cuts)
        )
        for tables, clicked_posts in _in_order(jobs, pool):
            written.add(chunk * CHUNK // DAY, tables)
            clicked.append(clicked_posts)
            n_impressions += len(tables["truth"])
        n_requests += len(sessions.now)
        recent = [*recent[-3:], np.concatenate(clicked)]
        clicks += np.bincount(recent[-1], minlength=population.n_posts).astype(np.float32)
        progress(min(n_impressions, config.n_impressions), config.n_impressions)
    return n_impressions, int(clicks.sum(dtype=np.float64)), n_requests


def _in_order(jobs: Iterable[Callable[[], Lived]], pool: ThreadPoolExecutor) -> Iterator[Lived]:
    """Results in the order of the jobs; only a few of them are begun or waiting at a time."""
    begun: deque[Future[Lived]] = deque()
    for job in jobs:
        begun.append(pool.submit(job))
        if len(begun) > _AHEAD:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _live_block(
    population: Population, truth: KernelTruth, shelves: Shelves, stage: Stage, sessions: Sessions,
    begin: int, end: int, first_request: int, config: WorldConfig,
) -> Lived:  # fmt: skip
    """Sessions begin .. end - 1: their tables, and the post row of each click in order."""
    before = int(sessions.first[begin])
    n_requests = int(sessions.first[end]) - before
    block = Block.empty(n_requests, config.policy.slate_size, config.policy.n_candidates)
    filled = live(truth, shelves, stage, sessions, config.seed, begin, end, block)
    tables = log_tables(population, sessions, begin, end, block, filled, first_request + before, config)
    # Shown posts are the first of each request's returned ones.
    start = np.repeat(np.cumsum(block.n_returned) - block.n_returned, block.depth)
    n_shown = filled[3]
    position = np.arange(n_shown) - np.repeat(np.cumsum(block.depth) - block.depth, block.depth)
    clicked = bits_of(block.actions[:n_shown], CLICKED)
    return tables, block.returned[(start + position)[clicked]]


@dataclass
class _Writer:
    """Collects the tables of blocks and writes them beside the simulation, a day or a million impressions to a file."""

    lake: Lake
    truth_folder: Path
    start: int
    config: WorldConfig
    pool: ThreadPoolExecutor
    _day: int = 0
    _part: int = 0
    _tables: list[dict[str, pa.Table]] = field(default_factory=list)
    _rows: int = 0
    _pending: list[Future[None]] = field(default_factory=list)

    def add(self, day: int, tables: dict[str, pa.Table]) -> None:
        if day != self._day:
            self._flush()
            self._day, self._part = day, 0
        self._tables.append(tables)
        self._rows += len(tables["truth"])
        if self._rows >= _FILE_ROWS:
            self._flush()
            self._part += 1

    def finish(self) -> None:
        """Write what is left and wait until everything is on disk."""
        self._flush()
        self._wait()

    def _flush(self) -> None:
        if not self._tables:
            return
        self._wait()  # at most one file of each table is being written while the next is collected
        for name in self._tables[0]:
            rows = pa.concat_tables([tables[name] for tables in self._tables])
            self._pending.append(self.pool.submit(self._write, name, rows, self._day, self._part))
        self._tables, self._rows = [], 0

    def _wait(self) -> None:
        for write in self._pending:
            write.result()
        self._pending = []

    def _write(self, name: str, rows: pa.Table, day: int, part: int) -> None:
        date = date_of(self.start + day * DAY)
        if name == "truth":
            path = str(self.truth_folder / f"{date}-{part}.parquet")
            write_parquet(LocalFileSystem(), path, rows, encodings(rows.schema))
        else:
            self.lake.write(name, broken(name, rows, day, self.config), date, f"world-{part}")


def draw_sessions(config: WorldConfig, population: Population) -> Iterator[Sessions]:
    """All sessions of the period in chunks of six hours, by time."""
    slate = config.policy.slate_size
    mean_depth = (1 - MORE**slate) / (1 - MORE)
    mean_requests = (1 - AGAIN**MAX_REQUESTS) / (1 - AGAIN)
    # A little more than needed on average, so that at least n_impressions come out.
    n_requests = config.n_impressions / mean_depth
    n_sessions = int((n_requests + 5 * n_requests**0.5) / mean_requests) + 10
    rng = np.random.default_rng([config.seed, 2])
    of_hour = rng.multinomial(n_sessions, hourly_use(config, population.start)).reshape(-1, CHUNK // HOUR)
    crowd = _Crowd.of(population)
    n_before = 0
    for chunk, counts in enumerate(of_hour):
        rng = np.random.default_rng([config.seed, 2, chunk])
        n = int(counts.sum())
        start = chunk * CHUNK + np.repeat(np.arange(len(counts)) * HOUR, counts) + rng.integers(0, HOUR, n)
        start.sort()
        n_of = np.minimum(rng.geometric(1 - AGAIN, n), MAX_REQUESTS)
        first = np.concatenate([[0], np.cumsum(n_of)])
        gap = rng.integers(40 * SECOND, 180 * SECOND, first[-1])
        within = np.cumsum(gap)
        since_start = within - np.repeat(within[first[:-1]], n_of)
        yield Sessions(
            number=n_before + np.arange(n, dtype=np.int64),
            user=crowd.draw(start, rng),
            first=first.astype(np.int64),
            now=population.start + np.repeat(start, n_of) + since_start,
        )
        n_before += n


@dataclass(frozen=True)
class _Crowd:
    """Users in order of joining, with their activity summed up, so that one search draws among those who are there."""

    order: Rows
    joined: Ids
    """Microseconds since the start, ascending, 0 for those who were there before."""
    activity: Doubles
    """Cumulative."""

    @classmethod
    def of(cls, population: Population) -> _Crowd:
        joined = np.maximum(population.users.created_at - population.start, 0)
        order = np.argsort(joined, kind="stable").astype(np.int32)
        return cls(order, joined[order], np.cumsum(population.users.activity[order]))

    def draw(self, start: Ids, rng: np.random.Generator) -> Rows:
        """A user for each session, by activity, among those who have joined by its start."""
        n_joined = np.searchsorted(self.joined, start, side="right")
        draw = rng.random(len(start)) * self.activity[n_joined - 1]
        return self.order[np.minimum(np.searchsorted(self.activity, draw), n_joined - 1)]
