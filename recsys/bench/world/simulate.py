"""How fast the world writes its logs, beside the floor: random numbers in the same files.

Takes settings, gives impressions a second, memory and bytes. The world is written into a temporary folder beside
`data_dir`, so on the same disk, and removed afterwards. All figures come from one run on one machine; compare ratios.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recsys.bench.world.floor import write_floor
from recsys.config import Config, WorldConfig
from recsys.memory import peak_memory
from recsys.offline.lake.lake import Lake
from recsys.progress import Progress
from recsys.world.writing.simulate import simulate

LOG_TABLES = ("requests", "returned", "impressions", "actions")
"""Tables that grow with the impressions; users, posts, follows and blocks do not."""
_FLOOR_LIMIT_S = 60.0


def bench_simulate(config: Config, n_impressions: int, progress: Progress) -> dict[str, Any]:
    """Simulate one world of the configured settings with this many impressions.

    `impressions_per_s` counts the whole run, population and closing notes included; compiling is done before, by a
    tiny world. `peak_memory_mb` is the process tree's while that run lasts. `bytes_per_impression` is the size of the
    files of `requests`, `returned`, `impressions`, `actions` and of the truth about impressions over the impressions;
    users, posts, follows, blocks and the truth about users and posts are left out. `floor_impressions_per_s` is what
    `write_floor` reaches on all files of the run, those left out above included.
    """
    beside = existing_folder(config.data_dir)
    n_threads = config.ranking.n_threads
    with tempfile.TemporaryDirectory(prefix="recsys-bench-", dir=beside) as name:
        folder = Path(name)
        with progress.stage("warm up"):
            _simulate(_tiny(config.world), folder / "tiny", n_threads, progress=lambda done, total: None)
        world = config.world.model_copy(update={"n_impressions": n_impressions})
        with progress.stage("simulate") as report, peak_memory() as peak:
            start = time.perf_counter()
            written = _simulate(world, folder / "world", n_threads, report)
            elapsed = time.perf_counter() - start
        n_bytes = _size(_log_files(folder / "world"))
        with progress.stage("floor") as report:
            floor = write_floor(folder / "world", folder / "floor", n_threads, _FLOOR_LIMIT_S, report)
    rate, floor_rate = written / elapsed, written * floor.share / floor.elapsed_s
    return {
        "impressions": written,
        "impressions_per_s": round(rate, 1),
        "peak_memory_mb": peak.megabytes,
        "bytes_per_impression": round(n_bytes / written, 2),
        "floor_impressions_per_s": round(floor_rate, 1),
        "ratio_to_floor": round(rate / floor_rate, 4),
        "elapsed_s": round(elapsed, 2),
        "floor_share_of_rows": round(floor.share, 3),
        "n_threads": n_threads,
    }


def _simulate(world: WorldConfig, folder: Path, n_threads: int, progress: Any) -> int:
    return simulate(world, Lake(str(folder / "lake")), folder / "truth", n_threads, progress).impressions


def _tiny(world: WorldConfig) -> WorldConfig:
    """A tiny world with the same effects, which compiles every kernel that the real run calls."""
    n_posts = min(world.n_posts, max(1000, 10 * world.policy.n_candidates))
    smaller = {"n_users": min(world.n_users, 200), "n_authors": min(world.n_authors, 20), "n_posts": n_posts}
    return world.model_copy(update={**smaller, "n_impressions": 1000})


def existing_folder(data_dir: Path) -> Path:
    """The nearest existing folder above the data, so that a temporary folder lies on the same disk."""
    above = data_dir.resolve().parent
    return above if above.is_dir() else existing_folder(above)


def _log_files(folder: Path) -> list[Path]:
    tables = [path for name in LOG_TABLES for path in (folder / "lake" / name).rglob("*.parquet")]
    truth = (folder / "truth").rglob("*.parquet")
    return [*tables, *(path for path in truth if path.stem not in ("users", "posts"))]


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
