"""Count a batch of events into the rows of posts, authors and topics. Here a click becomes a counter.

Takes packed rows and the events that change them, gives `Patches`. An event changes every count of its row (all decay
to the new time), so the patch is the whole row. This module does not know where rows are read and written.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.features.decay import advance
from recsys.online.rows.byte_patches import Patches
from recsys.online.rows.counter_layout import REFRESHED, WORD, pack_words, unpack
from recsys.online.rows.events import RowEvents


def advance_counters(names: Sequence[bytes], rows: Sequence[bytes | None], group: RowEvents) -> Patches:
    """Patches that bring these rows to their state after the events.

    Args:
        names: keys of the R rows, in the order of `group.ids`, for error messages.
        rows: their values, None where there is none.
    Raises: DataError naming the row that is not valid.
    """
    # 1. Bytes to counters: t (R,), v (R, A, H).
    states = unpack(group.entity, names, rows)
    before = states.t.copy()
    # 2. Count the M events, in place; the batch build uses the same function.
    advance(states, group.entity, group.place, group.events.time, group.events.action)
    # 3. Counters to words, (R, width); before each row one word that says: from byte 0, so many bytes.
    row_words = pack_words(group.entity, states)
    n, width = row_words.shape
    program = np.empty((n, 1 + width), np.int64)
    program[:, 0] = (WORD * width) << 32
    program[:, 1:] = row_words
    # 4. One patch per row; whole where there was no row; time to live renewed on the first event of a day.
    whole = np.fromiter((row is None for row in rows), bool, n)
    refresh = before // REFRESHED != states.t // REFRESHED
    heads = np.stack([np.ones(n, bool), whole, refresh], axis=1).astype(np.uint32)
    return Patches(heads, program.tobytes(), WORD * (1 + width) * np.arange(n + 1))
