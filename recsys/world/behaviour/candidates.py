"""Draw the candidates of a request: fresh posts, posts by followed authors, popular posts, any post.

Takes the existing posts and the viewer, gives distinct posts that may be shown. It does not know how they
are ordered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from recsys.types import HOUR, Doubles, Ids, Rows
from recsys.world.behaviour.random_numbers import below, exponential, uniform
from recsys.world.jit import JIT
from recsys.world.population.population import Population
from recsys.world.population.vocabulary import LANGUAGES

FOLLOWED, BLOCKED = 1, 2
"""A user's relations to authors."""
BUCKET = HOUR // 6
"""Posts are grouped by the ten minutes in which they were created."""
_SPAN = 20 * HOUR / BUCKET
"""Mean length of the time window that fresh posts are drawn from, in buckets; their mean age is half of it."""


class PostLists(NamedTuple):
    """Post rows in the orders in which candidates are looked up; within a language or author, oldest first."""

    by_language: Rows
    """Posts grouped by language, (N,)."""
    cumulative_reach: Doubles
    """Cumulative reach of `by_language`, starting at 0, (N + 1,)."""
    bucket_start: Ids
    """Place in `by_language` of each language's first post of each bucket, (L, B + 1)."""
    first_bucket: int
    """Number of bucket 0: microseconds since 1970 // BUCKET."""
    by_author: Rows
    """Posts grouped by author, (N,)."""
    author_start: Ids
    """Author a's posts are `by_author[author_start[a]:author_start[a + 1]]`, (A + 1,)."""
    n_created: Ids
    """Posts created before each bucket, (B + 1,)."""
    blocks_start: Ids
    """User u blocks the authors `blocks[blocks_start[u]:blocks_start[u + 1]]`, (U + 1,)."""
    blocks: Rows


class RecentClicks(NamedTuple):
    """The clicks of the last day, a source of popular candidates."""

    posts: Rows
    """Post row of each click: a uniform draw from it is a draw by popularity."""
    share: float
    """Share of candidates that are drawn from them."""


class Viewer(NamedTuple):
    """The requesting user, the time, and what the session has shown."""

    user: int
    now: int
    """Microseconds."""
    relation: np.ndarray
    """FOLLOWED, BLOCKED or 0, (A,)."""
    seen: Ids
    """Posts that the session has shown already."""


def list_posts(population: Population) -> PostLists:
    """Sort a population's posts by language and by author."""
    posts = population.posts
    by_language = np.argsort(posts.language, kind="stable").astype(np.int32)
    by_author = np.argsort(posts.author, kind="stable").astype(np.int32)
    bucket = posts.created_at // BUCKET
    first, last = int(bucket[0]), int(bucket[-1])
    edges = np.arange(last - first + 2)
    starts, before = np.empty((len(LANGUAGES), len(edges)), np.int64), 0
    for language in range(len(LANGUAGES)):
        of_language = bucket[posts.language == language] - first
        starts[language] = before + np.searchsorted(of_language, edges)
        before += len(of_language)
    return PostLists(
        by_language=by_language,
        cumulative_reach=np.concatenate([[0.0], np.cumsum(posts.reach[by_language])]),
        bucket_start=starts,
        first_bucket=first,
        by_author=by_author,
        author_start=np.searchsorted(posts.author[by_author], np.arange(population.n_authors + 1)).astype(np.int64),
        n_created=np.searchsorted(bucket - first, edges),
        blocks_start=population.blocks.start,
        blocks=population.blocks.authors,
    )


