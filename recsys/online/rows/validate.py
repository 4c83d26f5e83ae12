"""Validate packed rows: one pass over their bytes before anything is computed from them.

A damaged value of the right length would pass as a number; the consumer would count on from it and write it back. So
every read checks: times lie between 1970 and 2169; counts are finite and not negative; the entries of a user row add up
to its length, are sorted by key, and end where the row ends. The answer is yes or no, at about a nanosecond per word;
`counter_layout` and `user_layout` word the error.
"""

from __future__ import annotations

import numpy as np

from recsys.features.decay import JIT


@JIT
def counter_rows_are_valid(words, floats, width, fingerprint, latest):  # type: ignore[no-untyped-def]
    """Whether n rows of `width` words (fingerprint, t, counts) are valid.

    Args:
        words, floats: the same bytes as int64 and float64, (n * width,).
    """
    for start in range(0, words.shape[0], width):
        if words[start] != fingerprint or not _counts_are_valid(floats, start + 1, start + width, latest):
            return False
    return True


@JIT
def user_rows_are_valid(  # type: ignore[no-untyped-def]
    words, floats, last, header_counts, topic_width, author_width, fingerprint, latest
):
    """Whether U user rows, one behind another, are valid.

    Args:
        words, floats: the same bytes as int64 and float64, (W,).
        last: word behind each user's row, (U,).
        header_counts: word of a row that holds the number of topics; those of authors and clicks follow.
    """
    start = 0
    for user in range(last.shape[0]):
        # 1. Header: fingerprint and three counts.
        body, stop = start + header_counts + 3, last[user]
        if stop < body or words[start] != fingerprint:
            return False
        n_topics, n_authors, n_clicks = words[body - 3], words[body - 2], words[body - 1]
        # Check each count alone first: an absurd count times its width may overflow to the right sum.
        if min(n_topics, n_authors, n_clicks) < 0 or max(n_topics, n_authors, n_clicks) > stop - body:
            return False
        # 2. Own counters and entries; together with the clicks they must fill the row.
        authors = body + n_topics * topic_width
        clicks = authors + n_authors * author_width
        if clicks + 2 * n_clicks != stop or not (
            _counts_are_valid(floats, start + 1, start + header_counts, latest)
            and _entries_are_valid(words, floats, body, authors, topic_width, latest)
            and _entries_are_valid(words, floats, authors, clicks, author_width, latest)
        ):
            return False
        # 3. Clicks: times fall.
        newest = np.int64(latest)
        for at in range(clicks + 1, stop, 2):
            if not 0 <= words[at] <= newest:
                return False
            newest = words[at]
        start = stop
    return True


@JIT
def _entries_are_valid(words, floats, start, stop, width, latest):  # type: ignore[no-untyped-def]
    """Whether entries of `width` words (key, t, counts) are valid; keys must rise."""
    for at in range(start, stop, width):
        if at > start and words[at] <= words[at - width]:
            return False
        if not _counts_are_valid(floats, at + 1, at + width, latest):
            return False
    return True


@JIT
def _counts_are_valid(floats, start, stop, latest):  # type: ignore[no-untyped-def]
    """Whether a time and the counts behind it are valid."""
    valid = 0.0 <= floats[start] <= latest
    for at in range(start + 1, stop):
        valid &= 0.0 <= floats[at] < np.inf
    return valid
