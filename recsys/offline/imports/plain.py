"""Lists of items, one user a line: `user item item ...`. Every item becomes a click.

Takes a folder, fills a lake. These formats have no times, so times are made up from the data alone, always over the
same two weeks. It does not know what an item is.

Layouts: `train.txt` and `test.txt` as in LightGCN (He et al., SIGIR 2020); `sequences.txt` as in S3-Rec
(Zhou et al., CIKM 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.errors import DataError
from recsys.hashing import hash_rows
from recsys.offline.imports.faults import Faults
from recsys.offline.imports.lines import read_item_lines
from recsys.offline.imports.report import ImportReport, make_report
from recsys.offline.imports.running import Seen
from recsys.offline.imports.session import Import, importing
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import CLICK
from recsys.progress import Progress
from recsys.types import DAY, Doubles, Ids

PERIOD = 14 * DAY
"""Length of the made-up period: that of the synthetic world, so that its settings fit."""
END = int(np.datetime64("2026-01-19", "D").astype(np.int64)) * DAY
"""End of the made-up period."""

Places = Callable[[Ids, Ids, Ids, Ids], Doubles]
"""From user, post, place in the line and length of the line to a fraction of the period, in [0, 1); all (N,)."""


def import_interactions(folder: Path, lake: Lake, now: int, progress: Progress) -> ImportReport:
    """Import `train.txt` and, if it exists, `test.txt`: all clicks of the first come before those of the second.

    Raises: DataError when `train.txt` is missing or the lake may not be filled.
    """
    paths = [folder / "train.txt", folder / "test.txt"]
    if not paths[0].is_file():
        raise DataError(f"{folder} has no train.txt; a folder of interactions holds train.txt and may hold test.txt")
    paths = [path for path in paths if path.is_file()]
    sizes = [path.stat().st_size for path in paths]
    ends = np.cumsum([0, *sizes]) / max(sum(sizes), 1)  # a file's share of the bytes is about its share of the items
    with importing(lake, "interactions", folder, now, progress, sum(sizes), synthetic_times=True) as job:
        for part, path in enumerate(paths):
            first, last = float(ends[part]), float(ends[part + 1])

            def at_random(
                user: Ids, post: Ids, place: Ids, _: Ids, part: int = part, first: float = first, last: float = last
            ) -> Doubles:
                share: Doubles = hash_rows(user, post, place, part) / 2.0**63
                return first + (last - first) * np.minimum(share, 1 - 1e-9)

            _import_file(job, path, part, at_random, None)
    return make_report(job, [path.name for path in paths], True)


def import_sequences(folder: Path, lake: Lake, now: int, progress: Progress) -> ImportReport:
    """Import `sequences.txt`: each user's items keep their order, spread evenly over the whole period.

    Raises: DataError when `sequences.txt` is missing or the lake may not be filled.
    """
    path = folder / "sequences.txt"
    if not path.is_file():
        raise DataError(f"{folder} has no sequences.txt; a folder of sequences holds it")
    size = path.stat().st_size
    with importing(lake, "sequences", folder, now, progress, size, synthetic_times=True) as job:
        _import_file(job, path, 0, _in_order, Seen())
    return make_report(job, [path.name], True)


def _in_order(user: Ids, _: Ids, place: Ids, length: Ids) -> Doubles:
    # Each user gets an offset; otherwise the first clicks of all users would fall together.
    offset: Doubles = np.minimum(hash_rows(user, 0) / 2.0**63, 1 - 1e-9)
    return (place + offset) / length


def _import_file(job: Import, path: Path, part: int, places: Places, seen_users: Seen | None) -> None:
    """Import every item of a file as a click.

    Args:
        part: number of the file: the same item in two files is two clicks.
        places: chooses the time of each click within the period.
        seen_users: if given, a user may have one line only, as the order of two lines is unknown.
    """
    for lines, texts in read_item_lines(path, path.name, job.reject, job.advance):
        faults = Faults(len(texts))
        user = job.ids_of("user", lines.user, faults)
        if seen_users is not None:
            valid = np.flatnonzero(faults.valid())
            repeated = np.zeros(len(texts), bool)
            repeated[valid] = seen_users.add(user[valid])
            faults.add("user_on_two_lines", repeated)
        for reason, rows in faults.by_reason():
            job.reject(reason, path.name, lines.number[rows], texts.take(pa.array(rows)))
        keep = faults.valid()
        # A user without items counts as a user, from the start of the period.
        job.users.add(user[keep], np.full(int(keep.sum()), END - PERIOD))
        # One row per item: its line, and its place in the line.
        row = np.repeat(np.arange(len(texts)), lines.n_items)
        place = np.arange(len(row)) - (np.cumsum(lines.n_items) - lines.n_items)[row]
        of_user = keep[row]
        row, place, name = row[of_user], place[of_user], lines.item.filter(pa.array(of_user))
        faults = Faults(len(row))
        post = job.ids_of("post", name, faults)
        for reason, rows in faults.by_reason():
            job.reject(reason, path.name, lines.number[row[rows]], name.take(pa.array(rows)))
        good = faults.valid()
        row, place, post = row[good], place[good], post[good]
        share = places(user[row], post, place, lines.n_items[row])
        time = END - PERIOD + (share * PERIOD).astype(np.int64)
        # The hash includes the line: a user may have the same item at the same place of two lines.
        job.add(hash_rows(user[row], post, place, part, lines.number[row]), user[row], post, CLICK, time)
