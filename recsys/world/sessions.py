"""The kernel that lives through sessions: candidates, a slate by policy, what the user looks at and does.

Takes the truth, sessions in order of time and what was popular before them; fills arrays with one row per request.
Sessions are independent of each other and each has random numbers of its own, so any split over threads gives the same
result. It does not know how outcomes are logged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.types import HOUR, Doubles, Floats, Ids, Rows, Times
from recsys.world.choice import appeal, examination, relevance
from recsys.world.kernels import JIT
from recsys.world.policies import mixture_propensities, order_by, score_candidates
from recsys.world.sampling import below, seeded, uniform

MORE = 0.94
"""P(the user scrolls on to the next position)."""

CLICKED, LIKED, SHARED, HIDDEN = 1, 2, 4, 8
"""Bits of what a user did to a post."""


class Sessions(NamedTuple):
    """S sessions in order of time; session i makes requests first[i] .. first[i + 1] - 1."""

    number: Ids
    """Number over the whole period: names the random stream."""
    user: Rows
    first: Ids
    """(S + 1,), counted within this chunk."""
    now: Times
    """Time of each request, (R,)."""


class Outcome(NamedTuple):
    """What happened, one row per request; K positions, M candidates."""

    policy: np.ndarray
    candidates: Rows
    """Post rows, (R, M), -1 padded."""
    post: Rows
    """Returned posts by position, (R, K), -1 where the slate was short."""
    propensity: Floats
    n_same_topic: Rows
    """Earlier posts of the same topic on screen in the session, (R, K)."""
    relevance: Floats
    depth: Rows
    """Positions that came on screen, (R,)."""
    actions: np.ndarray
    """Bits, (R, K)."""
    dwell: Floats
    """Seconds, 0 without a click, (R, K)."""

    @classmethod
    def empty(cls, n_requests: int, slate_size: int, n_candidates: int) -> Outcome:
        slate = (n_requests, slate_size)
        return cls(
            policy=np.zeros(n_requests, np.int8),
            candidates=np.full((n_requests, n_candidates), -1, np.int32),
            post=np.full(slate, -1, np.int32),
            propensity=np.zeros(slate, np.float32),
            n_same_topic=np.zeros(slate, np.int32),
            relevance=np.zeros(slate, np.float32),
            depth=np.zeros(n_requests, np.int32),
            actions=np.zeros(slate, np.uint8),
            dwell=np.zeros(slate, np.float32),
        )


class Stage(NamedTuple):
    """What a chunk of sessions finds: the mixture, who may be shown what, what was popular."""

    mixture: Doubles
    """Shares of the policies, sum 1."""
    visible: np.ndarray
    blocks_start: Ids
    blocks: Rows
    author_posts: Rows
    """Posts grouped by author, by time within each."""
    author_posts_start: Ids
    clicks: Floats
    """Clicks so far of each post, (N,)."""
    recent_clicks: Rows
    """Posts of the last day's clicks, one entry per click: drawing one draws by popularity."""


@JIT
def act(relevant, position, position_bias, state):  # type: ignore[no-untyped-def]
    """What the user does to a post on screen: (bits, dwell seconds)."""
    bits, dwell = 0, 0.0
    if uniform(state) >= examination(position, position_bias):
        return bits, dwell
    if uniform(state) < relevant:
        bits |= CLICKED
        dwell = 12.0 * np.exp(1.5 * relevant) * -np.log(uniform(state))
        if uniform(state) < 0.08 + 0.3 * relevant:
            bits |= LIKED
        if uniform(state) < 0.02 + 0.1 * relevant:
            bits |= SHARED
    elif uniform(state) < 0.012 * (1.0 - relevant) ** 4:
        bits |= HIDDEN
    return bits, dwell


