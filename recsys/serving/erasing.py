"""Erasing a person from both stores, and the receipt of it.

Takes an id as it is outside, gives what was removed where. The tombstone comes first, so that nothing comes back
whatever happens after it; then the online store, then the lake, held so that nobody streams into it meanwhile. Cut
short anywhere, the same call again completes it. It knows neither HTTP nor the command line.
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
    """What went from Redis."""

    rows: int
    """Of counters and clicks, one per generation."""
    returned: int
    """Posts that the person was sent."""
    stream_records: int
    dead_letters: int
    """Records that could not be applied."""


class RemovedCounts(_Figures):
    """What went from one place of the lake."""

    rows: int
    files: int
    """That held them: written again, or gone where nothing was left."""


class QuarantineCounts(RemovedCounts):
    """What went of the rows and files that were set aside."""

    not_searched: list[str]
    """Files that cannot be decoded: look into them yourself, or remove them."""


class Receipt(_Figures):
    """What one erasure removed; zeros where there was nothing (any more)."""

    user_id: str
    erased_at: int
    """Microseconds of the service's clock; whatever is of this person until then is ignored from now on."""
    online: Online
    offline: dict[str, RemovedCounts]
    """By table."""
    quarantine: QuarantineCounts
    authored_posts: int
    """Posts the person wrote: they are not removed."""
    releases: list[str]
    """Releases whose catalogues still name the person (or cannot be read); train again, then remove their folders."""
    training: bool
    """Whether a training run is under way: it may have read what went now, and then its release names the person."""
    elapsed_s: float


def erase(
    config: Config,
    client: redis.Redis,
    clock: Clock,
    user: str,
    report: Report = lambda done, total: None,
) -> Receipt:
    """Remove a person from the online store and the lake.

    Args:
        user: id as it is outside; of nobody known, the receipt is all zeros.
        report: progress in files of the lake.
    Raises: RequestError for an impossible id; DependencyError when Redis does not answer, or when the rest cannot be
    done now: then the sentence says what is done and that erasing again completes it.
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
        done = "the online store has nothing of them"
        with LakeSink(client, stream, lake).held():
            removed = lake_erasure.erase(lake, user_id, user, report)
        done = "neither store has rows of them"
        # A feed that was being answered when the tombstone came is logged after it; so is a record that went bad.
        returned += remove_returned(client, user_id, erased_at)
        records += remove_records(stream, user_id, erased_at, last)[0]
        dead_letters += remove_dead_letters(client, user_id)
        training = stream.is_held()  # for a batch load to come
    except (RecsysError, redis.RedisError, OSError) as error:
        raise DependencyError(
            f"user {user!r} is erased only in part: what comes of them from before is ignored from now on, {done}, but "
            f"{_sentence(error)}; erase them again to complete it"
        ) from error
    return Receipt(
        user_id=user,
        erased_at=erased_at,
        online=Online(rows=rows, returned=returned, stream_records=records, dead_letters=dead_letters),
        offline={table: RemovedCounts(rows=what.rows, files=what.files) for table, what in removed.tables.items()},
        quarantine=QuarantineCounts(
            rows=removed.quarantine.rows, files=removed.quarantine.files, not_searched=removed.not_searched
        ),
        authored_posts=removed.authored_posts,
        training=training,
        releases=naming_releases(config.releases_path, user_id),
        elapsed_s=round(time.perf_counter() - start, 3),
    )


def naming_releases(releases_path: Path, user_id: int) -> list[str]:
    """Releases whose catalogue has the user; those that cannot be read, or are being made, are among them."""
    folders = [releases_path / version for version in release.list_releases(releases_path)]
    folders += sorted(releases_path.glob(".staging-*"))
    return [folder.name for folder in folders if _may_name(folder, user_id)]


def _may_name(folder: Path, user_id: int) -> bool:
    try:
        catalogue = Catalogue.load(folder / "catalogue")
    except (RecsysError, OSError, ValueError, KeyError):
        return True
    return bool(np.any(catalogue.user_rows([user_id]) >= 0))


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
