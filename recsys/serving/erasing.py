"""Erase a user from the online store and the lake.

Takes a user id as clients write it and returns a receipt: what was removed where. The order matters:

1. Set the tombstone. From then on the user's earlier events are ignored, so removed data cannot come back.
2. Remove the user from Redis.
3. Remove the user from the lake, while holding the lake's lock so that no consumer writes to it.
4. Remove again what feeds in flight wrote to Redis during the steps before.

If it fails at any step, call it again to complete the erasure. It knows neither HTTP nor the command line.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import redis
from pydantic import BaseModel, ConfigDict

from recsys import release
from recsys.config import Config
from recsys.errors import DependencyError, RecsysError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.lake import erasure as lake_erasure
from recsys.offline.lake.lake import Lake
from recsys.online.clock import Clock
from recsys.online.consumer.to_lake import LakeSink
from recsys.online.erasure import remove_dead_letters, remove_records, remove_returned, remove_rows
from recsys.online.stream.log import RedisStream
from recsys.online.tombstones import mark_erased
from recsys.progress import Report


class _Figures(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Online(_Figures):
    """Counts of what was removed from Redis."""

    rows: int
    """Rows of counters and clicks, one per generation."""
    returned: int
    """Logged posts that were returned to the user."""
    stream_records: int
    dead_letters: int
    """Stream records that had been set aside because they could not be applied."""


class RemovedCounts(_Figures):
    """Rows and files removed from one table of the lake."""

    rows: int
    files: int
    """Files that held the rows. Each was rewritten without them, or deleted if no row was left."""


class QuarantineCounts(RemovedCounts):
    """Rows and files removed from the quarantine."""

    not_searched: list[str]
    """Files that cannot be decoded. Inspect them by hand, or delete them."""


class Receipt(_Figures):
    """What one erasure removed. A count is zero where there was nothing to remove."""

    user_id: str
    erased_at: int
    """Microseconds of the service's clock. The user's events up to this time are ignored from now on."""
    online: Online
    offline: dict[str, RemovedCounts]
    """Counts by table of the lake."""
    quarantine: QuarantineCounts
    authored_posts: int
    """Posts the user wrote. They are kept."""
    releases: list[str]
    """Releases whose catalogue contains the user or cannot be read. Train again, then delete their folders."""
    training: bool
    """Whether a training run is in progress. It may have read the removed rows, so its release may contain the user."""
    elapsed_s: float


def erase(
    config: Config,
    client: redis.Redis,
    clock: Clock,
    user: str,
    report: Report = lambda done, total: None,
) -> Receipt:
    """Erase a user from the online store and the lake.

    Args:
        user: user id as clients write it. For an unknown user all counts of the receipt are zero.
        report: receives progress, in files of the lake.
    Raises: RequestError for an invalid id; DependencyError when Redis does not answer, or when the erasure stops
    half-way. The message then says what was done and that erasing again completes it.
    """
    start = time.perf_counter()
    user_id = to_int64(user)
    erased_at = mark_erased(client, user_id, clock.now())
    stream = RedisStream(client, config.online)
    lake = Lake(config.lake_url)
    done = "nothing was removed yet"
    try:
        rows = remove_rows(client, user_id)
        returned = remove_returned(client, user_id, erased_at)
        records, last = remove_records(stream, user_id, erased_at)
        dead_letters = remove_dead_letters(client, user_id)
        done = "the online store has no data of the user"
        with LakeSink(client, stream, lake).held():
            removed = lake_erasure.erase(lake, user_id, user, report)
        done = "neither store has rows of the user"
        # Sweep the online store again: requests in flight when the tombstone was set may have logged a feed or a
        # dead letter since.
        returned += remove_returned(client, user_id, erased_at)
        records += remove_records(stream, user_id, erased_at, last)[0]
        dead_letters += remove_dead_letters(client, user_id)
        training = stream.is_held()  # training holds the stream until its batch load
    except (RecsysError, redis.RedisError, OSError) as error:
        raise DependencyError(
            f"user {user!r} is erased only in part: earlier events are ignored from now on, {done}, but "
            f"{_sentence(error)}; erase the user again to complete it"
        ) from error
    return Receipt(
        user_id=user,
        erased_at=erased_at,
        online=Online(rows=rows, returned=returned, stream_records=records, dead_letters=dead_letters),
        offline={
            table: RemovedCounts(rows=counts.rows, files=counts.files) for table, counts in removed.tables.items()
        },
        quarantine=QuarantineCounts(
            rows=removed.quarantine.rows, files=removed.quarantine.files, not_searched=removed.not_searched
        ),
        authored_posts=removed.authored_posts,
        training=training,
        releases=releases_with_user(config.releases_path, user_id),
        elapsed_s=round(time.perf_counter() - start, 3),
    )


def releases_with_user(releases_path: Path, user_id: int) -> list[str]:
    """Names of the releases, staging folders included, whose catalogue contains the user or cannot be read."""
    folders = [releases_path / version for version in release.list_releases(releases_path)]
    folders += sorted(releases_path.glob(".staging-*"))
    return [folder.name for folder in folders if _may_contain_user(folder, user_id)]


def _may_contain_user(folder: Path, user_id: int) -> bool:
    try:
        catalogue = Catalogue.load(folder / "catalogue")
    except (RecsysError, OSError, ValueError, KeyError):
        return True
    return bool(np.any(catalogue.user_rows([user_id]) >= 0))


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
