"""Read text files in blocks of lines, and lists of items, one user a line.

Takes a path, gives Arrow columns with line numbers. It does not know what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.types import Ids

BLOCK_BYTES = 1 << 23
"""Bytes read at a time."""

Reject = Callable[[str, str, Ids, Sequence[str]], None]
"""Called with a reason, the file's name, line numbers and the texts of these lines."""

_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f]"


@dataclass(frozen=True, slots=True)
class ItemLines:
    """Lines that list a user's items."""

    number: Ids
    """Number of each line in the file, from 1, (L,)."""
    user: pa.Array
    """First word of each line, (L,)."""
    n_items: Ids
    """Number of items of each line, >= 0, (L,)."""
    item: pa.Array
    """Items of all lines, in order, (n_items.sum(),)."""


def read_item_lines(
    path: Path, file: str, reject: Reject, advance: Callable[[int], None]
) -> Iterator[tuple[ItemLines, pa.Array]]:
    """Read lines `user item item ...`, separated by any white space, and their texts, block after block.

    A line with one word is a user without items. Empty lines, lines with control characters and lines that are not
    UTF-8 are rejected. Arguments as in `read_lines`.
    """
    for numbers, lines in read_lines(path, file, reject, advance):
        text = pc.utf8_trim_whitespace(lines)
        empty = pc.equal(text, "").to_numpy(zero_copy_only=False)
        control = pc.match_substring_regex(text, _CONTROL).to_numpy(zero_copy_only=False)
        for reason, broken in (("empty_line", empty), ("control_character", control)):
            bad = np.flatnonzero(broken)
            reject(reason, file, numbers[bad], lines.take(pa.array(bad)))
        good = pa.array(~(empty | control))
        # One row per word: the first word of each line is the user, the others are items.
        words = pc.utf8_split_whitespace(text.filter(good))
        row, word = pc.list_parent_indices(words).to_numpy(), pc.list_flatten(words)
        is_user = np.diff(row, prepend=-1) > 0
        n_items = np.bincount(row, minlength=len(words)) - 1
        yield (
            ItemLines(
                numbers[good.to_numpy(zero_copy_only=False)],
                word.filter(pa.array(is_user)),
                n_items,
                word.filter(pa.array(~is_user)),
            ),
            lines.filter(good),
        )


def read_lines(path: Path, file: str, reject: Reject, advance: Callable[[int], None]) -> Iterator[tuple[Ids, pa.Array]]:
    """Read line numbers (from 1) and lines, (N,) each, block after block.

    Args:
        file: what the quarantine calls the file.
        reject: gets the lines that are not UTF-8, which are skipped.
        advance: called with the number of bytes read since the last call.
    """
    n_before, rest = 0, b""
    with path.open("rb") as stream:
        while True:
            block = stream.read(BLOCK_BYTES)
            advance(len(block))
            if n_before == 0 and not rest:
                block = block.removeprefix(b"\xef\xbb\xbf")
            lines = (rest + block).split(b"\n")
            rest = lines.pop() if block else b""
            if not block and lines[-1] == b"":
                lines.pop()  # nothing follows the last line's end
            if lines:
                numbers = np.arange(n_before + 1, n_before + len(lines) + 1)
                yield _decoded([line.removesuffix(b"\r") for line in lines], numbers, file, reject)
            n_before += len(lines)
            if not block:
                return


def utf8(values: pa.Array) -> pa.Array:
    """Decode bytes as UTF-8, null where they are invalid."""
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decode(value) for value in values.to_pylist()], pa.string())


def _decode(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _decoded(lines: list[bytes], numbers: Ids, file: str, reject: Reject) -> tuple[Ids, pa.Array]:
    text = utf8(pa.array(lines, pa.binary()))
    if not text.null_count:
        return numbers, text
    valid = text.is_valid().to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~valid)
    reject("invalid_utf8", file, numbers[bad], [lines[place].decode(errors="replace") for place in bad])
    return numbers[valid], text.drop_null()
