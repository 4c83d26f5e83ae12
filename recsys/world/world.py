"""The world as a whole: the truth behind logs that were written, for everyone who may hold estimates against it.

Takes the folder a simulation left, gives true probabilities and the best possible slate. Only the command line,
evaluation and benchmarks may use it; whatever trains or serves never sees it.
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
from recsys.types import Doubles, Ids, Mask, Rows
from recsys.world.behaviour.choice import (
    appeal_of,
    appeals_of_user,
    examination,
    is_following,
    moment_of,
    post_appeals,
    relevance,
    truth_of,
)
from recsys.world.behaviour.random_numbers import seeded
from recsys.world.behaviour.sessions import act, laws_of, look, on_screen, on_screen_at, scroll
from recsys.world.jit import JIT
from recsys.world.population.population import draw_population
from recsys.world.writing.events import DWELL, first_delay, followed_by
from recsys.world.writing.lake_rows import FIRST_REQUEST_ID
from recsys.world.writing.notes import checksum, read_notes


class Session(NamedTuple):
    """What a user has seen since the app was opened."""

    n_shown_of_topic: Ids
    """(T,)."""


class Probabilities(NamedTuple):
    """What is true about C posts on screen, each (C,) float64; see `choice`."""

    examination: Doubles
    relevance: Doubles
    """P(click | examined)."""
    click: Doubles
    """P(click), as are `like`, `share` and `hide`: nothing is given but that the post is on screen."""
    like: Doubles
    share: Doubles
    hide: Doubles
    dwell_s: Doubles
    """Mean seconds after a click."""


class Act(NamedTuple):
    """One thing a user did."""

    position: int
    post: int
    """Row in the population."""
    type: str
    value: float | None
    """Seconds of a dwell."""
    event_time: int
    """Microseconds."""


class Response(NamedTuple):
    """What a user did with a slate."""

    shown: list[Act]
    """Impressions, by position: what came on screen."""
    actions: list[Act]
    session: Session
    """The session as it goes on."""


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
        """Raises: DataError when no simulation left its truth in `folder`, or another version of the code did."""
        config, drawn = read_notes(folder)
        world = cls(config, folder / "truth")
        if checksum(world.population, config) != drawn:
            raise DataError(
                f"the world in {folder} was drawn by another version of this program, which this one cannot repeat; "
                "run `recsys simulate` again"
            )
        return world

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
        if not (self._truth_folder / "impressions").is_dir():
            raise DataError(f"no truth in {self._truth_folder}; run `recsys simulate` to make a world")
        columns = ["request_id", "position", "post_id", "relevance", "click_probability"]
        table: pa.Table = ds.dataset(self._truth_folder / "impressions").to_table(columns=columns)
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
        row = int(lookup(self.population.users.id, [user_id])[0])
        if row < 0:
            raise DataError(f"user {user_id} does not live in this world")
        return row

    def post_rows(self, post_id: Ids) -> Rows:
        """Rows in the population, -1 for posts of elsewhere."""
        return lookup(self.population.posts.id, post_id)

    def expected_clicks(self, user: int, posts: Rows, now: int) -> float:
        """True expected clicks on a slate at the start of a session, in order of position.

        A position counts with P(the user scrolls that far) x examination; fatigue counts the slate's own earlier posts.

        Args:
            user, posts: rows in the population, posts (K,).
            now: microseconds.
        """
        logit = appeal_of(self.truth, user, posts, now)
        topic = self.population.posts.topic[posts]
        return float(_slate_clicks(self.truth, user, logit, topic, self._no_topic_yet()))

    def new_session(self) -> Session:
        """A session in which nothing was shown yet."""
        return Session(self._no_topic_yet())

    def true_probability(
        self, user: int, posts: Rows, now: int, position: int | Rows = 0, session: Session | None = None
    ) -> Probabilities:
        """What this user would do with posts on screen, exactly.

        Args:
            user, posts: rows in the population, posts (C,).
            now: microseconds.
            position: place of each in its slate, from 0, one for all or (C,).
            session: what was shown before each; None is a new session.
        Raises: DataError for a row that the population does not have, a post not yet born, or a position below 0.
        """
        posts = self._checked(user, posts, now)
        places = np.broadcast_to(np.asarray(position, np.int32), (len(posts),))
        if len(places) and np.min(places) < 0:
            raise DataError(f"a position must be >= 0, got {np.min(places)}")
        shown = (session or self.new_session()).n_shown_of_topic[self.population.posts.topic[posts]]
        examined, relevant, like, share, hide, dwell = laws_of(self.truth, user, posts, places, now, shown).T
        click = examined * relevant
        return Probabilities(
            examined, relevant, click, click * like, click * share, examined * (1 - relevant) * hide, dwell
        )

    def respond(
        self, user: int, slate: Rows, now: int, rng: np.random.Generator, session: Session | None = None
    ) -> Response:
        """Live through one slate as the logs' users did, with the same laws.

        Args:
            user, slate: rows in the population, slate by position, (K,).
            now: when it was answered, microseconds.
            rng: the same state gives the same response.
            session: what was shown before; None is a new session.
        Raises: DataError for a row that the population does not have, or a post not yet born.
        """
        slate = self._checked(user, slate, now)
        session = session or self.new_session()
        counts = session.n_shown_of_topic.copy()
        state = seeded(int(rng.integers(1 << 62)), 0)
        depth = scroll(self.truth, user, len(slate), state)
        bits, dwelt = np.zeros(depth, np.uint8), np.zeros(depth)
        shown_at = np.zeros(depth, np.int64)
        _respond(self.truth, user, slate, now, counts, state, bits, dwelt, shown_at)
        shown, actions = [], []
        for position in range(depth):
            post, at = int(slate[position]), int(shown_at[position])
            shown.append(Act(position, post, "impression", None, at))
            delay = first_delay(self.config.delayed_share, state)
            for kind, after in followed_by(bits[position], delay, dwelt[position]):
                value = float(dwelt[position]) if kind == DWELL else None
                actions.append(Act(position, post, ACTION_TYPES[kind], value, at + after))
        return Response(shown, actions, Session(counts))

    def _no_topic_yet(self) -> Ids:
        return np.zeros(len(self.truth.topics), np.int64)

    def _checked(self, user: int, posts: Rows, now: int) -> Rows:
        """The posts, once it is clear that the user is there and the posts are by then."""
        if not 0 <= user < self.population.n_users:
            raise DataError(f"user row {user} is not in this world; rows are 0 to {self.population.n_users - 1}")
        rows = np.asarray(posts)
        if len(rows) and (rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= self.population.n_posts):
            raise DataError(f"post rows must be integers from 0 to {self.population.n_posts - 1}, got {posts}")
        rows = rows.astype(np.int32)
        unborn = rows[self.population.posts.created_at[rows] > now]
        if len(unborn):
            raise DataError(f"post row {unborn[0]} is not born by {now}; nobody can see it yet")
        return rows

    def best_slate(self, user: int, now: int, allowed: Mask, k: int) -> Rows:
        """Greedy on true marginal clicks: at each position the most relevant allowed post given those above, (<= k,).

        Args:
            user: row in the population.
            now: microseconds; posts born later are left out.
            allowed: over all posts, (N,).
        """
        # Fatigue moves all posts of a topic alike, so only a topic's best k can ever be chosen.
        rows = np.empty((len(self.truth.topics), k), np.int32)
        everything = self._appeals(user, now)
        exists = allowed & (self.population.posts.created_at <= now)
        _best_of_topics(everything, self.population.posts.topic, exists, rows, self._no_topic_yet())
        rows = rows[rows >= 0]
        topic, logit = self.population.posts.topic[rows], everything[rows]
        n_of_topic = self._no_topic_yet()
        slate = []
        left = np.ones(len(rows), bool)
        for _ in range(min(k, len(rows))):
            tired = self.truth.fatigue * np.maximum(n_of_topic[topic] - 1, 0)
            best = int(np.argmax(np.where(left, logit - tired, -np.inf)))
            slate.append(rows[best])
            left[best] = False
            n_of_topic[topic[best]] += 1
        return np.array(slate, np.int32)

    def most_relevant(self, user: int, now: int, allowed: Mask, k: int) -> Rows:
        """The allowed posts that this user would rather click than any other, at one position and untired, (<= k,).

        Args: as `best_slate`.
        """
        exists = np.flatnonzero(allowed & (self.population.posts.created_at <= now))
        appeal = self._appeals(user, now)[exists]
        best = np.argpartition(-appeal, k - 1)[:k] if len(exists) > k else np.arange(len(exists))
        return exists[best[np.argsort(-appeal[best], kind="stable")]].astype(np.int32)

    def _appeals(self, user: int, now: int) -> Doubles:
        """Logits of all posts before fatigue, (N,)."""
        if self._shared[0] != now:
            self._shared = now, post_appeals(self.truth, now)
        return appeals_of_user(self.truth, self._shared[1], user, now)


@JIT
def _respond(truth, user, slate, now, n_shown_of_topic, state, bits, dwelt, shown_at):  # type: ignore[no-untyped-def]
    moment = moment_of(truth, now)
    for position in range(bits.shape[0]):
        post = slate[position]
        facts = truth.posts[post]
        following = is_following(truth, user, facts.author)
        laws = look(truth, user, post, following, position, moment, n_shown_of_topic[facts.topic])
        bits[position], dwelt[position] = act(laws, state)
        shown_at[position] = on_screen_at(now, position, state)
        n_shown_of_topic[facts.topic] += 1


@JIT
def _best_of_topics(logit, topic, allowed, rows, filled):  # type: ignore[no-untyped-def]
    """The allowed posts with the highest logits of each topic, best first, -1 padded, into rows (T, k).

    Args:
        filled: zeros, (T,).
    """
    k = rows.shape[1]
    rows[:] = -1
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
def _slate_clicks(truth, user, logit, topic, n_of_topic):  # type: ignore[no-untyped-def]
    clicks = 0.0
    for position in range(logit.shape[0]):
        seen = on_screen(truth, user, position) * examination(truth, user, position)
        clicks += seen * relevance(truth, user, logit[position], n_of_topic[topic[position]])
        n_of_topic[topic[position]] += 1
    return clicks
