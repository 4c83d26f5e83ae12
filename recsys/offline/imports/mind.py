"""The MIND format: `behaviors.tsv` and `news.tsv`, in one folder or in one subfolder per part.

Takes a folder, fills a lake with requests, impressions, clicks, posts and users. A clicked history has no times in this
format: its clicks get made-up ones before the first line that lists them. It does not know how the lake keeps them.

Format: Wu et al., "MIND: A Large-scale Dataset for News Recommendation", ACL 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError
from recsys.hashing import hash_rows, hash_text
from recsys.offline.imports.faults import Faults, times_are_sound
from recsys.offline.imports.identity import hash_names
from recsys.offline.imports.lines import Reject, read_lines
from recsys.offline.imports.report import Imported, outcome
from recsys.offline.imports.running import Earliest, Seen
from recsys.offline.imports.session import POST_COLUMNS, Import, importing
from recsys.offline.imports.times import parse_mind_times
from recsys.offline.lake.lake import Lake
from recsys.offline.logs.events import CLICK
from recsys.progress import Progress
from recsys.types import HOUR, Ids, Mask, Times

N_BEHAVIOR_COLUMNS, N_NEWS_COLUMNS = 5, 8
BEHAVIORS, NEWS = "behaviors.tsv", "news.tsv"

HISTORY_STEP = HOUR
"""Made-up time between two clicks of a user's first history; the last lies this long before the first impression."""


@dataclass(frozen=True)
class _BehaviourRows:
    """Behaviors whose user and time are sound; every column is (N,)."""

    line: Ids
    request: Ids
    user: Ids
    time: Times
    history: pa.Array
    shown: pa.Array


@dataclass(frozen=True)
class _Entries:
    """Entries of some lines that name a post; every column is (M,)."""

    row: Ids
    """The line's place among `_BehaviourRows`."""
    post: Ids
    clicked: Mask
    to_end: Ids
    """How many entries of the line follow, this one included."""


class _Known:
    """What all lines together say of the times of histories."""

    def __init__(self) -> None:
        self.first = Earliest()
        """When a user was first seen."""
        self.listed = Earliest()
        """When a history first listed a post, by user and post."""
        self.clicked = Seen()
        """What users clicked on impressions, by user and post."""
        self.told = Seen()
        """Which entries of histories were brought, by user and post."""

    def add(self, rows: _BehaviourRows, shown: _Entries, listed: _Entries) -> None:
        self.first.add(rows.user, rows.time)
        self.listed.add(_pair(rows, listed), rows.time[listed.row])
        self.clicked.repeated(_pair(rows, shown)[shown.clicked])


def _pair(rows: _BehaviourRows, entries: _Entries) -> Ids:
    return hash_rows(rows.user[entries.row], entries.post)


def import_mind(folder: Path, lake: Lake, now: int, progress: Progress) -> Imported:
    """Import a folder, or its parts in order of name when its subfolders hold them.

    Args:
        now: wall clock, microseconds.
    Raises: DataError when a file is missing or the lake may not be filled.
    """
    parts = _parts(folder)
    files = [str(part.relative_to(folder) / name) for part in parts for name in (NEWS, BEHAVIORS)]
    size = sum((part / NEWS).stat().st_size + 2 * (part / BEHAVIORS).stat().st_size for part in parts)
    with importing(lake, "mind", folder, now, progress, size, synthetic_times=True) as job:
        for part in parts:
            _import_news(job, part / NEWS, str(part.relative_to(folder) / NEWS))
        # What a history says of the time is known when all lines are: they come in no order. One pass to find it.
        known = _Known()
        for part in parts:
            file = str(part.relative_to(folder) / BEHAVIORS)
            for rows in _behaviors(job, part, folder, _ignore):
                known.add(rows, _shown(job, rows, file, _ignore), _listed(job, rows, file, _ignore))
        for part in parts:
            file = str(part.relative_to(folder) / BEHAVIORS)
            for rows in _behaviors(job, part, folder, job.reject):
                _import_shown(job, rows, _shown(job, rows, file, job.reject))
                _import_history(job, rows, _listed(job, rows, file, job.reject), known)
        _describe_users(job)
    return outcome(job, files, True, history_clicks=job.counts["history_clicks"])


