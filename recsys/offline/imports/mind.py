"""The MIND format: `behaviors.tsv` and `news.tsv`, in one folder or in one subfolder per part.

Takes a folder, fills a lake with requests, impressions, clicks, posts and users. The format has no times for a user's
click history, so its clicks get made-up ones, before the first line that lists them. It does not know how the lake
stores rows.

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
from recsys.offline.imports.faults import Faults, check_times
from recsys.offline.imports.identity import hash_names
from recsys.offline.imports.lines import Reject, read_lines
from recsys.offline.imports.report import ImportReport, make_report
from recsys.offline.imports.running import Earliest, Seen
from recsys.offline.imports.session import POST_COLUMNS, Import, importing
from recsys.offline.imports.times import parse_mind_times
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TIME
from recsys.offline.logs.events import CLICK
from recsys.progress import Progress
from recsys.types import HOUR, Ids, Mask, Times

N_BEHAVIOR_COLUMNS, N_NEWS_COLUMNS = 5, 8
BEHAVIORS, NEWS = "behaviors.tsv", "news.tsv"

HISTORY_STEP = HOUR
"""Made-up time between two clicks of a user's first history, and between the last one and the first impression."""


@dataclass(frozen=True)
class _Source:
    """A file, and where its rejected lines go."""

    path: Path
    file: str
    """What the quarantine calls it."""
    reject: Reject

    def drop_faulty(self, faults: Faults, numbers: Ids, texts: pa.Array) -> Mask:
        """Reject the rows with faults, with their line numbers and texts, (N,) both; the mask of the others."""
        for reason, rows in faults.by_reason():
            self.reject(reason, self.file, numbers[rows], texts.take(pa.array(rows)))
        return faults.valid()


@dataclass(frozen=True)
class _Behaviours:
    """Lines of `behaviors.tsv` with a valid user and time; every column is (N,)."""

    line: Ids
    request: Ids
    user: Ids
    time: Times
    history: pa.Array
    shown: pa.Array


@dataclass(frozen=True)
class _Words:
    """The words of a column, one row per word; both (M,)."""

    text: pa.Array
    row: Ids
    """Place of the word's line among `_Behaviours`."""


@dataclass(frozen=True)
class _Entries:
    """Valid entries of a column, one per post listed; every column is (M,)."""

    row: Ids
    """Place of the entry's line among `_Behaviours`."""
    post: Ids
    clicked: Mask
    to_end: Ids
    """Number of entries from this one to the end of its line, this one included."""


class _HistoryTimes:
    """What the times of history clicks depend on: collected over all lines before any history is imported."""

    def __init__(self) -> None:
        self.first_line = Earliest()
        """Time of each user's earliest line."""
        self.first_listed = Earliest()
        """Time of the earliest line whose history lists a post, by user and post."""
        self.clicked = Seen()
        """Clicks on impressions, by user and post."""
        self.imported = Seen()
        """History clicks imported so far, by user and post."""

    def add(self, rows: _Behaviours, shown: _Entries, history: _Entries) -> None:
        self.first_line.add(rows.user, rows.time)
        self.first_listed.add(_user_post(rows, history), rows.time[history.row])
        self.clicked.add(_user_post(rows, shown)[shown.clicked])


def _user_post(rows: _Behaviours, entries: _Entries) -> Ids:
    """A number per (user, post) of the entries, (M,)."""
    return hash_rows(rows.user[entries.row], entries.post)


def import_mind(folder: Path, lake: Lake, now: int, progress: Progress) -> ImportReport:
    """Import a folder or, if its subfolders hold the files, these parts in order of name.

    Args:
        now: wall clock, microseconds.
    Raises: DataError when a file is missing or the lake may not be filled.
    """
    parts = _parts(folder)
    files = [str(part.relative_to(folder) / name) for part in parts for name in (NEWS, BEHAVIORS)]
    size = sum((part / NEWS).stat().st_size + 2 * (part / BEHAVIORS).stat().st_size for part in parts)

    def source(part: Path, name: str, reject: Reject) -> _Source:
        return _Source(part / name, str(part.relative_to(folder) / name), reject)

    with importing(lake, "mind", folder, now, progress, size, synthetic_times=True) as job:
        for part in parts:
            _import_news(job, source(part, NEWS, job.reject))
        # Lines come in no order, so the times of histories need a first pass over all of them.
        times = _HistoryTimes()
        for part in parts:
            first_pass = source(part, BEHAVIORS, _ignore)
            for rows in _behaviours(job, first_pass):
                times.add(rows, _parse_impressions(job, rows, first_pass), _parse_history(job, rows, first_pass))
        for part in parts:
            second_pass = source(part, BEHAVIORS, job.reject)
            for rows in _behaviours(job, second_pass):
                _import_impressions(job, rows, _parse_impressions(job, rows, second_pass))
                _import_history(job, rows, _parse_history(job, rows, second_pass), times)
        _describe_users(job)
    return make_report(job, files, True, history_clicks=job.counts["history_clicks"])


