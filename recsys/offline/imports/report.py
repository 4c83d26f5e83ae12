"""The report of a finished import.

Takes the session of an import, gives counts. It does not know formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.offline.imports.session import Import


@dataclass
class ImportReport:
    """Counts of what an import brought."""

    rows: dict[str, int]
    """Of `impressions` and `actions`."""
    clicks: int
    """Clicks on impressions if the format has impressions, else all clicks."""
    users: int
    posts: int
    """Described or mentioned."""
    id_only_posts: int
    """Mentioned, but described nowhere in the lake."""
    quarantined: dict[str, int]
    synthetic_times: bool
    """Whether some or all times were made up because the format lacks them."""
    files: list[str]
    """Files that were read."""
    more: dict[str, int] = field(default_factory=dict)
    """Counts that only this format has."""

    def as_json(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "more"}
        return {**shown, **self.more}


def make_report(job: Import, files: Sequence[str], synthetic_times: bool, **more: int) -> ImportReport:
    """Make the report of a finished import; `more` are counts of the format."""
    described, _ = job.described["posts"].rows()
    mentioned = job.posts.ids()
    users, _ = job.described["users"].rows()
    return ImportReport(
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
