"""Read public data sets, lines `user item item ...` in one of two layouts, as dense rows of users and items.

`interactions`: `train.txt` and `test.txt`, the order within a line means nothing. `sequences`: `sequences.txt`, items
in order of time; the last item is the test, the one before it validation, the rest is for training.

Takes a folder, gives a `Dataset`. Nothing depends on the folder's name or on known sizes. Ids are any words without
white space; they become rows in order of their text, so the order of lines matters only for a sequence that is given
twice: nobody says which comes first, and the later line is left out. It does not know models or figures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError
from recsys.offline.imports.lines import read_item_lines
from recsys.types import Ids, Rows

MIN_SEQUENCE = 3
"""Shorter sequences go entirely into training: they have no items left for validation and test."""


@dataclass(frozen=True, slots=True)
class Lines:
    """The parsed lines of one file."""

    user: pa.Array
    """User of each line, (L,)."""
    n_items: Ids
    """Number of items of each line, (L,)."""
    item: pa.Array
    """Items of all lines, concatenated, (n_items.sum(),)."""
    number: Ids
    """Number of each line in the file, from 1, (L,)."""
    skipped: list[tuple[int, str]]
    """Lines left out: number and reason."""


@dataclass(frozen=True, slots=True)
class Interactions:
    """Items by user, concatenated (CSR)."""

    start: Ids
    """First place of each user, (U + 1,)."""
    item: Rows
    """Item rows, (n,)."""

    def __len__(self) -> int:
        return len(self.item)

    @property
    def size(self) -> Ids:
        """Items of each user, (U,)."""
        return np.diff(self.start)

    @property
    def user(self) -> Rows:
        """The user of each item, (n,)."""
        return np.repeat(np.arange(len(self.start) - 1, dtype=np.int32), self.size)

    def of(self, users: Rows) -> tuple[Rows, Rows]:
        """The (place in `users`, item) pairs of these users, (B,); both arrays (n,)."""
        size = self.size[users]
        nth = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        rows = np.repeat(np.arange(len(users), dtype=np.int32), size)
        return rows, self.item[np.repeat(self.start[users], size) + nth]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set: users, items and their interactions by split."""

    layout: str
    user_ids: pa.Array
    """Id of each user row, (U,)."""
    item_ids: pa.Array
    """Id of each item row, over all files, (N,)."""
    train: Interactions
    validation: Interactions
    """Validation items; empty for `interactions`."""
    test: Interactions
    seen: Interactions
    """Training and validation items, which a test list must not repeat."""
    skipped: dict[str, int]
    """Reason to number of skipped lines."""
    n_repeats: int
    """Repeated items of a user within one file; dropped from `interactions`, kept in `sequences`."""


def read_dataset(folder: Path) -> Dataset:
    """Read a folder of either layout.

    Raises: DataError when the folder has neither layout or both, or a file cannot be read, or no user has a test item.
    """
    pairs, sequences = [folder / "train.txt", folder / "test.txt"], folder / "sequences.txt"
    there = [path.name for path in pairs if path.exists()]
    if sequences.exists() == bool(there):
        raise DataError(
            f"{folder} must hold either train.txt and test.txt or sequences.txt, "
            f"got {', '.join([*there, sequences.name]) if there else 'none of them'}"
            f"{'' if folder.is_dir() else ', since it is not a folder'}; pass the folder of one data set"
        )
    paths = pairs if there else [sequences]
    files = [read_lines(path) if there else _first_of_each_user(read_lines(path)) for path in paths]
    user_ids, user = _rows(pa.concat_arrays([lines.user for lines in files]))
    item_ids, item = _rows(pa.concat_arrays([lines.item for lines in files]))
    if not len(item_ids):
        raise DataError(f"{folder} must have at least one line `user item ...`, got none in {paths[0].name}")
    lines_before = np.cumsum([0, *(len(lines.user) for lines in files)])
    items_before = np.cumsum([0, *(len(lines.item) for lines in files)])
    parts = [
        by_user(
            np.repeat(user[lines_before[number] : lines_before[number + 1]], lines.n_items),
            item[items_before[number] : items_before[number + 1]],
            len(user_ids),
        )
        for number, lines in enumerate(files)
    ]
    unique = [_without_repeats(part, len(item_ids)) for part in parts]
    n_repeats = sum(map(len, parts)) - sum(map(len, unique))
    if there:
        train, test = unique
        validation = by_user(np.empty(0, np.int32), np.empty(0, np.int32), len(user_ids))
        seen = train
    else:
        train, validation, test, seen = _leave_last_out(parts[0])
    if not len(train):
        raise DataError(
            f"{folder} must have at least one interaction to learn from, got none in {paths[0].name}; "
            "add lines `user item ...`"
        )
    if not len(test):
        raise DataError(
            f"{folder} must have at least one user with a test item, got none in {paths[-1].name}; "
            + ("add lines `user item ...`" if there else f"a sequence needs {MIN_SEQUENCE} items")
        )
    skipped = Counter(reason for lines in files for _, reason in lines.skipped)
    return Dataset(
        "interactions" if there else "sequences",
        user_ids, item_ids, train, validation, test, seen, dict(sorted(skipped.items())), n_repeats,
    )  # fmt: skip