def _parts(folder: Path) -> list[Path]:
    parts = [folder]
    if not (folder / BEHAVIORS).is_file() and folder.is_dir():
        parts = sorted(below for below in folder.iterdir() if (below / BEHAVIORS).is_file()) or parts
    for part in parts:
        for name in (BEHAVIORS, NEWS):
            if not (part / name).is_file():
                raise DataError(f"{part} has no {name}; a MIND folder holds {BEHAVIORS} and {NEWS}, or parts that do")
    return parts


def _import_news(job: Import, path: Path, file: str) -> None:
    for numbers, lines in read_lines(path, file, job.reject, job.advance):
        fields, numbers, lines = _columns(lines, numbers, N_NEWS_COLUMNS, file, job.reject)
        faults = Faults(len(lines))
        ids = job.numbers("post", fields[0], faults)
        keep = _settle(faults, numbers, lines, file, job.reject)
        category, subcategory, title, abstract = (field.filter(pa.array(keep)).to_pylist() for field in fields[1:5])
        n = int(keep.sum())
        columns = {
            "author_id": pa.nulls(n, pa.int64()),
            "topic": pa.array([topic or None for topic in category], pa.string()),
            "language": pa.array(["en"] * n, pa.string()),
            "media": pa.nulls(n, pa.string()),
            "text": pa.array(map(_text, title, abstract, subcategory), pa.string()),
            "created_at": pa.nulls(n, pa.timestamp("us", tz="UTC")),
            "visible": pa.array([True] * n, pa.bool_()),
        }
        rows = pa.table([columns[name] for name in POST_COLUMNS], names=POST_COLUMNS)
        job.described["posts"].add(ids[keep], np.zeros(n, np.int64), rows)


def _text(title: str, abstract: str, subcategory: str) -> str:
    text = ". ".join(part for part in (title, abstract) if part)
    return text if subcategory.lower() in text.lower() else f"{text} {subcategory}".strip()


def _behaviors(job: Import, part: Path, folder: Path, reject: Reject) -> Iterator[_BehaviourRows]:
    file = str(part.relative_to(folder) / BEHAVIORS)
    salt = hash_text(f"{job.name}/{file}")
    ids_before = Seen()
    for numbers, lines in read_lines(part / BEHAVIORS, file, reject, job.advance):
        fields, numbers, lines = _columns(lines, numbers, N_BEHAVIOR_COLUMNS, file, reject)
        faults = Faults(len(lines))
        faults.add("empty_impression_id", pc.equal(fields[0], "").to_numpy(zero_copy_only=False))
        user = job.numbers("user", fields[1], faults)
        time, known = parse_mind_times(fields[2])
        times_are_sound(faults, time, known, job.now)
        request = hash_rows(salt, hash_names(fields[0]))
        sound = np.flatnonzero(faults.none())
        repeated = np.zeros(len(lines), bool)
        repeated[sound] = ids_before.repeated(request[sound])
        faults.add("duplicate_impression_id", repeated)
        keep = _settle(faults, numbers, lines, file, reject)
        mask = pa.array(keep)
        yield _BehaviourRows(
            numbers[keep], request[keep], user[keep], time[keep], fields[3].filter(mask), fields[4].filter(mask)
        )


def _shown(job: Import, rows: _BehaviourRows, file: str, reject: Reject) -> _Entries:
    entry, row = _words(rows.shown)
    clicked = pc.ends_with(entry, "-1").to_numpy(zero_copy_only=False)
    faults = Faults(len(entry))
    faults.add("impression_without_label", ~(clicked | pc.ends_with(entry, "-0").to_numpy(zero_copy_only=False)))
    return _entries(job, rows, entry, row, pc.utf8_slice_codeunits(entry, 0, -2), clicked, faults, file, reject)


def _listed(job: Import, rows: _BehaviourRows, file: str, reject: Reject) -> _Entries:
    name, row = _words(rows.history)
    return _entries(job, rows, name, row, name, np.ones(len(row), bool), Faults(len(row)), file, reject)


