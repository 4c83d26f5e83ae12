"""The world as a whole: the truth behind logs that were written, for everyone who may hold estimates against it.

Takes the folder a simulation left, gives true probabilities and the best possible slate. Only the command line,
evaluation and benchmarks may use it; whatever trains or serves never sees it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from recsys.config import WorldConfig
from recsys.errors import DataError
from recsys.offline.catalogue import lookup
from recsys.types import Doubles, Ids, Mask, Rows
from recsys.world.choice import appeal_of, appeals_of_user, examination, post_appeals, relevance, truth_of
from recsys.world.kernels import JIT
from recsys.world.logs import FIRST_REQUEST_ID
from recsys.world.population import draw_population
from recsys.world.sessions import MORE


class World:
    """A simulated world, drawn again from its settings."""

    def __init__(self, config: WorldConfig, truth_folder: Path) -> None:
        self.config = config
        self.population = draw_population(config)
        self.truth = truth_of(self.population, config)
        self._truth_folder = truth_folder
        # The part of all posts' logits that users share, for the moment asked last: reports ask one moment for all.
        self._shared: tuple[int, Doubles] = (-1, np.empty(0))

    @classmethod
    def open(cls, folder: Path) -> World:
        """Raises: DataError when no simulation left its truth in `folder`."""
        try:
            config = WorldConfig.model_validate_json((folder / "world.json").read_text())
        except (OSError, ValueError):
            raise DataError(f"no world in {folder}; run `recsys simulate` to make one") from None
        return cls(config, folder / "truth")

    def knows(self, request_id: Ids, position: Rows, post_id: Ids) -> Mask:
        """Whether the world itself wrote these impressions: only then have they a truth, (E,)."""
        place = self._place(request_id, position)
        known: Mask = place >= 0
        same: Mask = self._written["post_id"].to_numpy()[np.where(known, place, 0)] == post_id
        return known & same

    def true_click_probability(self, request_id: Ids, position: Rows) -> tuple[Doubles, Doubles]:
        """Of impressions that were logged: P(click) as shown, and relevance alone, each (E,).

        Raises: DataError when an impression is not in the truth table.
        """
        rows = self._place(request_id, position)
        if missing := int((rows < 0).sum()):
            raise DataError(f"{missing} impressions have no truth in {self._truth_folder}; run `recsys simulate` again")
        return (
            self._written["click_probability"].to_numpy()[rows].astype(np.float64),
            self._written["relevance"].to_numpy()[rows].astype(np.float64),
        )

    @cached_property
    def _written(self) -> pa.Table:
        """The truth table, in order of request and position."""
        if not self._truth_folder.is_dir():
            raise DataError(f"no truth in {self._truth_folder}; run `recsys simulate` to make a world")
        columns = ["request_id", "position", "post_id", "relevance", "click_probability"]
        table: pa.Table = ds.dataset(self._truth_folder).to_table(columns=columns)
        return table.sort_by([("request_id", "ascending"), ("position", "ascending")]).combine_chunks()

    @cached_property
    def _written_keys(self) -> Ids:
        width = np.int64(self.config.policy.slate_size)
        return np.asarray(self._written["request_id"].to_numpy() * width + self._written["position"].to_numpy())

    def _place(self, request_id: Ids, position: Rows) -> Rows:
        """Rows of the truth table, -1 for impressions that are not in it, (E,)."""
        width = np.int64(self.config.policy.slate_size)
        # An id far beyond the world's would overflow; a position beyond its slates would read as the next request.
        inside = (request_id >= 0) & (request_id < 2 * FIRST_REQUEST_ID) & (position >= 0) & (position < width)
        place = lookup(self._written_keys, np.where(inside, request_id, 0) * width + position)
        return np.where(inside, place, -1).astype(np.int32)

    def user_row(self, user_id: int) -> int:
        """Raises: DataError for a user this world does not have."""
        row = int(lookup(self.population.user_id, [user_id])[0])
        if row < 0:
            raise DataError(f"user {user_id} does not live in this world")
        return row

    def post_rows(self, post_id: Ids) -> Rows:
        """Rows in the population, -1 for posts of elsewhere."""
        return lookup(self.population.post_id, post_id)

    def expected_clicks(self, user: int, posts: Rows, now: int) -> float:
        """True expected clicks on a slate at the start of a session, in order of position.

        A position counts with P(the user scrolls that far) x examination; fatigue counts the slate's own earlier posts.

        Args:
            user, posts: rows in the population, posts (K,).
            now: microseconds.
        """
        logit = appeal_of(self.truth, user, posts, now)
        topic = self.population.post_topic[posts]
        return float(_slate_clicks(self.truth, logit, topic, np.float64(MORE)))

    def best_slate(self, user: int, now: int, allowed: Mask, k: int) -> Rows:
        """Greedy on true marginal clicks: at each position the most relevant allowed post given those above, (<= k,).

        Args:
            user: row in the population.
            now: microseconds; posts born later are left out.
            allowed: over all posts, (N,).
        """
        if self._shared[0] != now:
            self._shared = now, post_appeals(self.truth, now)
        # Fatigue moves all posts of a topic alike, so only a topic's best k can ever be chosen.
        rows = np.empty((self.truth.taste_start.shape[1], k), np.int32)
        everything = appeals_of_user(self.truth, self._shared[1], user, now)
        exists = allowed & (self.population.post_created_at <= now)
        _best_of_topics(everything, self.population.post_topic, exists, rows)
        rows = rows[rows >= 0]
        topic, logit = self.population.post_topic[rows], everything[rows]
        n_of_topic = np.zeros(self.truth.taste_start.shape[1], np.int64)
        slate = []
        left = np.ones(len(rows), bool)
        for _ in range(min(k, len(rows))):
            tired = self.truth.fatigue * np.maximum(n_of_topic[topic] - 1, 0)
            best = int(np.argmax(np.where(left, logit - tired, -np.inf)))
            slate.append(rows[best])
            left[best] = False
            n_of_topic[topic[best]] += 1
        return np.array(slate, np.int32)


@JIT
def _best_of_topics(logit, topic, allowed, rows):  # type: ignore[no-untyped-def]
    """The allowed posts with the highest logits of each topic, best first, -1 padded, into rows (T, k)."""
    k = rows.shape[1]
    rows[:] = -1
    filled = np.zeros(rows.shape[0], np.int64)
    for post in range(logit.shape[0]):
        of = topic[post]
        n = filled[of]
        if not allowed[post] or (n == k and logit[post] <= logit[rows[of, k - 1]]):
            continue
        place = min(n, k - 1)
        while place > 0 and logit[rows[of, place - 1]] < logit[post]:
            rows[of, place] = rows[of, place - 1]
            place -= 1
        rows[of, place] = post
        filled[of] = min(n + 1, k)


@JIT
def _slate_clicks(truth, logit, topic, more):  # type: ignore[no-untyped-def]
    n_of_topic = np.zeros(truth.taste_start.shape[1], np.int64)
    clicks = 0.0
    for position in range(logit.shape[0]):
        seen = more**position * examination(position, truth.position_bias)
        clicks += seen * relevance(truth, logit[position], n_of_topic[topic[position]])
        n_of_topic[topic[position]] += 1
    return clicks
