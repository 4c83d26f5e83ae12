"""The truth behind simulated logs: true probabilities, simulated responses and the best possible slate.

Takes the folder that a simulation wrote. Only the command line, evaluation and benchmarks may import it; training and
serving never see it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from recsys.config import WorldConfig
from recsys.errors import DataError
from recsys.lookup import lookup
from recsys.offline.lake.schemas import ACTION_TYPES
from recsys.types import Doubles, Ids, Mask, Rows, Times
from recsys.world.behaviour.choice import (
    is_following,
    logits_for_user,
    moment_of,
    post_logits,
    relevance_logits,
    truth_of,
)
from recsys.world.behaviour.random_numbers import seeded
from recsys.world.behaviour.sessions import (
    draw_actions,
    draw_depth,
    draw_shown_at,
    outcome_probabilities,
    outcome_table,
)
from recsys.world.behaviour.slates import best_of_topics, slate_clicks
from recsys.world.jit import JIT
from recsys.world.population.population import draw_population
from recsys.world.writing.events import DWELL, actions_of, first_delay
from recsys.world.writing.lake_rows import FIRST_REQUEST_ID
from recsys.world.writing.settings_file import read_settings, world_checksum


class Session(NamedTuple):
    """What a user has seen in the session so far."""

    n_shown_of_topic: Ids
    """Posts shown on each topic, (T,)."""


class Probabilities(NamedTuple):
    """True probabilities for C posts on screen, each (C,) float64; see `choice`."""

    examination: Doubles
    relevance: Doubles
    """P(click | examined)."""
    click: Doubles
    """P(click | on screen); `like`, `share` and `hide` are also given only that the post is on screen."""
    like: Doubles
    share: Doubles
    hide: Doubles
    dwell_s: Doubles
    """Mean seconds after a click."""


class UserEvent(NamedTuple):
    """One impression or action of a user."""

    position: int
    post: int
    """Row in the population."""
    type: str
    value: float | None
    """Seconds of a dwell, None for other events."""
    event_time: int
    """Microseconds."""


class Response(NamedTuple):
    """How a user responded to a slate."""

    shown: list[UserEvent]
    """Impressions, by position: the posts that came on screen."""
    actions: list[UserEvent]
    session: Session
    """The session after this slate."""


class _Outcomes(NamedTuple):
    """What happened to the posts on screen, by position, (depth,) each."""

    bits: np.ndarray
    """What was done, as in `sessions.Block.actions`."""
    dwelt: Doubles
    """Seconds, 0 without a click."""
    shown_at: Times


class World:
    """A simulated world. The population is drawn again from the settings."""

    def __init__(self, config: WorldConfig, truth_folder: Path) -> None:
        self.config = config
        self.population = draw_population(config)
        self.truth = truth_of(self.population, config)
        self._truth_folder = truth_folder
        # (now, `post_logits` at that time): evaluation ranks all posts for many users at one moment.
        self._shared: tuple[int, Doubles] = (-1, np.empty(0))

    @classmethod
    def open(cls, folder: Path) -> World:
        """Open a simulated world.

        Raises: DataError when `folder` holds no world, or one that another version of the code drew.
        """
        config, drawn = read_settings(folder)
        world = cls(config, folder / "truth")
        if world_checksum(world.population, config) != drawn:
            raise DataError(
                f"the world in {folder} was drawn by another version of this program and cannot be drawn again; "
                "run `recsys simulate` again"
            )
        return world

    def has_truth(self, request_id: Ids, position: Rows, post_id: Ids) -> Mask:
        """Whether these impressions are in the truth table, so written by the simulation itself, (E,)."""
        rows = self._truth_rows(request_id, position)
        found: Mask = rows >= 0
        same_post: Mask = self._truth_table["post_id"].to_numpy()[np.where(found, rows, 0)] == post_id
        return found & same_post

    def true_click_probability(self, request_id: Ids, position: Rows) -> tuple[Doubles, Doubles]:
        """P(click) and relevance of logged impressions, each (E,).

        Raises: DataError when an impression is not in the truth table.
        """
        rows = self._truth_rows(request_id, position)
        if missing := int((rows < 0).sum()):
            raise DataError(f"{missing} impressions have no truth in {self._truth_folder}; run `recsys simulate` again")
        return (
            self._truth_table["click_probability"].to_numpy()[rows].astype(np.float64),
            self._truth_table["relevance"].to_numpy()[rows].astype(np.float64),
        )

    @cached_property
    def _truth_table(self) -> pa.Table:
        """The truth about all impressions, in order of request and position."""
        if not (self._truth_folder / "impressions").is_dir():
            raise DataError(f"no truth in {self._truth_folder}; run `recsys simulate` to make a world")
        columns = ["request_id", "position", "post_id", "relevance", "click_probability"]
        table: pa.Table = ds.dataset(self._truth_folder / "impressions").to_table(columns=columns)
        return table.sort_by([("request_id", "ascending"), ("position", "ascending")]).combine_chunks()

    @cached_property
    def _truth_keys(self) -> Ids:
        """request_id x slate_size + position of each row of the truth table, ascending."""
        width = np.int64(self.config.policy.slate_size)
        return np.asarray(self._truth_table["request_id"].to_numpy() * width + self._truth_table["position"].to_numpy())

    def _truth_rows(self, request_id: Ids, position: Rows) -> Rows:
        """Rows in the truth table, -1 for impressions that are not in it, (E,)."""
        width = np.int64(self.config.policy.slate_size)
        # A huge id would overflow the key; a position beyond the slate would give the key of the next request.
        inside = (request_id >= 0) & (request_id < 2 * FIRST_REQUEST_ID) & (position >= 0) & (position < width)
        rows = lookup(self._truth_keys, np.where(inside, request_id, 0) * width + position)
        return np.where(inside, rows, -1).astype(np.int32)

    def user_row(self, user_id: int) -> int:
        """The user's row in the population.

        Raises: DataError for an unknown user.
        """
        row = int(lookup(self.population.users.id, [user_id])[0])
        if row < 0:
            raise DataError(f"user {user_id} is not in this world")
        return row

    def post_rows(self, post_id: Ids) -> Rows:
        """Rows in the population, -1 for posts that are not from this world."""
        return lookup(self.population.posts.id, post_id)

    def expected_clicks(self, user: int, posts: Rows, now: int) -> float:
        """True expected number of clicks on a slate, ordered by position, at the start of a session.

        The sum over positions of P(the user scrolls there) x examination x relevance; fatigue counts the slate's own
        earlier posts.

        Args:
            user, posts: rows in the population, posts (K,).
            now: microseconds.
        """
        logit = relevance_logits(self.truth, user, posts, now)
        topic = self.population.posts.topic[posts]
        return float(slate_clicks(self.truth, user, logit, topic, self._zero_counts()))

    def new_session(self) -> Session:
        """A session that has shown nothing yet."""
        return Session(self._zero_counts())

    def true_probability(
        self, user: int, posts: Rows, now: int, position: int | Rows = 0, session: Session | None = None
    ) -> Probabilities:
        """The exact probabilities of what this user does with posts on screen.

        Args:
            user, posts: rows in the population, posts (C,).
            now: microseconds.
            position: in the slate, from 0; one for all or (C,).
            session: what was shown before; None is a new session.
        Raises: DataError for a row outside the population, a post not yet created, or a position below 0.
        """
        posts = self._checked(user, posts, now)
        places = np.broadcast_to(np.asarray(position, np.int32), (len(posts),))
        if len(places) and np.min(places) < 0:
            raise DataError(f"a position must be >= 0, got {np.min(places)}")
        shown = (session or self.new_session()).n_shown_of_topic[self.population.posts.topic[posts]]
        table = outcome_table(self.truth, user, posts, places, now, shown)  # (C, 6)
        examined, relevant, like, share, hide, dwell = table.T
        click = examined * relevant
        return Probabilities(
            examined, relevant, click, click * like, click * share, examined * (1 - relevant) * hide, dwell
        )

    def respond(
        self, user: int, slate: Rows, now: int, rng: np.random.Generator, session: Session | None = None
    ) -> Response:
        """Draw how a user responds to one slate, with the same kernels that wrote the logs.

        Args:
            user, slate: rows in the population, slate by position, (K,).
            now: when the slate was served, microseconds.
            rng: the same state gives the same response.
            session: what was shown before; None is a new session.
        Raises: DataError for a row outside the population, or a post not yet created.
        """
        slate = self._checked(user, slate, now)
        session = session or self.new_session()
        counts = session.n_shown_of_topic.copy()
        state = seeded(int(rng.integers(1 << 62)), 0)
        depth = draw_depth(self.truth, user, len(slate), state)
        outcomes = _Outcomes(np.zeros(depth, np.uint8), np.zeros(depth), np.zeros(depth, np.int64))
        _respond(self.truth, user, slate, now, counts, state, outcomes)
        shown, actions = [], []
        for position in range(depth):
            post, at = int(slate[position]), int(outcomes.shown_at[position])
            shown.append(UserEvent(position, post, "impression", None, at))
            delay = first_delay(self.config.delayed_share, state)
            for kind, after in actions_of(outcomes.bits[position], delay, outcomes.dwelt[position]):
                value = float(outcomes.dwelt[position]) if kind == DWELL else None
                actions.append(UserEvent(position, post, ACTION_TYPES[kind], value, at + after))
        return Response(shown, actions, Session(counts))

    def _zero_counts(self) -> Ids:
        """A count of 0 for each topic, (T,)."""
        return np.zeros(len(self.truth.topics), np.int64)

    def _checked(self, user: int, posts: Rows, now: int) -> Rows:
        """Validate the user row and the post rows, which must exist at `now`; gives the posts as int32."""
        if not 0 <= user < self.population.n_users:
            raise DataError(f"user row {user} is not in this world; rows are 0 to {self.population.n_users - 1}")
        rows = np.asarray(posts)
        if len(rows) and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= self.population.n_posts):
            raise DataError(f"post rows must be integers from 0 to {self.population.n_posts - 1}, got {posts}")
        rows = rows.astype(np.int32)
        unborn = rows[self.population.posts.created_at[rows] > now]
        if len(unborn):
            raise DataError(f"post row {unborn[0]} is created after {now}; use a later moment or another post")
        return rows

    def best_slate(self, user: int, now: int, allowed: Mask, k: int) -> Rows:
        """The best slate by greedy choice: at each position the most relevant allowed post given those above, (<= k,).

        Args:
            user: row in the population.
            now: microseconds; posts created later are left out.
            allowed: over all posts, (N,).
        """
        # 1. Fatigue lowers all posts of a topic alike, so only each topic's best k can be chosen: (T, k), then (C,).
        rows = np.empty((len(self.truth.topics), k), np.int32)
        logits = self._logits(user, now)  # (N,)
        exists = allowed & (self.population.posts.created_at <= now)
        best_of_topics(logits, self.population.posts.topic, exists, rows, self._zero_counts())
        rows = rows[rows >= 0]
        topic, logit = self.population.posts.topic[rows], logits[rows]
        # 2. Fill the positions one by one; fatigue starts with the second post before it on the topic.
        n_of_topic = self._zero_counts()
        slate = []
        left = np.ones(len(rows), bool)
        for _ in range(min(k, len(rows))):
            fatigue = self.truth.fatigue * np.maximum(n_of_topic[topic] - 1, 0)
            best = int(np.argmax(np.where(left, logit - fatigue, -np.inf)))
            slate.append(rows[best])
            left[best] = False
            n_of_topic[topic[best]] += 1
        return np.array(slate, np.int32)

    def most_relevant(self, user: int, now: int, allowed: Mask, k: int) -> Rows:
        """The k allowed posts with the highest true relevance, without fatigue, best first, (<= k,).

        Args: as in `best_slate`.
        """
        exists = np.flatnonzero(allowed & (self.population.posts.created_at <= now))
        logit = self._logits(user, now)[exists]
        best = np.argpartition(-logit, k - 1)[:k] if len(exists) > k else np.arange(len(exists))
        return exists[best[np.argsort(-logit[best], kind="stable")]].astype(np.int32)

    def _logits(self, user: int, now: int) -> Doubles:
        """Logits of all posts before fatigue, (N,)."""
        if self._shared[0] != now:
            self._shared = now, post_logits(self.truth, now)
        return logits_for_user(self.truth, self._shared[1], user, now)


@JIT
def _respond(truth, user, slate, now, n_shown_of_topic, state, outcomes):  # type: ignore[no-untyped-def]
    """Fill `_Outcomes` for the first positions of a slate, and count their topics in `n_shown_of_topic` (T,)."""
    moment = moment_of(truth, now)
    for position in range(outcomes.bits.shape[0]):
        post = slate[position]
        facts = truth.posts[post]
        following = is_following(truth, user, facts.author)
        same = n_shown_of_topic[facts.topic]
        p = outcome_probabilities(truth, user, post, following, position, moment, same)
        outcomes.bits[position], outcomes.dwelt[position] = draw_actions(p, state)
        outcomes.shown_at[position] = draw_shown_at(now, position, state)
        n_shown_of_topic[facts.topic] += 1