def _entries(
    job: Import, rows: _BehaviourRows, entry: pa.Array, row: Ids, name: pa.Array, clicked: Mask, faults: Faults,
    file: str, reject: Reject,
) -> _Entries:  # fmt: skip
    post = job.numbers("post", name, faults)
    keep = _settle(faults, rows.line[row], entry, file, reject)
    to_end = np.cumsum(np.bincount(row, minlength=len(rows.line)))[row] - np.arange(len(row))
    return _Entries(row[keep], post[keep], clicked[keep], to_end[keep])


def _import_shown(job: Import, rows: _BehaviourRows, shown: _Entries) -> None:
    request, user, time = rows.request[shown.row], rows.user[shown.row], rows.time[shown.row]
    clicked = shown.clicked
    job.add(request, user, shown.post, 0, time)
    job.add(request[clicked], user[clicked], shown.post[clicked], CLICK, time[clicked])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(shown.row, minlength=len(rows.line)))])
    requests = {
        "request_id": pa.array(rows.request),
        "user_id": pa.array(rows.user),
        "now": pa.array(rows.time).cast(pa.timestamp("us", tz="UTC")),
        "candidates": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(shown.post)),
    }
    job.partitions.add("requests", pa.table(requests), rows.time)
    job.users.add(rows.user, rows.time)


def _import_history(job: Import, rows: _BehaviourRows, listed: _Entries, known: _Known) -> None:
    """Each post of a history once per user, where the earliest line lists it; none that an impression accounts for.

    A later history repeats what was clicked on impressions meanwhile. As a click before all of them it would tell the
    label of those impressions.
    """
    pair = _pair(rows, listed)
    time = rows.time[listed.row]
    earliest = np.flatnonzero((known.listed.of(pair, 0) == time) & ~known.clicked.contains(pair))
    new = earliest[~known.told.repeated(pair[earliest])]
    user, post, time = rows.user[listed.row[new]], listed.post[new], time[new]
    # Clicked between two lines: just before the later one. Lines are told apart by seconds, entries by microseconds.
    step = np.where(time == known.first.of(user, 0), HISTORY_STEP, 1)
    time = np.maximum(time - listed.to_end[new] * step, 0)
    job.add(hash_rows(user, post, hash_text("history")), user, post, CLICK, time)
    job.counts["history_clicks"] += len(new)


def _columns(lines: pa.Array, numbers: Ids, n: int, file: str, reject: Reject) -> tuple[list[pa.Array], Ids, pa.Array]:
    """The tab-separated columns of the lines that have `n` of them, with their numbers and texts."""
    split = pc.split_pattern(lines, "\t")
    whole = pc.equal(pc.list_value_length(split), n).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~whole)
    reject("wrong_number_of_columns", file, numbers[bad], lines.take(pa.array(bad)))
    split = split.filter(pa.array(whole))
    return [pc.list_element(split, place) for place in range(n)], numbers[whole], lines.filter(pa.array(whole))


def _words(lists: pa.Array) -> tuple[pa.Array, Ids]:
    """The words of each text and the row each stands in."""
    split = pc.split_pattern(lists, " ")
    words, row = pc.list_flatten(split), pc.list_parent_indices(split).to_numpy()
    there = pc.not_equal(words, "")
    return words.filter(there), row[there.to_numpy(zero_copy_only=False)]


def _settle(faults: Faults, numbers: Ids, texts: pa.Array, file: str, reject: Reject) -> Mask:
    for reason, rows in faults.each():
        reject(reason, file, numbers[rows], texts.take(pa.array(rows)))
    return faults.none()


def _describe_users(job: Import) -> None:
    """The format says nothing of a user but when they were seen."""
    ids = job.users.ids()
    kinds = {"language": pa.string(), "country": pa.string(), "created_at": pa.timestamp("us", tz="UTC")}
    rows = pa.table({name: pa.nulls(len(ids), kind) for name, kind in kinds.items()})
    job.described["users"].add(ids, np.zeros(len(ids), np.int64), rows)


def _ignore(reason: str, file: str, lines: Ids, texts: Sequence[str]) -> None:
    """The first pass sets nothing aside: the second one comes by the same lines."""
