"""Rows of posts, authors and topics after a batch of events.

Takes packed rows and the events that touch them, gives `Patches`. Every count of such a row changes with every event,
so one patch is all of it. It does not know where rows come from or go to.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.features.decay import advance
from recsys.online.consumer.changes import Touched
from recsys.online.rows.byte_patches import Patches
from recsys.online.rows.layout import REFRESHED, WORD, pack_words, unpack


def advance_plain(names: Sequence[bytes], rows: Sequence[bytes | None], part: Touched) -> Patches:
    """The rows after these events.

    Args:
        names: keys of the R rows, in the order of `part.ids`, for complaints.
    Raises: DataError naming the row whose fingerprint or length is not the expected one.
    """
    states = unpack(part.entity, names, rows)
    before = states.t.copy()
    advance(states, part.entity, part.place, part.events.time, part.events.action)
    row_words = pack_words(part.entity, states)
    n, width = row_words.shape
    program = np.empty((n, 1 + width), np.int64)
    program[:, 0] = (WORD * width) << 32
    program[:, 1:] = row_words
    whole = np.fromiter((row is None for row in rows), bool, n)
    refresh = before // REFRESHED != states.t // REFRESHED
    heads = np.stack([np.ones(n, bool), whole, refresh], axis=1).astype(np.uint32)
    return Patches(heads, program.tobytes(), WORD * (1 + width) * np.arange(n + 1))
