"""The candidates of a request: fresh posts, posts by followed authors, popular ones, any.

Takes what exists at a moment and for whom, gives distinct posts that may be shown. It does not know how they are
ordered.
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
"""Posts are found by the ten minutes in which they were born."""
_SPAN = 20 * HOUR / BUCKET
"""Mean span from which fresh posts are proposed, in buckets; their mean age is half of it."""


class Shelves(NamedTuple):
    """Posts in the orders in which they are looked for; row numbers grow with time of creation in each."""

    by_language: Rows
    """Posts grouped by language, (N,)."""
    reach: Doubles
    """Of the posts in that order, summed up from 0, (N + 1,)."""
    bucket_start: Ids
    """Place in `by_language` of each language's first post of each ten minutes, (L, B + 1)."""
    first_bucket: int
    """Number of bucket 0: microseconds since 1970 // BUCKET."""
    by_author: Rows
    """Posts grouped by author, (N,)."""
    author_start: Ids
    """(A + 1,)."""
    existing: Ids
    """Posts born before each ten minutes, (B + 1,)."""
    blocks_start: Ids
    blocks: Rows


def shelve(population: Population) -> Shelves:
    """The same posts in order of language and of author."""
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
    return Shelves(
        by_language=by_language,
        reach=np.concatenate([[0.0], np.cumsum(posts.reach[by_language])]),
        bucket_start=starts,
        first_bucket=first,
        by_author=by_author,
        author_start=np.searchsorted(posts.author[by_author], np.arange(population.n_authors + 1)).astype(np.int64),
        existing=np.searchsorted(bucket - first, edges),
        blocks_start=population.blocks.start,
        blocks=population.blocks.authors,
    )


@JIT
def count_below(values, start, end, bound):  # type: ignore[no-untyped-def]
    """How many of the ascending values[start:end] are below a bound."""
    low, high = start, end
    while low < high:
        middle = (low + high) // 2
        if values[middle] < bound:
            low = middle + 1
        else:
            high = middle
    return low - start


@JIT
def relate(truth, shelves, user, relation, forget):  # type: ignore[no-untyped-def]
    """Note whom the user follows and blocks in `relation` (A,), or forget it again."""
    for i in range(truth.users[user].follows_start, truth.users[user].follows_end):
        relation[truth.follows[i]] = 0 if forget else FOLLOWED
    for i in range(shelves.blocks_start[user], shelves.blocks_start[user + 1]):
        relation[shelves.blocks[i]] = 0 if forget else BLOCKED


@JIT
def _language(truth, user, state):  # type: ignore[no-untyped-def]
    """One the user reads, mostly; some posts in others slip through, as in life."""
    draw = uniform(state)
    person = truth.users[user]
    if draw < 0.1:
        return below(state, len(LANGUAGES))
    return 0 if draw < 0.35 and person.reads[0] else int(person.language)


@JIT
def _of_followed(truth, shelves, user, n_existing, state):  # type: ignore[no-untyped-def]
    """One of the newest posts of somebody the user follows, or -1."""
    start, end = truth.users[user].follows_start, truth.users[user].follows_end
    if start == end:
        return -1
    author = truth.follows[start + below(state, end - start)]
    first = shelves.author_start[author]
    written = count_below(shelves.by_author, first, shelves.author_start[author + 1], n_existing)
    if written == 0:
        return -1
    return int(shelves.by_author[first + max(written - 1 - int(2.0 * exponential(state)), 0)])


@JIT
def _of_language(shelves, language, born, bucket, state):  # type: ignore[no-untyped-def]
    """A post in a language of the time since a bucket, or just before it, drawn by its reach; -1: there is none."""
    low, high = shelves.bucket_start[language, born], shelves.bucket_start[language, bucket + 1]
    if high == low:
        return int(shelves.by_language[low - 1]) if low > shelves.bucket_start[language, 0] else -1
    drawn = shelves.reach[low] + uniform(state) * (shelves.reach[high] - shelves.reach[low])
    return int(shelves.by_language[low + min(count_below(shelves.reach, low + 1, high, drawn), high - low - 1)])


@JIT
def _propose(truth, shelves, recent_clicks, crowding, user, bucket, n_existing, state):  # type: ignore[no-untyped-def]
    """One post as a candidate, whatever its fitness, or -1."""
    kind = uniform(state)
    if kind < 0.2:
        post = _of_followed(truth, shelves, user, n_existing, state)
        if post >= 0:
            return post
    elif kind < 0.2 + crowding and recent_clicks.shape[0] > 0:
        return int(recent_clicks[below(state, recent_clicks.shape[0])])
    # Fresh posts are drawn from a span that ends now: the younger a post, the more spans hold it.
    born = max(bucket - int(_SPAN * exponential(state)), 0) if kind < 0.85 else 0
    return _of_language(shelves, _language(truth, user, state), born, bucket, state)


@JIT
def collect(truth, shelves, recent_clicks, crowding, user, relation, now, seen, n_seen, state, candidates):  # type: ignore[no-untyped-def]
    """Fill `candidates` with distinct posts that exist, may be shown and were not seen; gives how many there are."""
    bucket = max(min(now // BUCKET - shelves.first_bucket, shelves.existing.shape[0] - 2), 0)
    n_existing = shelves.existing[bucket]
    while n_existing < truth.posts.shape[0] and truth.posts[n_existing].created_at <= now:
        n_existing += 1
    n = 0
    for _ in range(20 * candidates.shape[0]):
        if n == candidates.shape[0]:
            break
        post = _propose(truth, shelves, recent_clicks, crowding, user, bucket, n_existing, state)
        if post < 0 or post >= n_existing:
            continue
        facts = truth.posts[post]
        if not facts.visible or relation[facts.author] == BLOCKED:
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
