"""Read CSV and Parquet files in chunks of mapped columns, and single records as text for the quarantine.

Takes a path and the column of each field, gives Arrow columns with record numbers. It does not know what fields mean.
A CSV record is a line, or several if a quoted value contains line ends; the header is record 1. Parquet rows count
from 1.

A quote that never closes would swallow the rest of the file. So several lines are one record only if it has as many
values as the header and is not too long. Otherwise the first line is rejected, and reading goes on at the second.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from recsys.errors import ConfigError, DataError
from recsys.types import Ids

CSV_BLOCK_BYTES = 1 << 24
QUOTED_BYTES = 1 << 16
"""Longest record of several lines."""
PARQUET_ROWS = 1 << 17
"""Parquet rows read at a time."""

RejectRecords = Callable[[str, Ids], None]
"""Called with a reason and record numbers."""


@dataclass(frozen=True)
class Chunk:
    """Some records, with columns by field, (N,) each. CSV columns are bytes, Parquet columns have the file's types."""

    record: Ids
    columns: dict[str, pa.Array]


_Piece = tuple[Literal["lines", "record", "open"], bytes]
"""Lines of one record each, one record of one or more lines, or one line with an unclosed quote."""


class TableFile(Protocol):
    """A file of rows with named columns."""

    path: Path

    def chunks(self, reject: RejectRecords, advance: Callable[[int], None]) -> Iterator[Chunk]:
        """All records in order; `reject` gets malformed ones, `advance` the bytes read since the last call."""

    def read_texts(self, records: Ids) -> Iterator[tuple[int, int, str]]:
        """Record number, line and text of these records, given in ascending order."""


class CsvFile:
    """Comma-separated values in UTF-8 with a header, quoted as in RFC 4180."""

    def __init__(self, path: Path, columns: dict[str, str]) -> None:
        """Raises: DataError when there is no such file or header, ConfigError when the header lacks a column."""
        self.path, self._columns = path, columns
        if not path.is_file():
            raise DataError(f"there is no file {path} to import")
        with self._open() as stream:
            lines = (line.decode(errors="replace").removeprefix("\ufeff") for line in stream)
            header = next(csv.reader(lines), [])
        if not header:
            raise DataError(f"{path} is empty; its first line must name the columns")
        _check_columns(path, columns, header)
        self._n_columns = len(header)

    def chunks(self, reject: RejectRecords, advance: Callable[[int], None]) -> Iterator[Chunk]:
        skipped: list[int] = []
        stream = _RepairedCsv(self._pieces(), self._n_columns)

        def skip(row: pacsv.InvalidRow) -> str:
            skipped.append(row.number)
            return "skip"

        names = sorted(set(self._columns.values()))
        try:
            reader = pacsv.open_csv(
                pa.PythonFile(stream, mode="r"),
                # One thread: with several, invalid rows have no number.
                pacsv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
                # An empty line counts as a row; otherwise the numbers after it would be wrong.
                pacsv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False, invalid_row_handler=skip),
                pacsv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.binary())),
            )
            last = 1  # number of the last record so far; the header is 1
            for batch in reader:
                # Records of this batch: consecutive numbers without those of skipped rows.
                invalid = np.array([number for number in skipped if number > last], np.int64)
                numbers = np.setdiff1d(np.arange(last + 1, last + 1 + len(batch) + len(invalid)), invalid)[: len(batch)]
                last = int(numbers[-1]) if len(numbers) else last
                done = np.array([number for number in skipped if number < last], np.int64)
                _reject_skipped(done, stream.open_quotes, reject)
                skipped = skipped[len(done) :]
                advance(min(CSV_BLOCK_BYTES, self.path.stat().st_size))
                yield Chunk(numbers, {field: batch.column(name) for field, name in self._columns.items()})
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{self.path} cannot be read as CSV: {' '.join(str(error).split())}; "
                f"no record may be longer than {CSV_BLOCK_BYTES} bytes"
            ) from None
        _reject_skipped(np.array(skipped, np.int64), stream.open_quotes, reject)

    def read_texts(self, records: Ids) -> Iterator[tuple[int, int, str]]:
        number, line = 1, 1
        for kind, data in self._pieces():
            n_lines = data.count(b"\n")
            n_records = n_lines if kind == "lines" else 1
            first, last = np.searchsorted(records, [number, number + n_records])
            if first < last:
                parts = data.split(b"\n") if kind == "lines" else [data]
                for place in (records[first:last] - number).tolist():
                    yield number + place, line + place, parts[place].rstrip(b"\r\n").decode(errors="replace")
            number, line = number + n_records, line + n_lines

    def _pieces(self) -> Iterator[_Piece]:
        with self._open() as stream:
            yield from _pieces(stream, self._n_columns)

    def _open(self) -> io.BufferedReader:
        return io.BufferedReader(pa.input_stream(str(self.path)))


