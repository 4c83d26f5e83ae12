"""The kernel that simulates sessions: draw candidates, order them by a policy, draw what the user looks at and does.

Takes the truth, sessions in order of time and what was clicked before them; fills the columns of a block of requests.
Sessions are independent of each other and each has its own random stream, so any split over threads gives the same
result. It does not know how outcomes are logged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.types import SECOND, Doubles, Floats, Ids, Mask, Rows, Times
from recsys.world.behaviour.candidates import FOLLOWED, RecentClicks, Viewer, draw_candidates, set_relations
from recsys.world.behaviour.choice import (
    KernelTruth,
    after_click,
    examination,
    hide_probability,
    is_following,
    moment_of,
    relevance,
    relevance_logit,
)
from recsys.world.behaviour.policies import draw_order, mixture_propensities, weigh_candidates
from recsys.world.behaviour.random_numbers import below, exponential, restart, uniform
from recsys.world.jit import JIT, JIT_ALLOCATING

SCROLL_ON = 0.94
"""P(the user scrolls to the next position)."""

CLICKED, LIKED, SHARED, HIDDEN = 1, 2, 4, 8
"""Bits of what a user did to a post."""
RESENT = 16
"""Bit of a post whose events the client sent twice."""

_MAX_SEEN = 640
"""Posts that a session remembers, so as not to show them again."""


class Sessions(NamedTuple):
    """S sessions in order of time; session i makes the requests first[i] .. first[i + 1] - 1."""

    number: Ids
    """Number over the whole period: names the random stream."""
    user: Rows
    first: Ids
    """Counted within these sessions, (S + 1,)."""
    now: Times
    """Time of each request, (R,)."""

    def part(self, begin: int, end: int) -> Sessions:
        """Sessions begin .. end - 1."""
        first = self.first[begin : end + 1]
        return Sessions(self.number[begin:end], self.user[begin:end], first - first[0], self.now[first[0] : first[-1]])


class ChunkState(NamedTuple):
    """What stays the same for all sessions of a chunk."""

    mixture: Doubles
    """Shares of the policies, summing to 1, (P,)."""
    recent: RecentClicks
    resent_share: float
    """Share of the posts on screen whose events are sent twice."""


class Filled(NamedTuple):
    """How many entries of a `Block` are filled, by kind of column."""

    requests: int
    candidates: int
    returned: int
    shown: int


class Block(NamedTuple):
    """What happened in R requests, with room for K returned posts and M candidates each; columns fill up in order."""

    policy: np.ndarray
    """(R,)."""
    n_candidates: Rows
    """(R,)."""
    candidates: Rows
    """Post rows, request after request, (R M,)."""
    n_returned: Rows
    """(R,)."""
    returned: Rows
    """Post rows, request after request, by position, (R K,)."""
    propensity: Floats
    """Of each returned post, (R K,)."""
    depth: Rows
    """Positions that came on screen, (R,)."""
    shown_at: Times
    """Of each post on screen, request after request, as are all columns below, (R K,)."""
    n_same_topic: np.ndarray
    """Earlier posts on the same topic on screen in the session."""
    examination: Floats
    relevance: Floats
    like: Floats
    """P(like | click); `share` likewise."""
    share: Floats
    hide: Floats
    """P(hide | examined, not clicked)."""
    dwell: Floats
    """Mean seconds after a click."""
    actions: np.ndarray
    """Bits of what was done."""
    dwelt: Floats
    """Seconds, 0 without a click."""

    @classmethod
    def empty(cls, n_requests: int, slate_size: int, n_candidates: int) -> Block:
        """A block with room for this many requests."""
        n = n_requests * slate_size
        return cls(
            policy=np.empty(n_requests, np.int8),
            n_candidates=np.zeros(n_requests, np.int32),
            candidates=np.empty(n_requests * n_candidates, np.int32),
            n_returned=np.zeros(n_requests, np.int32),
            returned=np.empty(n, np.int32),
            propensity=np.empty(n, np.float32),
            depth=np.zeros(n_requests, np.int32),
            shown_at=np.empty(n, np.int64),
            n_same_topic=np.empty(n, np.int16),
            **{name: np.empty(n, np.float32) for name in _PROBABILITIES},
            actions=np.empty(n, np.uint8),
            dwelt=np.empty(n, np.float32),
        )


_PROBABILITIES = ("examination", "relevance", "like", "share", "hide", "dwell")


@JIT
def outcome_probabilities(truth, user, post, following, position, moment, n_same_topic):  # type: ignore[no-untyped-def]
    """True probabilities for one post on screen: (examination, relevance, like, share, hide, dwell), as in `Block`."""
    logit = relevance_logit(truth, user, post, following, moment)
    relevant = relevance(truth, user, logit, n_same_topic)
    like, share, dwell = after_click(truth, user, post, relevant)
    hide = hide_probability(truth, user, post, relevant)
    return examination(truth, user, position), relevant, like, share, hide, dwell


@JIT
def draw_actions(probabilities, state):  # type: ignore[no-untyped-def]
    """Draw what the user does to a post on screen, given `outcome_probabilities`: (bits, dwell seconds)."""
    examined, relevant, like, share, hide, dwell = probabilities
    bits, dwelt = 0, 0.0
    if uniform(state) >= examined:
        return bits, dwelt
    if uniform(state) < relevant:
        bits |= CLICKED
        dwelt = dwell * exponential(state)
        if uniform(state) < like:
            bits |= LIKED
        if uniform(state) < share:
            bits |= SHARED
    elif uniform(state) < hide:
        bits |= HIDDEN
    return bits, dwelt


@JIT
def draw_depth(truth, user, k, state):  # type: ignore[no-untyped-def]
    """How many of k positions come on screen, geometric with `SCROLL_ON`; a bot scrolls to the end."""
    if truth.users[user].bot or k == 0:
        return k
    return min(1 + int(exponential(state) / -np.log(SCROLL_ON)), k)


@JIT
def scroll_probability(truth, user, position):  # type: ignore[no-untyped-def]
    """P(a position comes on screen)."""
    return 1.0 if truth.users[user].bot else SCROLL_ON**position


@JIT
def draw_shown_at(now, position, state):  # type: ignore[no-untyped-def]
    """When a position comes on screen: one to two seconds after `now`, and two seconds more per position."""
    return now + SECOND + position * 2 * SECOND + below(state, SECOND)


@JIT_ALLOCATING
def run_sessions(truth, lists, chunk, sessions, seed, out):  # type: ignore[no-untyped-def]
    """Simulate sessions and fill the `Block` with their requests; gives its `Filled`.

    Args:
        truth, lists, chunk, sessions: `KernelTruth`, `PostLists`, `ChunkState` and `Sessions`.
    """
    # Scratch for one request of M candidates and K returned posts, P policies, T topics, A authors.
    n_requests, n_policies = out.policy.shape[0], chunk.mixture.shape[0]
    room, slate_size = out.candidates.shape[0] // n_requests, out.returned.shape[0] // n_requests
    weights = np.empty((n_policies, room))  # (P, M)
    keys, order = np.empty(room), np.empty(slate_size, np.int64)  # (M,), (K,)
    propensity, scratch = np.empty(slate_size), np.empty((3, n_policies))  # (K,), (3, P)
    state, n_shown_of_topic = np.empty(1, np.uint64), np.zeros(truth.topics.shape[0], np.int64)  # (1,), (T,)
    seen, relation = np.empty(_MAX_SEEN, np.int64), np.zeros(truth.author_style.shape[0], np.int8)  # (S,), (A,)
    n_candidates, n_returned, n_shown = 0, 0, 0
    for i in range(sessions.user.shape[0]):
        # A session starts with its own random stream and nothing shown.
        restart(state, seed, sessions.number[i])
        user = sessions.user[i]
        n_shown_of_topic[:] = 0
        n_seen = 0
        set_relations(truth, lists, user, relation, False)
        for r in range(sessions.first[i], sessions.first[i + 1]):
            moment = moment_of(truth, sessions.now[r])
            # 1. Candidates: n <= M post rows, written straight into the block.
            viewer = Viewer(user, moment.now, relation, seen[:n_seen])
            candidates = out.candidates[n_candidates : n_candidates + room]
            n = draw_candidates(truth, lists, chunk.recent, viewer, state, candidates)
            # 2. Policy: drawn from the mixture.
            draw, policy = uniform(state), 0
            while policy < n_policies - 1 and draw >= chunk.mixture[policy]:
                draw -= chunk.mixture[policy]
                policy += 1
            # 3. Slate: k = min(K, n) places among the candidates, and their propensities under the mixture.
            k = min(slate_size, n)
            weigh_candidates(truth, viewer, candidates[:n], state, weights)
            draw_order(weights[policy], n, k, state, order, keys)
            mixture_propensities(weights, chunk.mixture, n, k, order, scratch, propensity)
            # 4. Depth: the first `depth` positions come on screen.
            depth = draw_depth(truth, user, k, state)
            out.policy[r], out.n_candidates[r], out.n_returned[r], out.depth[r] = policy, n, k, depth
            for position in range(k):
                post = candidates[order[position]]
                out.returned[n_returned + position] = post
                out.propensity[n_returned + position] = propensity[position]
                if position >= depth:
                    continue
                # 5. Actions: compute the true probabilities, draw from them, keep both.
                topic, author = truth.posts[post].topic, truth.posts[post].author
                same = n_shown_of_topic[topic]
                following = relation[author] == FOLLOWED
                p = outcome_probabilities(truth, user, post, following, position, moment, same)
                bits, dwelt = draw_actions(p, state)
                at = n_shown + position
                out.shown_at[at] = draw_shown_at(moment.now, position, state)
                out.n_same_topic[at] = same
                out.examination[at], out.relevance[at], out.like[at] = p[0], p[1], p[2]
                out.share[at], out.hide[at], out.dwell[at] = p[3], p[4], p[5]
                resent = RESENT if uniform(state) < chunk.resent_share else 0
                out.actions[at], out.dwelt[at] = bits | resent, dwelt
                # 6. The session remembers: topics for fatigue, posts so as not to repeat them.
                n_shown_of_topic[topic] = same + 1
                if n_seen < _MAX_SEEN:
                    seen[n_seen] = post
                    n_seen += 1
            n_candidates, n_returned, n_shown = n_candidates + n, n_returned + k, n_shown + depth
        set_relations(truth, lists, user, relation, True)
    return Filled(n_requests, n_candidates, n_returned, n_shown)


def has_bit(actions: np.ndarray, bit: int) -> Mask:
    """Where a bit is set."""
    return (actions & bit) > 0


@JIT
def _fill_probabilities(truth, user, posts, positions, now, n_same_topic, out):  # type: ignore[no-untyped-def]
    """Write `outcome_probabilities` of each post into out, (C, 6)."""
    moment = moment_of(truth, now)
    for i in range(posts.shape[0]):
        following = is_following(truth, user, truth.posts[posts[i]].author)
        p = outcome_probabilities(truth, user, posts[i], following, positions[i], moment, n_same_topic[i])
        for j in range(6):
            out[i, j] = p[j]


def outcome_table(truth: KernelTruth, user: int, posts: Rows, positions: Rows, now: int, n_same_topic: Ids) -> Doubles:
    """`outcome_probabilities` of many posts for one user at `now` (microseconds), (C, 6).

    Args:
        posts, positions, n_same_topic: of each, (C,).
    """
    out = np.empty((len(posts), 6))
    _fill_probabilities(truth, user, posts, positions, now, n_same_topic, out)
    return out
