"""What an import says of itself when it is done.

Takes the session of an import, gives counts. It does not know formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.offline.imports.session import Import


@dataclass
class Imported:
    """What an import brought."""

    rows: dict[str, int]
    """Of `impressions` and `actions`."""
    clicks: int
    """On posts that were shown, where the format says what was shown; else all clicks."""
    users: int
    posts: int
    """Described or mentioned."""
    id_only_posts: int
    """Mentioned, and described nowhere in the lake."""
    quarantined: dict[str, int]
    synthetic_times: bool
    """Whether the format has no times, or not for all it brings, and they were made up."""
    files: list[str]
    """What was read."""
    more: dict[str, int] = field(default_factory=dict)
    """Counts that only this format has."""

    def as_json(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "more"}
        return {**shown, **self.more}


def outcome(job: Import, files: Sequence[str], synthetic_times: bool, **more: int) -> Imported:
    """The report of an import that ended."""
    described, _ = job.described["posts"].rows()
    mentioned = job.posts.ids()
    users, _ = job.described["users"].rows()
    return Imported(
        rows={"impressions": job.counts["impressions"], "actions": job.counts["actions"]},
        clicks=job.counts["clicks"] - job.counts["history_clicks"],
        users=len(np.union1d(job.users.ids(), users)),
        posts=len(np.union1d(mentioned, described)),
        id_only_posts=len(np.setdiff1d(mentioned, job.lake.read("posts", ["post_id"])["post_id"].to_numpy())),
        quarantined=dict(sorted(job.quarantined.items())),
        synthetic_times=synthetic_times,
        files=list(files),
        more=more,
    )
