"""Statistics that the sources learn from logs: covisited posts, and impressions of each author.

Takes logs, gives arrays that a release stores and memory-maps. It does not know how the sources use them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from recsys.config import RetrievalConfig
from recsys.errors import ReleaseError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.events import CLICK
from recsys.offline.logs.exposures import Logs
from recsys.retrieval.sources.neighbours import Neighbours, neighbours
from recsys.types import Ids

_FILES = {"start": np.int64, "post": np.int32, "similarity": np.float32, "author_shown": np.int64}


@dataclass(frozen=True, slots=True)
class LearnedSources:
    """Covisitation of posts and impressions of authors."""

    neighbours: Neighbours
    author_shown: Ids
    """Impressions of each author's posts, (A,)."""

    @classmethod
    def learn(cls, catalogue: Catalogue, logs: Logs, until: int, config: RetrievalConfig) -> Self:
        """Learn from all events and exposures before `until` (microseconds)."""
        events, exposures = logs.events, logs.exposures
        clicks = (events.action == CLICK) & (events.ingest_time < until)
        clicks &= (events.user_row >= 0) & (events.post_row >= 0)
        settings = config.covisitation.model_copy(update={"n_neighbours": config.sources.covisited_neighbours})
        pairs = events.user_row[clicks], events.post_row[clicks]
        covisited = neighbours(*pairs, catalogue.n_users, catalogue.n_posts, settings)
        author = np.asarray(catalogue.author)[exposures.post_row[(exposures.now < until) & (exposures.post_row >= 0)]]
        shown = np.bincount(author[author >= 0], minlength=catalogue.n_authors).astype(np.int64)
        return cls(covisited, shown)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            np.save(folder / f"{name}.npy", getattr(self if name == "author_shown" else self.neighbours, name))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises: ReleaseError when a file is missing, truncated or inconsistent."""
        try:
            arrays = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _FILES}
        except (OSError, ValueError, EOFError) as error:
            raise ReleaseError(f"the sources in {folder} cannot be read ({error}); run `recsys train` again") from None
        start, post = arrays["start"], arrays["post"]
        fits = (
            all(array.dtype == _FILES[name] and array.ndim == 1 for name, array in arrays.items())
            and len(start) > 0 and start[0] == 0 and bool((np.diff(start) >= 0).all())
            and start[-1] == len(post) == len(arrays["similarity"])
            and -1 < post.min(initial=0) <= post.max(initial=0) < max(len(start) - 1, 1)
        )  # fmt: skip
        if not fits:
            raise ReleaseError(
                f"neighbours in {folder} must lie within their {len(start) - 1} posts; run `recsys train` again"
            )
        return cls(Neighbours(start, post, arrays["similarity"]), arrays["author_shown"])

    def check_catalogue(self, catalogue: Catalogue) -> None:
        """Raises: ReleaseError when the statistics are of another catalogue."""
        sizes = (self.neighbours.n_posts, len(self.author_shown))
        if sizes != (catalogue.n_posts, catalogue.n_authors):
            raise ReleaseError(
                f"sources were learned with (posts, authors) = {sizes}, the catalogue has "
                f"{(catalogue.n_posts, catalogue.n_authors)}; serve both from one release"
            )
