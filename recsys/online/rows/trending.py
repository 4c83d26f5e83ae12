"""Trending posts: decayed clicks in an order that never has to be rewritten.

Forward decay: instead of shrinking old scores as time passes, a click at `s` adds `2^((s - origin) / HALF_LIFE)`. All
scores of a set would shrink by the same factor, so leaving it out keeps the order, and each click costs one ZINCRBY.
The origin is the end of the logs that the generation was loaded from, stored with it. From an origin in 1970 the power
would overflow a double (2^1024); from the load it lasts 255 days without another load and is clamped from then on.

This module does not know who reads the order, nor which posts may be shown.

Source: Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay: A Practical Time Decay Model for Streaming Systems", ICDE
2009.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.offline.catalogue.catalogue import Catalogue
from recsys.types import HOUR, Doubles, Ids, Rows, Times

HALF_LIFE = 6 * HOUR
"""Microseconds after which a click counts half."""

_LARGEST_POWER = 1000.0
_FLIP = np.uint64(1 << 63)


def weight(time: Times, origin: int) -> Doubles:
    """Score that a click at each of these times adds."""
    return np.asarray(np.exp2(np.minimum((time - origin) / HALF_LIFE, _LARGEST_POWER)))


def rank(
    catalogue: Catalogue, click_post: Rows, click_time: Times, origin: int, size: int
) -> dict[int, tuple[Rows, Doubles]]:
    """Language row (-1: all languages) to its best posts and their scores, best first (ties: larger post id first)."""
    score = np.bincount(click_post, weight(click_time, origin), minlength=catalogue.n_posts)
    clicked = np.flatnonzero(score > 0).astype(np.int32)
    order = clicked[np.lexsort((-clicked, -score[clicked]))]
    language = catalogue.language[order]
    of_language = {row: order[language == row][:size] for row in range(len(catalogue.languages))}
    return {row: (posts, score[posts]) for row, posts in {-1: order[:size], **of_language}.items() if len(posts)}


def gains(post_id: Ids, gain: Doubles) -> bytes:
    """Gains of a sorted set as bytes: per post the summed gain as float64, then the member."""
    posts, place = np.unique(post_id, return_inverse=True)
    pairs = np.empty(len(posts), [("gain", "<f8"), ("member", "S8")])
    pairs["gain"] = np.bincount(place, gain)
    pairs["member"] = np.frombuffer(b"".join(to_members(posts)), "S8")
    return pairs.tobytes()


def to_members(ids: Ids) -> list[bytes]:
    """Ids as members of a sorted set: eight bytes that sort like the numbers, so that ties break alike everywhere."""
    buffer = (ids.astype(np.int64).view(np.uint64) ^ _FLIP).astype(">u8").tobytes()
    return [buffer[at : at + 8] for at in range(0, len(buffer), 8)]


def from_members(members: Sequence[bytes]) -> Ids:
    return np.asarray((np.frombuffer(b"".join(members), ">u8").astype(np.uint64) ^ _FLIP).view(np.int64))
