"""Simulate a world: write its logs into the lake and the true probabilities beside it.

Takes settings and a lake, gives the lake's tables and a `truth` folder that training never reads. Works in chunks of
six hours. Within a chunk popularity is constant; memory is bounded by what is not yet written, however long the period.
The same seed gives the same bytes for any number of threads. A request belongs to the date on which its session began.
It does not know what is learned from the logs.
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
from recsys.world.behaviour.candidates import PostLists, RecentClicks, list_posts
from recsys.world.behaviour.changes import break_fields
from recsys.world.behaviour.choice import KernelTruth, truth_of
from recsys.world.behaviour.sessions import CLICKED, SCROLL_ON, Block, ChunkState, Sessions, has_bit, run_sessions
from recsys.world.population.population import Population, draw_population
from recsys.world.population.public_tables import date_of, write_public_tables, write_truth_tables
from recsys.world.writing.lake_rows import log_tables
from recsys.world.writing.settings_file import remove_settings, write_settings

CHUNK = 6 * HOUR
MAX_REQUESTS = 6
"""Most requests of a session."""
ANOTHER_REQUEST = 0.5
"""P(another request follows in the session)."""
_BLOCK = 2048
"""Sessions per block: few enough for a core's cache; fixed, so that the bytes do not depend on threads."""
_AHEAD = 8
"""Blocks in flight before the oldest is taken: enough to keep every thread busy, few enough for memory."""
_FILE_ROWS = 1_000_000
"""Impressions after which a day continues in another file."""

BlockResult: TypeAlias = tuple[dict[str, pa.Table], Rows]
"""The tables of a block, and the post row of each click in it."""


@dataclass(frozen=True)
class Written:
    """Sizes of the logs that a simulation wrote."""

    impressions: int
    clicks: int
    requests: int
    logs_end: int
    """One microsecond past the last day."""


def simulate(config: WorldConfig, lake: Lake, truth_folder: Path, n_threads: int, progress: Report) -> Written:
    """Write a new world; what the lake held before is deleted first, including the mark of a stream.

    Args:
        lake: gets `users`, `posts`, `follows`, `blocks`, `requests`, `returned`, `impressions` and `actions`.
        truth_folder: gets the true probabilities by day, and the truth about users and posts; the settings are written
            beside it as `world.json`.
        n_threads: threads that simulate and write; the bytes do not depend on it.
        progress: called after every six hours of the period with impressions written and wanted.
    Raises: ConfigError when the settings name an impossible date, topic or country.
    An interrupted run leaves the lake marked incomplete, and training refuses it.
    """
    population = draw_population(config)
    lake.begin()
    lake.delete_tables([*TABLES, "quarantine", "stream"])
    remove_settings(truth_folder.parent)
    shutil.rmtree(truth_folder, ignore_errors=True)
    (truth_folder / "impressions").mkdir(parents=True)
    write_public_tables(population, config, lake)
    write_truth_tables(population, truth_folder)
    with ThreadPoolExecutor(n_threads) as pool:
        written = _Writer(lake, truth_folder / "impressions", population.start, config, pool)
        n_impressions, n_clicks, n_requests = _simulate_chunks(population, config, pool, written, progress)
        written.finish()
    logs_end = population.start + config.n_days * DAY
    write_settings(truth_folder.parent, config, population)
    lake.finish({"origin": "world", "logs_end": logs_end})
    return Written(n_impressions, n_clicks, n_requests, logs_end)


