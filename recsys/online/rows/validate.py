"""Whether packed rows can be trusted: one pass over their bytes, before anything is computed from them.

A damaged value of the right length would pass as a number nobody questions, and the consumer would count on from it and
write it back. So every read asks: is the time between 1970 and 2169, is every count finite and not negative, do the
entries of a user add up to the row, stand in the order they are searched in, and end where the row ends. It answers yes
or no in about a nanosecond per word; `rows` finds the words for what is wrong.
"""

from __future__ import annotations

import numpy as np

from recsys.features.decay import JIT


@JIT
def rows_are_sound(words, floats, width, fingerprint, latest):  # type: ignore[no-untyped-def]
    """Rows of `width` words: fingerprint, t, counts. `words` and `floats` are the same bytes, (n * width,)."""
    for start in range(0, words.shape[0], width):
        if words[start] != fingerprint or not _counts_are_sound(floats, start + 1, start + width, latest):
            return False
    return True


@JIT
def users_are_sound(  # type: ignore[no-untyped-def]
    words, floats, last, header_counts, topic_width, author_width, fingerprint, latest
):
    """Rows of users one after another.

    Args:
        last: word behind each user's row, (U,).
        header_counts: word of a row where its three numbers of entries begin.
    """
    start = 0
    for user in range(last.shape[0]):
        body, stop = start + header_counts + 3, last[user]
        if stop < body or words[start] != fingerprint:
            return False
        n_topics, n_authors, n_clicks = words[body - 3], words[body - 2], words[body - 1]
        # Each number by itself first: the product of an absurd one with its width may overflow to the right sum.
        if min(n_topics, n_authors, n_clicks) < 0 or max(n_topics, n_authors, n_clicks) > stop - body:
            return False
        authors = body + n_topics * topic_width
        clicks = authors + n_authors * author_width
        if clicks + 2 * n_clicks != stop or not (
            _counts_are_sound(floats, start + 1, start + header_counts, latest)
            and _entries_are_sound(words, floats, body, authors, topic_width, latest)
            and _entries_are_sound(words, floats, authors, clicks, author_width, latest)
        ):
            return False
        newest = np.int64(latest)
        for at in range(clicks + 1, stop, 2):
            if not 0 <= words[at] <= newest:
                return False
            newest = words[at]
        start = stop
    return True


@JIT
def _entries_are_sound(words, floats, start, stop, width, latest):  # type: ignore[no-untyped-def]
    """Entries of `width` words: key, t, counts; keys rise."""
    for at in range(start, stop, width):
        if at > start and words[at] <= words[at - width]:
            return False
        if not _counts_are_sound(floats, at + 1, at + width, latest):
            return False
    return True


@JIT
def _counts_are_sound(floats, start, stop, latest):  # type: ignore[no-untyped-def]
    """A time, then counts."""
    sound = 0.0 <= floats[start] <= latest
    for at in range(start + 1, stop):
        sound &= 0.0 <= floats[at] < np.inf
    return sound
