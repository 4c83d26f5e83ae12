"""Text files in blocks of lines, and lines `user item item ...` in blocks of words.

Takes a path, gives Arrow columns with the numbers of their lines. It does not know who reads them, nor what for.
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
"""Called with a reason, the name of the file, line numbers and the text of these lines."""


_CONTROL = r"[\x00-\x08\x0b-\x1f\x7f]"


@dataclass(frozen=True, slots=True)
class ItemLines:
    """Lines of a user and what they took."""

    number: Ids
    """Number of each line in the file, from 1, (L,)."""
    user: pa.Array
    """One word a line, (L,)."""
    n_items: Ids
    """Items of each line, which may be none, (L,)."""
    item: pa.Array
    """Items of all lines, one after the other, (n_items.sum(),)."""


def read_item_lines(
    path: Path, file: str, reject: Reject, advance: Callable[[int], None]
) -> Iterator[tuple[ItemLines, pa.Array]]:
    """Lines `user item item ...`, words parted by white space of any kind, and their texts, block after block.

    A line of a user alone is a user without items. Empty lines, lines that are not UTF-8 and lines with control
    characters are rejected. Arguments as of `read_lines`.
    """
    for numbers, lines in read_lines(path, file, reject, advance):
        text = pc.utf8_trim_whitespace(lines)
        empty = pc.equal(text, "").to_numpy(zero_copy_only=False)
        control = pc.match_substring_regex(text, _CONTROL).to_numpy(zero_copy_only=False)
        for reason, broken in (("empty_line", empty), ("control_character", control)):
            bad = np.flatnonzero(broken)
            reject(reason, file, numbers[bad], lines.take(pa.array(bad)))
        good = pa.array(~(empty | control))
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
    """Line numbers (from 1) and lines of one block after the other, (N,) each.

    Args:
        file: what the quarantine calls the file.
        reject: gets the lines that are not UTF-8; they are left out.
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
                lines.pop()  # what follows the last line's end is no line
            if lines:
                numbers = np.arange(n_before + 1, n_before + len(lines) + 1)
                yield _decoded([line.removesuffix(b"\r") for line in lines], numbers, file, reject)
            n_before += len(lines)
            if not block:
                return


def utf8(values: pa.Array) -> pa.Array:
    """Bytes as strings, null where they are not UTF-8."""
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
