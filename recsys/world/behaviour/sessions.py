"""The kernel that lives through sessions: candidates, a slate by policy, what the user looks at and does.

Takes the truth, sessions in order of time and what was popular before them; fills the columns of a block of requests.
Sessions are independent of each other and each has random numbers of its own, so any split over threads gives the same
result. It does not know how outcomes are logged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.types import SECOND, Doubles, Floats, Ids, Mask, Rows, Times
from recsys.world.behaviour.candidates import FOLLOWED, collect, relate
from recsys.world.behaviour.choice import (
    KernelTruth,
    after_click,
    appeal,
    examination,
    hiding,
    is_following,
    moment_of,
    relevance,
)
from recsys.world.behaviour.policies import mixture_propensities, order_by, weigh_candidates
from recsys.world.behaviour.random_numbers import below, exponential, restart, uniform
from recsys.world.jit import JIT, JIT_ALLOCATING

MORE = 0.94
"""P(the user scrolls on to the next position)."""

CLICKED, LIKED, SHARED, HIDDEN = 1, 2, 4, 8
"""Bits of what a user did to a post."""
RESENT = 16
"""Bit of a post whose events the client sent twice."""

_SEEN = 640
"""Posts of a session that are remembered, so as not to be shown in it again."""


class Sessions(NamedTuple):
    """S sessions in order of time; session i makes requests first[i] .. first[i + 1] - 1."""

    number: Ids
    """Number over the whole period: names the random stream."""
    user: Rows
    first: Ids
    """(S + 1,), counted within these sessions."""
    now: Times
    """Time of each request, (R,)."""


class Stage(NamedTuple):
    """What a chunk of sessions finds: the mixture of policies, and clicks of late."""

    mixture: Doubles
    """Shares of the policies, sum 1."""
    recent_clicks: Rows
    """Posts of the last day's clicks, one entry per click: drawing one draws by popularity."""
    crowding: float
    """Share of candidates that are drawn from them."""
    resent_share: float
    """Of the posts on screen."""


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
    """Of the returned, (R K,)."""
    depth: Rows
    """Positions that came on screen, (R,)."""
    shown_at: Times
    """Of the posts on screen, request after request, as are all columns below, (R K,)."""
    n_same_topic: np.ndarray
    """Earlier posts of the same topic on screen in the session."""
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
def look(truth, user, post, following, position, moment, n_same_topic):  # type: ignore[no-untyped-def]
    """The laws of one post on screen: (examination, relevance, like, share, hide, dwell), as in `Block`."""
    relevant = relevance(truth, user, appeal(truth, user, post, following, moment), n_same_topic)
    like, share, dwell = after_click(truth, user, post, relevant)
    return examination(truth, user, position), relevant, like, share, hiding(truth, user, post, relevant), dwell


@JIT
def act(laws, state):  # type: ignore[no-untyped-def]
    """What the user does to a post on screen under the laws of `look`: (bits, dwell seconds)."""
    examined, relevant, like, share, hide, dwell = laws
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
def scroll(truth, user, k, state):  # type: ignore[no-untyped-def]
    """How many of k positions come on screen; a bot reads to the end."""
    if truth.users[user].bot or k == 0:
        return k
    return min(1 + int(exponential(state) / -np.log(MORE)), k)


@JIT
def on_screen(truth, user, position):  # type: ignore[no-untyped-def]
    """P(a position comes on screen)."""
    return 1.0 if truth.users[user].bot else MORE**position


@JIT
def on_screen_at(now, position, state):  # type: ignore[no-untyped-def]
    """When a position comes on screen: the first after a second, each further one two seconds later, give or take."""
    return now + SECOND + position * 2 * SECOND + below(state, SECOND)