@JIT
def _propose(truth, stage, user, now, n_existing, state):  # type: ignore[no-untyped-def]
    """One post as a candidate, whatever its fitness: fresh, by a followed author, popular, or any."""
    kind = uniform(state)
    if kind < 0.55:
        moment = now + np.int64(10.0 * HOUR * np.log(uniform(state)))
        return np.searchsorted(truth.post_created_at[:n_existing], moment, side="right") - 1
    if kind < 0.75:
        n_followed = truth.follows_start[user + 1] - truth.follows_start[user]
        if n_followed > 0:
            author = truth.follows[truth.follows_start[user] + below(state, n_followed)]
            start, end = stage.author_posts_start[author], stage.author_posts_start[author + 1]
            written = start + np.searchsorted(stage.author_posts[start:end], n_existing)
            if written > start:
                back = np.int64(-2.0 * np.log(uniform(state)))
                return np.int64(stage.author_posts[max(written - 1 - back, start)])
    elif kind < 0.85 and stage.recent_clicks.shape[0] > 0:
        return np.int64(stage.recent_clicks[below(state, stage.recent_clicks.shape[0])])
    return np.int64(below(state, n_existing))


@JIT
def _blocked(stage, user, author):  # type: ignore[no-untyped-def]
    blocked = False
    for i in range(stage.blocks_start[user], stage.blocks_start[user + 1]):
        blocked |= stage.blocks[i] == author
    return blocked


@JIT
def _collect(truth, stage, user, now, seen, n_seen, state, candidates):  # type: ignore[no-untyped-def]
    """Fill `candidates` with distinct fit posts; gives how many there are."""
    n_existing = np.searchsorted(truth.post_created_at, now, side="right")
    n = 0
    for _ in range(20 * candidates.shape[0]):
        if n == candidates.shape[0]:
            break
        post = _propose(truth, stage, user, now, n_existing, state)
        if post < 0 or not stage.visible[post] or _blocked(stage, user, truth.post_author[post]):
            continue
        # Most posts a user cannot read are left out; some slip through, as in life.
        if not truth.user_reads[user, truth.post_language[post]] and uniform(state) < 0.7:
            continue
        known = False
        for i in range(n):
            known |= candidates[i] == post
        for i in range(n_seen):
            known |= seen[i] == post
        if not known:
            candidates[n] = post
            n += 1
    return n


@JIT
def live(truth, stage, sessions, seed, begin, end, out):  # type: ignore[no-untyped-def]
    """Live through sessions begin .. end - 1 and fill their requests' rows of `out`."""
    n_candidates, slate_size = out.candidates.shape[1], out.post.shape[1]
    scores = np.empty((stage.mixture.shape[0], n_candidates))
    keys, order = np.empty(n_candidates), np.empty(slate_size, np.int64)
    propensity = np.empty(slate_size)
    n_shown_of_topic = np.zeros(truth.taste_start.shape[1], np.int64)
    seen = np.empty(64 * slate_size, np.int64)
    for i in range(begin, end):
        state = seeded(seed, sessions.number[i])
        user = sessions.user[i]
        n_shown_of_topic[:] = 0
        n_seen = 0
        for r in range(sessions.first[i], sessions.first[i + 1]):
            now = sessions.now[r]
            n = _collect(truth, stage, user, now, seen, n_seen, state, out.candidates[r])
            k = min(slate_size, n)
            draw, policy = uniform(state), 0
            while policy < stage.mixture.shape[0] - 1 and draw >= stage.mixture[policy]:
                draw -= stage.mixture[policy]
                policy += 1
            out.policy[r] = policy
            if k == 0:
                continue
            score_candidates(truth, stage.clicks, user, now, out.candidates[r], n, state, scores)
            order_by(scores[policy], n, k, state, order, keys)
            mixture_propensities(scores, stage.mixture, n, k, order, propensity)
            depth = 1
            while depth < k and uniform(state) < MORE:
                depth += 1
            out.depth[r] = depth
            for position in range(k):
                post = out.candidates[r, order[position]]
                out.post[r, position] = post
                out.propensity[r, position] = propensity[position]
                if position >= depth:
                    continue
                topic = truth.post_topic[post]
                relevant = relevance(truth, appeal(truth, user, post, now), n_shown_of_topic[topic])
                out.n_same_topic[r, position] = n_shown_of_topic[topic]
                out.relevance[r, position] = relevant
                bits, dwell = act(relevant, position, truth.position_bias, state)
                out.actions[r, position] = bits
                out.dwell[r, position] = dwell
                n_shown_of_topic[topic] += 1
                if n_seen < seen.shape[0]:
                    seen[n_seen] = post
                    n_seen += 1