class ParquetFile:
    """A Parquet file, read in batches of rows."""

    def __init__(self, path: Path, columns: dict[str, str]) -> None:
        """Raises: DataError when there is no such Parquet file, ConfigError when it lacks a column."""
        self.path, self._columns = path, columns
        if not path.is_file():
            raise DataError(f"there is no file {path} to import")
        try:
            self._file = pq.ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a Parquet file: {' '.join(str(error).split())}") from None
        _check_columns(path, columns, self._file.schema_arrow.names)
        for field, name in columns.items():
            kind = self._file.schema_arrow.field(name).type
            if pa.types.is_nested(kind):
                raise ConfigError(f"--map {field}={name}: {path} holds {kind} there; a field is one value per row")

    def chunks(self, reject: RejectRecords, advance: Callable[[int], None]) -> Iterator[Chunk]:
        names = sorted(set(self._columns.values()))
        size, n_rows, last = self.path.stat().st_size, max(self._file.metadata.num_rows, 1), 0
        for batch in self._batches(names):
            advance(size * len(batch) // n_rows)
            yield Chunk(
                np.arange(last + 1, last + 1 + len(batch)),
                {field: _decode_dictionary(batch.column(name)) for field, name in self._columns.items()},
            )
            last += len(batch)

    def read_texts(self, records: Ids) -> Iterator[tuple[int, int, str]]:
        last = 0
        for batch in self._batches(self._file.schema_arrow.names):
            here = records[(records > last) & (records <= last + len(batch))]
            rows: list[dict[str, Any]] = batch.take(pa.array(here - last - 1)).to_pylist()
            for number, row in zip(here.tolist(), rows, strict=True):
                yield number, number, json.dumps(row, default=str, ensure_ascii=False)
            last += len(batch)

    def _batches(self, names: list[str]) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(PARQUET_ROWS, columns=names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} cannot be read to its end: {' '.join(str(error).split())}") from None


def _check_columns(path: Path, columns: dict[str, str], present: list[str]) -> None:
    for field, name in columns.items():
        if present.count(name) != 1:
            problem = "twice" if name in present else "no"
            raise ConfigError(
                f"--map {field}={name}: {path} has {problem} column {name!r}; its columns are {', '.join(present)}"
            )


def _decode_dictionary(column: pa.Array) -> pa.Array:
    """Plain values of a dictionary-encoded column; other columns unchanged."""
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


class _RepairedCsv(io.RawIOBase):
    """The bytes of a CSV file, with each line that has an unclosed quote replaced by an invalid row."""

    def __init__(self, pieces: Iterator[_Piece], n_columns: int) -> None:
        self.open_quotes: set[int] = set()
        """Numbers of the records replaced so far."""
        self._pieces, self._invalid_row = pieces, b"," * n_columns + b"\n"  # one column too many
        self._n_records, self._rest = 0, bytearray()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size or size < 0:
            kind, data = next(self._pieces, ("lines", b""))
            if not data:
                break
            self._n_records += data.count(b"\n") if kind == "lines" else 1
            if kind == "open":
                self.open_quotes.add(self._n_records)
                data = self._invalid_row
            self._rest += data
        size = len(self._rest) if size < 0 else size
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        return taken


def _reject_skipped(records: Ids, open_quotes: set[int], reject: RejectRecords) -> None:
    is_open = np.array([record in open_quotes for record in records.tolist()], bool)
    reject("quote_not_closed", records[is_open])
    reject("wrong_number_of_columns", records[~is_open])


def _pieces(stream: io.BufferedReader, n_columns: int) -> Iterator[_Piece]:
    """Cut a CSV file into pieces that end where a record ends, line end included.

    Most lines have no quotes and go through in large pieces; only lines with quotes are parsed.
    """
    value = rb'(?>"[^"]*+(?:""[^"]*+)*+"[ \t]*+|[^",\n][^,\n]*+|)'
    whole = re.compile(rb"%s(?:,%s){%d}\r?\n" % (value, value, n_columns - 1))
    in_line = value.replace(rb'[^"]', rb'[^"\n]')
    closed_lines = re.compile(rb"(?:%s(?:,%s)*+\r?\n)*+" % (in_line, in_line))
    rest, at_end = stream.read(3).removeprefix(b"\xef\xbb\xbf"), False
    while not at_end:
        block = stream.read(CSV_BLOCK_BYTES)
        at_end = not block
        data, place = rest + block, 0
        if at_end and data and not data.endswith(b"\n"):
            data += b"\n"
        while (quote := data.find(b'"', place)) >= 0:
            # 1. Lines before the one with the next quote.
            start = max(data.rfind(b"\n", 0, quote) + 1, place)
            if start > place:
                yield "lines", data[place:start]
            # 2. Lines whose quotes close within the line.
            place = closed_lines.match(data, start).end()  # type: ignore[union-attr] # matches the empty string too
            if place > start:
                yield "lines", data[start:place]
                continue
            # 3. A line that is not well quoted, or a quote that goes on: one line, a record of several, or unclosed.
            end = data.find(b"\n", quote) + 1
            if not end:
                break  # the line goes on in the next block
            if not _ends_inside_quotes(data[start : end - 1].removesuffix(b"\r")):
                yield "record", data[start:end]
            elif found := whole.match(data, start, start + QUOTED_BYTES):
                end = found.end()
                yield "record", data[start:end]
            elif at_end or len(data) - start > QUOTED_BYTES:
                yield "open", data[start:end]
            else:
                break
            place = end
        else:
            end = max(data.rfind(b"\n") + 1, place)
            if end > place:
                yield "lines", data[place:end]
            place = end
        rest = data[place:]


def _ends_inside_quotes(line: bytes) -> bool:
    """Whether a quoted value continues after this line. A quote opens a value only at the start of the value."""
    place, inside = 0, False
    while b'"' in line[place:] or inside:
        if not inside:
            begins = [place] if line[place : place + 1] == b'"' else []
            found = line.find(b',"', place)
            start = begins[0] if begins else found + 1 if found >= 0 else -1
            if start < 0:
                return False
            place, inside = start + 1, True
        closing = line.find(b'"', place)
        while closing >= 0 and line[closing + 1 : closing + 2] == b'"':
            closing = line.find(b'"', closing + 2)
        if closing < 0:
            return True
        # Text after the closing quote, up to the next comma, belongs to the value.
        comma = line.find(b",", closing + 1)
        inside, place = False, comma + 1 if comma >= 0 else len(line)
    return inside