@JIT_ALLOCATING
def live(truth, shelves, stage, sessions, seed, begin, end, out):  # type: ignore[no-untyped-def]
    """Live through sessions begin .. end - 1 and fill the block with their requests; gives what it holds.

    Gives: (requests, candidates, returned, on screen).
    """
    n_requests = out.policy.shape[0]
    room, slate_size = out.candidates.shape[0] // n_requests, out.returned.shape[0] // n_requests
    weights = np.empty((stage.mixture.shape[0], room))
    keys, order = np.empty(room), np.empty(slate_size, np.int64)
    propensity, scratch = np.empty(slate_size), np.empty((3, stage.mixture.shape[0]))
    state, n_shown_of_topic = np.empty(1, np.uint64), np.zeros(truth.topics.shape[0], np.int64)
    seen, relation = np.empty(_SEEN, np.int64), np.zeros(truth.author_style.shape[0], np.int8)
    n_candidates, n_returned, n_shown = 0, 0, 0
    first = sessions.first[begin]
    for i in range(begin, end):
        restart(state, seed, sessions.number[i])
        user = sessions.user[i]
        n_shown_of_topic[:] = 0
        n_seen = 0
        relate(truth, shelves, user, relation, False)
        for request in range(sessions.first[i], sessions.first[i + 1]):
            r, moment = request - first, moment_of(truth, sessions.now[request])
            now = moment.now
            candidates = out.candidates[n_candidates : n_candidates + room]
            n = collect(
                truth,
                shelves,
                stage.recent_clicks,
                stage.crowding,
                user,
                relation,
                now,
                seen,
                n_seen,
                state,
                candidates,
            )
            k = min(slate_size, n)
            draw, policy = uniform(state), 0
            while policy < stage.mixture.shape[0] - 1 and draw >= stage.mixture[policy]:
                draw -= stage.mixture[policy]
                policy += 1
            weigh_candidates(truth, user, relation, now, candidates, n, state, weights)
            order_by(weights[policy], n, k, state, order, keys)
            mixture_propensities(weights, stage.mixture, n, k, order, scratch, propensity)
            depth = scroll(truth, user, k, state)
            out.policy[r], out.n_candidates[r], out.n_returned[r], out.depth[r] = policy, n, k, depth
            for position in range(k):
                post = candidates[order[position]]
                out.returned[n_returned + position] = post
                out.propensity[n_returned + position] = propensity[position]
                if position >= depth:
                    continue
                topic, author = truth.posts[post].topic, truth.posts[post].author
                same = n_shown_of_topic[topic]
                laws = look(truth, user, post, relation[author] == FOLLOWED, position, moment, same)
                bits, dwelt = act(laws, state)
                at = n_shown + position
                out.shown_at[at] = on_screen_at(now, position, state)
                out.n_same_topic[at] = same
                out.examination[at], out.relevance[at], out.like[at] = laws[0], laws[1], laws[2]
                out.share[at], out.hide[at], out.dwell[at] = laws[3], laws[4], laws[5]
                resent = RESENT if uniform(state) < stage.resent_share else 0
                out.actions[at], out.dwelt[at] = bits | resent, dwelt
                n_shown_of_topic[topic] = same + 1
                if n_seen < _SEEN:
                    seen[n_seen] = post
                    n_seen += 1
            n_candidates, n_returned, n_shown = n_candidates + n, n_returned + k, n_shown + depth
        relate(truth, shelves, user, relation, True)
    return n_requests, n_candidates, n_returned, n_shown


def bits_of(actions: np.ndarray, bit: int) -> Mask:
    """Where a bit is set."""
    return (actions & bit) > 0


@JIT
def _look_many(truth, user, posts, positions, now, n_same_topic, out):  # type: ignore[no-untyped-def]
    moment = moment_of(truth, now)
    for i in range(posts.shape[0]):
        following = is_following(truth, user, truth.posts[posts[i]].author)
        laws = look(truth, user, posts[i], following, positions[i], moment, n_same_topic[i])
        for j in range(6):
            out[i, j] = laws[j]


def laws_of(truth: KernelTruth, user: int, posts: Rows, positions: Rows, now: int, n_same_topic: Ids) -> Doubles:
    """`look` at many posts for one user at `now` (microseconds), (C, 6).

    Args:
        posts, positions, n_same_topic: of each, (C,).
    """
    out = np.empty((len(posts), 6))
    _look_many(truth, user, posts, positions, now, n_same_topic, out)
    return out