def _parts(folder: Path) -> list[Path]:
    """The folders that hold the files: `folder` or its subfolders."""
    parts = [folder]
    if not (folder / BEHAVIORS).is_file() and folder.is_dir():
        parts = sorted(below for below in folder.iterdir() if (below / BEHAVIORS).is_file()) or parts
    for part in parts:
        for name in (BEHAVIORS, NEWS):
            if not (part / name).is_file():
                raise DataError(f"{part} has no {name}; a MIND folder holds {BEHAVIORS} and {NEWS}, or parts that do")
    return parts


def _import_news(job: Import, source: _Source) -> None:
    for numbers, lines in read_lines(source.path, source.file, source.reject, job.advance):
        fields, numbers, lines = _split_columns(lines, numbers, N_NEWS_COLUMNS, source)
        faults = Faults(len(lines))
        ids = job.ids_of("post", fields[0], faults)
        keep = source.drop_faulty(faults, numbers, lines)
        category, subcategory, title, abstract = (field.filter(pa.array(keep)).to_pylist() for field in fields[1:5])
        n = int(keep.sum())
        columns = {
            "author_id": pa.nulls(n, pa.int64()),
            "topic": pa.array([topic or None for topic in category], pa.string()),
            "language": pa.array(["en"] * n, pa.string()),
            "media": pa.nulls(n, pa.string()),
            "text": pa.array(map(_text, title, abstract, subcategory), pa.string()),
            "created_at": pa.nulls(n, TIME),
            "visible": pa.array([True] * n, pa.bool_()),
        }
        rows = pa.table([columns[name] for name in POST_COLUMNS], names=POST_COLUMNS)
        job.described["posts"].add(ids[keep], np.zeros(n, np.int64), rows)


def _text(title: str, abstract: str, subcategory: str) -> str:
    """Title, abstract and, unless they contain it, subcategory."""
    text = ". ".join(part for part in (title, abstract) if part)
    return text if subcategory.lower() in text.lower() else f"{text} {subcategory}".strip()


def _behaviours(job: Import, source: _Source) -> Iterator[_Behaviours]:
    """Valid lines of `behaviors.tsv`, block after block."""
    salt = hash_text(f"{job.name}/{source.file}")  # impression ids are unique within a file only
    impression_ids = Seen()
    for numbers, lines in read_lines(source.path, source.file, source.reject, job.advance):
        fields, numbers, lines = _split_columns(lines, numbers, N_BEHAVIOR_COLUMNS, source)
        faults = Faults(len(lines))
        faults.add("empty_impression_id", pc.equal(fields[0], "").to_numpy(zero_copy_only=False))
        user = job.ids_of("user", fields[1], faults)
        time, known = parse_mind_times(fields[2])
        check_times(faults, time, known, job.now)
        request = hash_rows(salt, hash_names(fields[0]))
        valid = np.flatnonzero(faults.valid())
        repeated = np.zeros(len(lines), bool)
        repeated[valid] = impression_ids.add(request[valid])
        faults.add("duplicate_impression_id", repeated)
        keep = source.drop_faulty(faults, numbers, lines)
        mask = pa.array(keep)
        yield _Behaviours(
            numbers[keep], request[keep], user[keep], time[keep], fields[3].filter(mask), fields[4].filter(mask)
        )


def _parse_impressions(job: Import, rows: _Behaviours, source: _Source) -> _Entries:
    """Entries `<post>-<0 or 1>` of the posts shown; 1 is a click."""
    words = _split_words(rows.shown)
    clicked = pc.ends_with(words.text, "-1").to_numpy(zero_copy_only=False)
    faults = Faults(len(words.row))
    faults.add("impression_without_label", ~(clicked | pc.ends_with(words.text, "-0").to_numpy(zero_copy_only=False)))
    return _entries(job, rows, words, pc.utf8_slice_codeunits(words.text, 0, -2), clicked, faults, source)