def read_lines(path: Path) -> Lines:
    """Read lines `user item item ...`, as an import of the same file reads them.

    Raises: DataError when the file cannot be read.
    """
    skipped: list[tuple[int, str]] = []

    def skip(reason: str, _file: str, numbers: Ids, _texts: Sequence[str]) -> None:
        skipped.extend((number, reason) for number in numbers.tolist())

    try:
        blocks = [lines for lines, _ in read_item_lines(path, path.name, skip, lambda n_bytes: None)]
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); it must hold lines `user item item ...`") from None
    none, no_words = np.empty(0, np.int64), pa.array([], pa.large_string())
    return Lines(
        pa.concat_arrays([no_words, *(block.user.cast(pa.large_string()) for block in blocks)]),
        np.concatenate([none, *(block.n_items for block in blocks)]),
        pa.concat_arrays([no_words, *(block.item.cast(pa.large_string()) for block in blocks)]),
        np.concatenate([none, *(block.number for block in blocks)]),
        sorted(skipped),
    )


def _first_of_each_user(lines: Lines) -> Lines:
    first = np.zeros(len(lines.user), bool)
    first[np.unique(_rows(lines.user)[1], return_index=True)[1]] = True
    if first.all():
        return lines
    return Lines(
        lines.user.filter(pa.array(first)),
        lines.n_items[first],
        lines.item.filter(pa.array(np.repeat(first, lines.n_items))),
        lines.number[first],
        [*lines.skipped, *((number, "user_on_two_lines") for number in lines.number[~first].tolist())],
    )


def _rows(ids: pa.Array) -> tuple[pa.Array, Rows]:
    """Distinct ids in text order, and the place of each given id among them."""
    encoded = ids.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    row = np.empty(len(order), np.int32)
    row[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), row[encoded.indices.to_numpy()]


def by_user(user: Rows, item: Rows, n_users: int) -> Interactions:
    """Group (user, item) pairs, (n,) each, by user, keeping their order."""
    order = np.argsort(user, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=n_users))]).astype(np.int64)
    return Interactions(start, item[order])


def _without_repeats(part: Interactions, n_items: int) -> Interactions:
    user = part.user
    first = np.sort(np.unique(user.astype(np.int64) * n_items + part.item, return_index=True)[1])
    return by_user(user[first], part.item[first], len(part.start) - 1)


def _leave_last_out(all_items: Interactions) -> tuple[Interactions, Interactions, Interactions, Interactions]:
    """Training, validation, test and all before the test. Source: Kang, McAuley, "SASRec", ICDM 2018."""
    user, size = all_items.user, all_items.size
    from_end = all_items.start[1:][user] - np.arange(len(all_items))
    long = size[user] >= MIN_SEQUENCE
    tests, validates = long & (from_end == 1), long & (from_end == 2)
    train, validation, test, seen = (
        by_user(user[rows], all_items.item[rows], len(size)) for rows in (~tests & ~validates, validates, tests, ~tests)
    )
    return train, validation, test, seen