@JIT
def count_below(values, start, end, bound):  # type: ignore[no-untyped-def]
    """How many of the ascending values[start:end] are below a bound, by binary search."""
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        if values[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low - start


@JIT
def set_relations(truth, lists, user, relation, clear):  # type: ignore[no-untyped-def]
    """Mark the authors whom the user follows and blocks in `relation` (A,), or set them back to 0."""
    for i in range(truth.users[user].follows_start, truth.users[user].follows_end):
        relation[truth.follows[i]] = 0 if clear else FOLLOWED
    for i in range(lists.blocks_start[user], lists.blocks_start[user + 1]):
        relation[lists.blocks[i]] = 0 if clear else BLOCKED


@JIT
def _draw_language(truth, user, state):  # type: ignore[no-untyped-def]
    """Mostly a language the user reads; one draw in ten takes any language."""
    draw = uniform(state)
    person = truth.users[user]
    if draw < 0.1:
        return below(state, len(LANGUAGES))
    return 0 if draw < 0.35 and person.reads[0] else int(person.language)


@JIT
def _draw_followed(truth, lists, user, n_existing, state):  # type: ignore[no-untyped-def]
    """One of the newest posts of an author the user follows, or -1."""
    start, end = truth.users[user].follows_start, truth.users[user].follows_end
    if start == end:
        return -1
    author = truth.follows[start + below(state, end - start)]
    first = lists.author_start[author]
    written = count_below(lists.by_author, first, lists.author_start[author + 1], n_existing)
    if written == 0:
        return -1
    return int(lists.by_author[first + max(written - 1 - int(2.0 * exponential(state)), 0)])


@JIT
def _draw_by_reach(lists, language, start, bucket, state):  # type: ignore[no-untyped-def]
    """A post of a language from the buckets start .. bucket, drawn by reach.

    Gives the language's last post before them when they are empty, -1 when there is none at all.
    """
    low, high = lists.bucket_start[language, start], lists.bucket_start[language, bucket + 1]
    if high == low:
        return int(lists.by_language[low - 1]) if low > lists.bucket_start[language, 0] else -1
    reach = lists.cumulative_reach
    drawn = reach[low] + uniform(state) * (reach[high] - reach[low])
    return int(lists.by_language[low + min(count_below(reach, low + 1, high, drawn), high - low - 1)])


@JIT
def _propose(truth, lists, recent, user, bucket, n_existing, state):  # type: ignore[no-untyped-def]
    """One post that may become a candidate, or -1; the caller checks whether it may be shown."""
    kind = uniform(state)
    if kind < 0.2:  # a fifth: posts by followed authors
        post = _draw_followed(truth, lists, user, n_existing, state)
        if post >= 0:
            return post
    elif kind < 0.2 + recent.share and recent.posts.shape[0] > 0:  # popular posts
        return int(recent.posts[below(state, recent.posts.shape[0])])
    # Fresh posts come from a time window that ends now: the younger a post, the more windows contain it. The last 15%
    # of the draws come from all posts.
    start = max(bucket - int(_SPAN * exponential(state)), 0) if kind < 0.85 else 0
    return _draw_by_reach(lists, _draw_language(truth, user, state), start, bucket, state)


@JIT
def draw_candidates(truth, lists, recent, viewer, state, candidates):  # type: ignore[no-untyped-def]
    """Fill `candidates` (M,) with distinct posts that exist, may be shown and were not seen; gives how many.

    Args:
        lists, recent, viewer: `PostLists`, `RecentClicks` and `Viewer`.
    """
    # Posts are in order of creation: the rows 0 .. n_existing - 1 exist now. The bucket's count is a lower bound.
    bucket = max(min(viewer.now // BUCKET - lists.first_bucket, lists.n_created.shape[0] - 2), 0)
    n_existing = lists.n_created[bucket]
    while n_existing < truth.posts.shape[0] and truth.posts[n_existing].created_at <= viewer.now:
        n_existing += 1
    # Rejection sampling with at most 20 proposals per place, so a small world gives fewer than M candidates.
    n = 0
    for _ in range(20 * candidates.shape[0]):
        if n == candidates.shape[0]:
            break
        post = _propose(truth, lists, recent, viewer.user, bucket, n_existing, state)
        if post < 0 or post >= n_existing:
            continue
        facts = truth.posts[post]
        if not facts.visible or viewer.relation[facts.author] == BLOCKED:
            continue
        repeated = False
        for i in range(n):  # O(M), in cache
            repeated |= candidates[i] == post
        for i in range(viewer.seen.shape[0]):
            repeated |= viewer.seen[i] == post
        if not repeated:
            candidates[n] = post
            n += 1
    return n
