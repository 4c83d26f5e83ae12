"""The world writes its logs: two weeks of sessions into the lake, their true probabilities beside it.

Takes settings and a lake, gives the lake's tables and a `truth` folder that training never reads. Works in chunks of
six hours: within a chunk popularity stands still, memory is bounded by a day. The same seed gives the same bytes,
whatever the number of threads. A request belongs to the date on which its session began. It does not know what anyone
learns from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.config import WorldConfig
from recsys.offline.lake import Lake
from recsys.offline.schemas import MEDIA_TYPES, TABLES
from recsys.types import DAY, HOUR, SECOND, Times
from recsys.world.choice import Truth, truth_of
from recsys.world.logs import log_tables
from recsys.world.population import COUNTRIES, Population, draw_moments, draw_population
from recsys.world.sessions import CLICKED, MORE, Outcome, Sessions, Stage, live
from recsys.world.vocabulary import LANGUAGES, TOPICS

CHUNK = 6 * HOUR
MAX_REQUESTS = 6
"""Requests a session may make."""
AGAIN = 0.5
"""P(another request follows in the session)."""

Progress = Callable[[int, int], None]
"""Called with (done, total) in impressions."""


@dataclass(frozen=True)
class Written:
    """What a run wrote."""

    impressions: int
    clicks: int
    requests: int
    logs_end: int
    """One microsecond past the last day."""


def simulate(config: WorldConfig, lake: Lake, truth_folder: Path, n_threads: int, progress: Progress) -> Written:
    """Write everything anew; what the lake held before is removed first, notes of a stream included.

    Args:
        lake: gets `users`, `posts`, `follows`, `blocks`, `requests`, `returned`, `impressions` and `actions`.
        truth_folder: gets one file of true probabilities per day; the settings go beside it as `world.json`.
        n_threads: threads that live through sessions; no byte depends on it.
        progress: called after each six hours with impressions written and wanted.
    Raises: ConfigError when `world.start` is not a date.
    A run that is interrupted leaves the lake marked incomplete, and training refuses it.
    """
    population = draw_population(config)
    truth = truth_of(population, config)
    lake.begin()
    lake.delete([*TABLES, "quarantine", "stream"])
    (truth_folder.parent / "world.json").unlink(missing_ok=True)
    shutil.rmtree(truth_folder, ignore_errors=True)
    truth_folder.mkdir(parents=True)
    write_population(population, config, lake)
    clicks = np.zeros(population.n_posts, np.float32)
    recent: list[np.ndarray] = []
    author_posts = np.lexsort((np.arange(population.n_posts), population.post_author)).astype(np.int32)
    starts = np.searchsorted(population.post_author[author_posts], np.arange(population.n_authors + 1))
    policy = config.policy
    shares = np.array([policy.random, policy.popularity, policy.personalised])
    n_impressions = n_clicks = n_requests = 0
    with ThreadPoolExecutor(n_threads) as pool:
        for day, chunks in _by_day(_sessions(config, population)):
            tables: list[dict[str, pa.Table]] = []
            for chunk, sessions in chunks:
                stage = Stage(
                    mixture=shares / shares.sum(),
                    visible=population.post_visible,
                    blocks_start=population.blocks_start,
                    blocks=population.blocks,
                    author_posts=author_posts,
                    author_posts_start=starts.astype(np.int64),
                    clicks=clicks,
                    recent_clicks=np.concatenate([*recent, np.empty(0, np.int32)])[: 1 << 22],
                )
                outcome = _run(truth, stage, sessions, config, pool, n_threads)
                rng = np.random.default_rng([config.seed, 3, chunk])
                tables.append(log_tables(population, truth, sessions, outcome, n_requests, config, rng))
                clicked = outcome.post[(outcome.actions & CLICKED) > 0]
                clicks += np.bincount(clicked, minlength=population.n_posts).astype(np.float32)
                recent = [*recent[-3:], clicked]
                n_requests += len(sessions.now)
                n_impressions += int(outcome.depth.sum())
                n_clicks += len(clicked)
                progress(min(n_impressions, config.n_impressions), config.n_impressions)
            date = _date(population.start + day * DAY)
            for name in tables[0]:
                rows = pa.concat_tables([chunk_tables[name] for chunk_tables in tables])
                if name == "truth":
                    pq.write_table(rows, truth_folder / f"{date}.parquet", compression="zstd", compression_level=1)
                else:
                    lake.write(name, rows, date, "world")
    logs_end = population.start + config.n_days * DAY
    (truth_folder.parent / "world.json").write_text(config.model_dump_json(indent=1))
    lake.finish({"origin": "world", "logs_end": logs_end})
    return Written(n_impressions, n_clicks, n_requests, logs_end)


def _run(
    truth: Truth, stage: Stage, sessions: Sessions, config: WorldConfig, pool: ThreadPoolExecutor, n_threads: int
) -> Outcome:
    outcome = Outcome.empty(len(sessions.now), config.policy.slate_size, config.policy.n_candidates)
    cuts = np.linspace(0, len(sessions.user), n_threads + 1).astype(np.int64)
    parts = [
        pool.submit(live, truth, stage, sessions, config.seed, int(begin), int(end), outcome)
        for begin, end in pairwise(cuts)
    ]
    for part in parts:
        part.result()
    return outcome


def _sessions(config: WorldConfig, population: Population) -> Iterator[tuple[int, Sessions]]:
    """All sessions of the period in chunks of six hours, by time."""
    rng = np.random.default_rng([config.seed, 2])
    slate = config.policy.slate_size
    mean_depth = (1 - MORE**slate) / (1 - MORE)
    mean_requests = (1 - AGAIN**MAX_REQUESTS) / (1 - AGAIN)
    # A little more than needed on average, so that at least n_impressions come out.
    n_requests = config.n_impressions / mean_depth
    n_sessions = int((n_requests + 5 * n_requests**0.5) / mean_requests) + 10
    start = np.sort(draw_moments(n_sessions, population.start, config.n_days, rng))
    user = _draw_users(population, start, rng)
    number = np.arange(n_sessions)
    n_of = np.minimum(rng.geometric(1 - AGAIN, n_sessions), MAX_REQUESTS)
    first = np.concatenate([[0], np.cumsum(n_of)])
    gap = rng.integers(40 * SECOND, 180 * SECOND, first[-1])
    within = np.cumsum(gap)
    now = population.start + np.repeat(start - within[first[:-1]], n_of) + within
    edges = np.searchsorted(start, np.arange(0, config.n_days * DAY + 1, CHUNK))
    for chunk, (begin, end) in enumerate(pairwise(edges)):
        requests = slice(first[begin], first[end])
        yield (
            chunk,
            Sessions(
                number=number[begin:end].astype(np.int64),
                user=user[begin:end],
                first=(first[begin : end + 1] - first[begin]).astype(np.int64),
                now=now[requests].astype(np.int64),
            ),
        )


def _draw_users(population: Population, start: Times, rng: np.random.Generator) -> np.ndarray:
    """A user for each session, by activity, among those who have joined by then."""
    joined = np.maximum(population.user_created_at - population.start, 0)
    order = np.argsort(joined, kind="stable")
    cumulative = np.cumsum(population.activity[order])
    n_joined = np.searchsorted(joined[order], start, side="right")
    draw = rng.random(len(start)) * cumulative[n_joined - 1]
    return order[np.minimum(np.searchsorted(cumulative, draw), n_joined - 1)].astype(np.int32)


def _by_day(
    chunks: Iterator[tuple[int, Sessions]],
) -> Iterator[tuple[int, list[tuple[int, Sessions]]]]:
    per_day = DAY // CHUNK
    day: list[tuple[int, Sessions]] = []
    for chunk, sessions in chunks:
        day.append((chunk, sessions))
        if len(day) == per_day:
            yield chunk // per_day, day
            day = []


def write_population(population: Population, config: WorldConfig, lake: Lake) -> None:
    """Users, posts, follows and blocks as an outsider may know them: latent truth stays here."""
    before = _date(population.start - DAY)
    country = np.where(population.user_country_missing, -1, population.user_country)
    users = pa.table(
        {
            "user_id": population.user_id,
            "language": _names(LANGUAGES, population.user_language),
            "country": _names(COUNTRIES, country),
            "created_at": pa.array(population.user_created_at, pa.timestamp("us", "UTC")),
        }
    )
    lake.write("users", users, before, "world")
    topic = np.where(population.post_topic_missing, -1, population.post_topic)
    posts = pa.table(
        {
            "post_id": population.post_id,
            "author_id": population.user_id[population.post_author],
            "topic": _names(TOPICS, topic),
            "language": _names(LANGUAGES, population.post_language),
            "media": _names(MEDIA_TYPES, population.post_media),
            "text": pa.array(population.texts, pa.string()),
            "created_at": pa.array(population.post_created_at, pa.timestamp("us", "UTC")),
            "duplicate_group": population.post_group,
            "visible": population.post_visible,
        }
    )
    day = (population.post_created_at - population.start) // DAY
    for number in range(max(int(day[0]), -1), config.n_days):
        of_day = (np.maximum(day, -1) == number) if number == -1 else day == number
        lake.write("posts", posts.filter(pa.array(of_day)), _date(population.start + number * DAY), "world")
    for table, start, authors in (
        ("follows", population.follows_start, population.follows),
        ("blocks", population.blocks_start, population.blocks),
    ):
        user = np.repeat(np.arange(population.n_users), np.diff(start))
        edges = pa.table(
            {
                "user_id": population.user_id[user],
                "author_id": population.user_id[authors],
                "created_at": pa.array(population.user_created_at[user], pa.timestamp("us", "UTC")),
            }
        )
        lake.write(table, edges, before, "world")


def _names(names: tuple[str, ...], rows: np.ndarray) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(rows, pa.int32(), mask=rows < 0), pa.array(names)).cast(pa.string())


def _date(time: int) -> str:
    return datetime.fromtimestamp(time / SECOND, UTC).date().isoformat()