def _parse_history(job: Import, rows: _Behaviours, source: _Source) -> _Entries:
    """Entries `<post>` of the history; all are clicks."""
    words = _split_words(rows.history)
    n = len(words.row)
    return _entries(job, rows, words, words.text, np.ones(n, bool), Faults(n), source)


def _entries(
    job: Import, rows: _Behaviours, words: _Words, name: pa.Array, clicked: Mask, faults: Faults, source: _Source
) -> _Entries:  # fmt: skip
    """Entries without faults; `name`, `clicked` and `faults` are of each word, (M,)."""
    post = job.ids_of("post", name, faults)
    keep = source.drop_faulty(faults, rows.line[words.row], words.text)
    line_end = np.cumsum(np.bincount(words.row, minlength=len(rows.line)))[words.row]
    to_end = line_end - np.arange(len(words.row))
    return _Entries(words.row[keep], post[keep], clicked[keep], to_end[keep])


def _import_impressions(job: Import, rows: _Behaviours, shown: _Entries) -> None:
    request, user, time = rows.request[shown.row], rows.user[shown.row], rows.time[shown.row]
    clicked = shown.clicked
    job.add(request, user, shown.post, 0, time)
    job.add(request[clicked], user[clicked], shown.post[clicked], CLICK, time[clicked])
    offsets = np.concatenate([[0], np.cumsum(np.bincount(shown.row, minlength=len(rows.line)))])
    requests = {
        "request_id": pa.array(rows.request),
        "user_id": pa.array(rows.user),
        "now": pa.array(rows.time).cast(TIME),
        "candidates": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(shown.post)),
    }
    job.partitions.add("requests", pa.table(requests), rows.time)
    job.users.add(rows.user, rows.time)


def _import_history(job: Import, rows: _Behaviours, history: _Entries, times: _HistoryTimes) -> None:
    """Import each post of a user's histories once, at the earliest line that lists it.

    Posts that the user clicked on an impression are skipped: a later history repeats them, and a history click before
    the impression would give its label away.
    """
    # 1. Entries of the earliest line, without clicks on impressions and without repeats.
    pair = _user_post(rows, history)
    time = rows.time[history.row]
    earliest = np.flatnonzero((times.first_listed.of(pair, 0) == time) & ~times.clicked.contains(pair))
    new = earliest[~times.imported.add(pair[earliest])]
    user, post, time = rows.user[history.row[new]], history.post[new], time[new]
    # 2. Made-up times, counted back from the line: hours on the user's first line; on later ones microseconds, so that
    # the clicks lie after the line before (times of lines are whole seconds).
    step = np.where(time == times.first_line.of(user, 0), HISTORY_STEP, 1)
    time = np.maximum(time - history.to_end[new] * step, 0)
    job.add(hash_rows(user, post, hash_text("history")), user, post, CLICK, time)
    job.counts["history_clicks"] += len(new)


def _split_columns(lines: pa.Array, numbers: Ids, n: int, source: _Source) -> tuple[list[pa.Array], Ids, pa.Array]:
    """Split lines at tabs and reject those without `n` columns.

    Returns: the columns, line numbers and texts of the others, (N,) each.
    """
    split = pc.split_pattern(lines, "\t")
    complete = pc.equal(pc.list_value_length(split), n).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~complete)
    source.reject("wrong_number_of_columns", source.file, numbers[bad], lines.take(pa.array(bad)))
    split = split.filter(pa.array(complete))
    return [pc.list_element(split, place) for place in range(n)], numbers[complete], lines.filter(pa.array(complete))


def _split_words(texts: pa.Array) -> _Words:
    """Split texts, (N,), at spaces."""
    split = pc.split_pattern(texts, " ")
    words, row = pc.list_flatten(split), pc.list_parent_indices(split).to_numpy()
    not_empty = pc.not_equal(words, "")
    return _Words(words.filter(not_empty), row[not_empty.to_numpy(zero_copy_only=False)])


def _describe_users(job: Import) -> None:
    """Describe every user without properties: the format has none."""
    ids = job.users.ids()
    kinds = {"language": pa.string(), "country": pa.string(), "created_at": TIME}
    rows = pa.table({name: pa.nulls(len(ids), kind) for name, kind in kinds.items()})
    job.described["users"].add(ids, np.zeros(len(ids), np.int64), rows)


def _ignore(reason: str, file: str, lines: Ids, texts: Sequence[str]) -> None:
    """Reject nothing: the second pass meets the same lines and rejects them."""
