"""Text files in blocks of lines.

Takes a path, gives Arrow columns of lines with their numbers. It does not know what a line means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.types import Ids

BLOCK_BYTES = 1 << 23
"""Bytes read at a time."""

Reject = Callable[[str, str, Ids, Sequence[str]], None]
"""Called with a reason, the name of the file, line numbers and the text of these lines."""


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