def _simulate_chunks(
    population: Population, config: WorldConfig, pool: ThreadPoolExecutor, written: _Writer, progress: Report
) -> tuple[int, int, int]:
    """Simulate all chunks in order; gives impressions, clicks and requests."""
    inputs = _Inputs(population, truth_of(population, config), list_posts(population), config)
    policy = config.policy
    mixture = np.array([policy.random, policy.popularity, policy.personalised])
    clicks = np.zeros(population.n_posts, np.float32)
    recent: list[Rows] = []
    n_impressions = n_requests = 0
    for chunk, sessions in enumerate(draw_sessions(config, population)):
        # Popularity by clicks before the chunk, (N,); candidates also come from the last day's clicks.
        inputs.truth.posts["popular"] = (1.0 + clicks) ** 0.8
        recent_posts = np.concatenate([*recent, np.empty(0, np.int32)])[-(1 << 22) :]
        state = ChunkState(
            mixture=mixture / mixture.sum(),
            recent=RecentClicks(recent_posts, config.crowding),
            resent_share=config.redelivered_share,
        )
        cuts = [*range(0, len(sessions.user), _BLOCK), len(sessions.user)]
        clicked = [np.empty(0, np.int32)]
        jobs = (
            partial(_simulate_block, inputs, state, sessions.part(begin, end), n_requests + int(sessions.first[begin]))
            for begin, end in pairwise(cuts)
        )
        for tables, clicked_posts in _in_order(jobs, pool):
            written.add(chunk * CHUNK // DAY, tables)
            clicked.append(clicked_posts)
            n_impressions += len(tables["truth"])
        n_requests += len(sessions.now)
        recent = [*recent[-3:], np.concatenate(clicked)]  # four chunks: the last day
        clicks += np.bincount(recent[-1], minlength=population.n_posts).astype(np.float32)
        progress(min(n_impressions, config.n_impressions), config.n_impressions)
    return n_impressions, int(clicks.sum(dtype=np.float64)), n_requests


def _in_order(jobs: Iterable[Callable[[], BlockResult]], pool: ThreadPoolExecutor) -> Iterator[BlockResult]:
    """Run jobs in the pool and give the results in order; at most `_AHEAD` + 1 are in flight."""
    begun: deque[Future[BlockResult]] = deque()
    for job in jobs:
        begun.append(pool.submit(job))
        if len(begun) > _AHEAD:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


@dataclass(frozen=True)
class _Inputs:
    """What is the same for every block of a run; `truth.posts["popular"]` changes between chunks."""

    population: Population
    truth: KernelTruth
    lists: PostLists
    config: WorldConfig


def _simulate_block(inputs: _Inputs, chunk: ChunkState, sessions: Sessions, first_request: int) -> BlockResult:
    """Simulate a few thousand sessions; gives their tables, and the post row of each click in order.

    Args:
        first_request: requests of all sessions before these.
    """
    config = inputs.config
    block = Block.empty(len(sessions.now), config.policy.slate_size, config.policy.n_candidates)
    filled = run_sessions(inputs.truth, inputs.lists, chunk, sessions, config.seed, block)
    tables = log_tables(inputs.population, sessions, block, filled, first_request, config)
    # The posts on screen are the first `depth` of each request's returned posts: their places in `returned`, (I,).
    start = np.repeat(np.cumsum(block.n_returned) - block.n_returned, block.depth)
    position = np.arange(filled.shown) - np.repeat(np.cumsum(block.depth) - block.depth, block.depth)
    clicked = has_bit(block.actions[: filled.shown], CLICKED)
    return tables, block.returned[(start + position)[clicked]]


@dataclass
class _Writer:
    """Collects the tables of blocks and writes them in the background, one file per day or million impressions."""

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
        """Collect the tables of one block; days must come in order."""
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
        """Start writing what was collected."""
        if not self._tables:
            return
        self._wait()  # memory: one file of each table is written while the next is collected
        for name in self._tables[0]:
            rows = pa.concat_tables([tables[name] for tables in self._tables])
            self._pending.append(self.pool.submit(self._write, name, rows, self._day, self._part))
        self._tables, self._rows = [], 0

    def _wait(self) -> None:
        """Wait for the writes in the background; raises what they raised."""
        for write in self._pending:
            write.result()
        self._pending = []

    def _write(self, name: str, rows: pa.Table, day: int, part: int) -> None:
        date = date_of(self.start + day * DAY)
        if name == "truth":
            path = str(self.truth_folder / f"{date}-{part}.parquet")
            write_parquet(LocalFileSystem(), path, rows, encodings(rows.schema))
        else:
            self.lake.write(name, break_fields(name, rows, day, self.config), date, f"world-{part}")


def draw_sessions(config: WorldConfig, population: Population) -> Iterator[Sessions]:
    """Draw all sessions of the period, in chunks of six hours, ordered by time."""
    slate = config.policy.slate_size
    mean_depth = (1 - SCROLL_ON**slate) / (1 - SCROLL_ON)
    mean_requests = (1 - ANOTHER_REQUEST**MAX_REQUESTS) / (1 - ANOTHER_REQUEST)
    # Five standard deviations more than needed on average, so that at least n_impressions come out.
    n_requests = config.n_impressions / mean_depth
    n_sessions = int((n_requests + 5 * n_requests**0.5) / mean_requests) + 10
    rng = np.random.default_rng([config.seed, 2])
    of_hour = rng.multinomial(n_sessions, hourly_use(config, population.start)).reshape(-1, CHUNK // HOUR)
    users = _JoinedUsers.of(population)
    n_before = 0
    for chunk, counts in enumerate(of_hour):
        rng = np.random.default_rng([config.seed, 2, chunk])
        n = int(counts.sum())
        # Sessions: when they start and how many requests they make, (S,).
        start = chunk * CHUNK + np.repeat(np.arange(len(counts)) * HOUR, counts) + rng.integers(0, HOUR, n)
        start.sort()
        n_of = np.minimum(rng.geometric(1 - ANOTHER_REQUEST, n), MAX_REQUESTS)
        first = np.concatenate([[0], np.cumsum(n_of)])
        # Requests: 40 to 180 seconds apart, counted from the session's start, (R,).
        gap = rng.integers(40 * SECOND, 180 * SECOND, first[-1])
        within = np.cumsum(gap)
        since_start = within - np.repeat(within[first[:-1]], n_of)
        yield Sessions(
            number=n_before + np.arange(n, dtype=np.int64),
            user=users.draw(start, rng),
            first=first.astype(np.int64),
            now=population.start + np.repeat(start, n_of) + since_start,
        )
        n_before += n


@dataclass(frozen=True)
class _JoinedUsers:
    """Users in order of joining with cumulative activity: one binary search draws among those who have joined."""

    order: Rows
    joined: Ids
    """Microseconds since the start, ascending; 0 for users from before the logs."""
    activity: Doubles
    """Cumulative, (U,)."""

    @classmethod
    def of(cls, population: Population) -> _JoinedUsers:
        joined = np.maximum(population.users.created_at - population.start, 0)
        order = np.argsort(joined, kind="stable").astype(np.int32)
        return cls(order, joined[order], np.cumsum(population.users.activity[order]))

    def draw(self, start: Ids, rng: np.random.Generator) -> Rows:
        """Draw a user for each session, by activity, among those who have joined before it starts."""
        n_joined = np.searchsorted(self.joined, start, side="right")
        draw = rng.random(len(start)) * self.activity[n_joined - 1]
        return self.order[np.minimum(np.searchsorted(self.activity, draw), n_joined - 1)]
