"""Validate rows against the rules of their table: types, nulls, allowed values, ranges, times.

Takes Arrow tables as found in files, gives them in the schema's types and, for each row, the first rule it breaks. It
does not know files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError
from recsys.offline.lake.schemas import TABLES, Range

_NUMBER = r"^(-?[0-9]+|0[xX][0-9a-fA-F]+)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}"
"""Text that pyarrow may parse as a date; not every match is one."""


def conform(table: str, rows: pa.Table) -> pa.Table:
    """Convert rows to exactly the columns, types and metadata of the table's schema.

    Raises: DataError naming the table and the column that is missing, unknown or of the wrong type.
    """
    schema = TABLES[table].schema
    unknown = [name for name in rows.column_names if name not in schema.names]
    if unknown:
        raise DataError(f"table {table} has no column {', '.join(unknown)}; it has {', '.join(schema.names)}")
    absent = [column for column in schema if column.name not in rows.column_names]
    for column in absent:
        rows = rows.append_column(column.name, pa.nulls(len(rows), column.type))
    try:
        return rows.select(schema.names).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"table {table}: rows do not fit the schema: {' '.join(str(error).split())}") from None


def columns_to_check(table: str, found: pa.Schema, wanted: Sequence[str]) -> list[str]:
    """The wanted columns and all that decide which rows of a file are valid.

    Args:
        found: the schema of the file.
    """
    spec = TABLES[table]
    other_type = [
        column.name
        for column in spec.schema
        if column.name in found.names and found.field(column.name).type != column.type
    ]
    return list(dict.fromkeys([*wanted, *spec.required, *spec.times, *spec.enums, *spec.ranges, *other_type]))


def check(
    table: str, rows: pa.Table, names: Sequence[str], latest: int | None
) -> tuple[pa.Table, pa.Array | None]:  # fmt: skip
    """Cast columns to the schema's types, and find the first rule that each row breaks.

    Args:
        names: columns to return; missing ones become null.
        latest: the latest valid time, microseconds; None allows the future.
    Returns: the columns, and the broken rule of each row, null for valid rows; None instead if all rows are valid.
    """
    schema = TABLES[table].schema
    columns, problems = {}, []
    for name in names:
        kind = schema.field(name).type
        if name not in rows.column_names:
            columns[name] = pa.chunked_array([pa.nulls(len(rows), kind)])
            continue
        columns[name], bad = _cast(rows[name], kind)
        if bad is not None:
            problems.append((f"{table}.{name} is not {_type_name(kind)}", bad))
    problems += _broken_rules(table, columns, latest)
    return pa.table(columns), _first_reason(problems)


def _broken_rules(
    table: str, columns: dict[str, pa.ChunkedArray], latest: int | None
) -> Iterator[tuple[str, pa.Array]]:
    """Each rule of the table that rows may break, and the rows that do, (N,)."""
    spec = TABLES[table]
    for name in spec.required:
        if columns[name].null_count:
            yield f"{table}.{name} is null", pc.is_null(columns[name])
    for name, values in spec.enums.items():
        known = pc.is_in(columns[name], value_set=pa.array(values))
        unknown = pc.and_(pc.is_valid(columns[name]), pc.invert(known))
        yield f"{table}.{name} is not one of {', '.join(values)}", unknown
    for name, allowed in spec.ranges.items():
        yield f"{table}.{name} is not {allowed}", _outside(columns[name], allowed)
    for name in spec.times:
        time = columns[name].cast(pa.int64())
        bounds = pc.min_max(time).as_py()  # one pass instead of two masks: nearly all files are clean
        if bounds["min"] is not None and bounds["min"] < 0:
            yield f"{table}.{name} is before 1970", pc.less(time, 0)
        if bounds["max"] is not None and latest is not None and bounds["max"] > latest:
            yield f"{table}.{name} is in the future", pc.greater(time, latest)


def _outside(values: pa.ChunkedArray, allowed: Range) -> pa.ChunkedArray:
    """Whether each value is out of range, null for null."""
    inside: Any = pc.is_finite(values) if pa.types.is_floating(values.type) else True
    if allowed.above is not None:
        inside = pc.and_(inside, pc.greater(values, pa.scalar(allowed.above, values.type)))
    if allowed.at_least is not None:
        inside = pc.and_(inside, pc.greater_equal(values, pa.scalar(allowed.at_least, values.type)))
    if allowed.at_most is not None:
        inside = pc.and_(inside, pc.less_equal(values, pa.scalar(allowed.at_most, values.type)))
    return pc.invert(inside)


def _first_reason(problems: list[tuple[str, pa.ChunkedArray]]) -> pa.Array | None:
    """The first reason of each row, null for valid rows, (N,); None if all rows are valid."""
    found = [(reason, bad) for reason, bad in problems if pc.any(bad).as_py()]
    if not found:
        return None
    flags = [pc.fill_null(bad, False) for _, bad in found]
    flags = [flag.combine_chunks() if isinstance(flag, pa.ChunkedArray) else flag for flag in flags]
    which = pa.StructArray.from_arrays(flags, names=[str(i) for i in range(len(flags))])
    return pc.case_when(which, *[pa.scalar(reason) for reason, _ in found])


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, pa.Array | None]:
    """Cast a column. Values that do not cast become null and are true in the mask; no mask if all do."""
    try:
        return _cast_strictly(column, kind), None
    except pa.ArrowNotImplementedError:
        return pa.chunked_array([pa.nulls(len(column), kind)]), pc.is_valid(column).combine_chunks()
    except pa.ArrowException:
        values = column.combine_chunks()
    invalid = _clearly_invalid(values, kind)
    pieces = list(_cast_piecewise(pc.if_else(invalid, None, values), kind))
    bad = pa.concat_arrays([pa.repeat(is_bad, len(piece)) for piece, is_bad in pieces])
    return pa.chunked_array([piece for piece, _ in pieces]), pc.or_(bad, invalid)


def _clearly_invalid(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Text that cannot be a number or date, found in one pass; otherwise a column of names is cast one by one."""
    like = _NUMBER if pa.types.is_integer(kind) else _DATE if pa.types.is_timestamp(kind) else None
    if like is None or not pa.types.is_string(values.type):
        return pa.repeat(False, len(values))
    return pc.fill_null(pc.invert(pc.match_substring_regex(values, like)), False)


def _cast_strictly(values: pa.Array, kind: pa.DataType) -> pa.Array:
    # Times finer than microseconds are truncated; any other loss is an error.
    cast = pc.cast(values, options=pc.CastOptions(kind, allow_time_truncate=True))
    cast.validate(full=True)
    return cast


def _cast_piecewise(values: pa.Array, kind: pa.DataType) -> Iterator[tuple[pa.Array, bool]]:
    """Cast in pieces, halving those that fail until single bad values remain; each piece with whether it is bad."""
    try:
        yield _cast_strictly(values, kind), False
    except pa.ArrowException:
        if len(values) == 1:
            yield pa.nulls(1, kind), True
            return
        half = len(values) // 2
        for start, end in ((0, half), (half, len(values))):
            # A cast checks all elements behind a slice of lists; a copy has only its own.
            piece = values.slice(start, end - start)
            yield from _cast_piecewise(
                values.take(pa.array(range(start, end))) if pa.types.is_list(values.type) else piece, kind
            )


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    return "a time" if pa.types.is_timestamp(kind) else str(kind)
