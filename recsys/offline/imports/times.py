"""Parse times of outside logs to microseconds since 1970 UTC.

Takes Arrow columns, gives numpy arrays and a mask of what was parsed. It does not know which times are plausible.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.types import DAY, HOUR, SECOND, Doubles, Ids, Mask, Times

_ISO = (
    r"^(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[Tt ](?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r" ?(?:(?P<utc>[Zz]|UTC)|(?P<sign>[+-])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})?)?)?$"
)
_MIND = (
    r"^(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4})"
    r" (?P<hour>\d{1,2}):(?P<minute>\d{2}):(?P<second>\d{2}) (?P<half>AM|PM)$"
)
_NUMBER = r"^[+-]?\d{1,18}(\.\d+)?$"
_PER_UNIT = {"s": SECOND, "ms": 1000, "us": 1}
_FIRST_MS, _FIRST_US, _FIRST_NS = 1e11, 1e14, 1e17
"""Numbers from here on are milliseconds, microseconds, nanoseconds: 1e11 s is the year 5138, 1e11 ms is 1973."""


def parse_times(values: pa.Array) -> tuple[Times, Mask]:
    """Parse ISO 8601 (UTC without a zone), numbers since 1970 (unit by size), and Arrow times and dates.

    Returns: microseconds, 0 where not parsed, and whether each was parsed, both (N,). Null is not parsed.
    """
    kind = values.type
    known = values.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_date(kind):
        values, kind = values.cast(pa.timestamp("ms")), pa.timestamp("ms")
    if pa.types.is_timestamp(kind):
        number = values.cast(pa.int64()).fill_null(0).to_numpy()
        if kind.unit == "ns":
            return number // 1000, known
        known &= np.abs(number) < np.iinfo(np.int64).max // _PER_UNIT[kind.unit]
        return np.where(known, number, 0) * _PER_UNIT[kind.unit], known
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _since_1970(values.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy())
    text = pc.utf8_trim_whitespace(values.cast(pa.string()).fill_null(""))
    time, known = _iso(text)
    is_number = pc.match_substring_regex(text, _NUMBER)
    if pc.any(is_number).as_py():
        number, finite = _since_1970(pc.if_else(is_number, text, "nan").cast(pa.float64()).to_numpy())
        time, known = np.where(finite, number, time), known | finite
    return time, known


def parse_mind_times(values: pa.Array) -> tuple[Times, Mask]:
    """Parse times such as `11/11/2019 9:05:58 AM`; returns as `parse_times`."""
    field = _fields(values, _MIND)
    hour = field["hour"] % 12 + 12 * (field["half"] == 1)
    known = (field["hour"] >= 1) & (field["hour"] <= 12)
    return _to_microseconds(field, hour, known)


def _iso(text: pa.Array) -> tuple[Times, Mask]:
    field = _fields(text, _ISO)
    time, known = _to_microseconds(field, field["hour"], field["zone_minute"] < 60)
    offset = field["sign"] * (field["zone_hour"] * HOUR + field["zone_minute"] * (HOUR // 60))
    return np.where(known, time + field["fraction"] - offset, 0), known


def _since_1970(number: Doubles) -> tuple[Times, Mask]:
    size = np.abs(number)
    known = size < 9e18
    factor = np.select([size < _FIRST_MS, size < _FIRST_US, size < _FIRST_NS], [1e6, 1e3, 1.0], 1e-3)
    return np.where(known, np.rint(np.where(known, number, 0) * factor), 0).astype(np.int64), known


def _fields(text: pa.Array, pattern: str) -> dict[str, Ids]:
    """Match a pattern and give its named groups as numbers, 0 for unused groups; `day` is -1 without a match."""
    found = pc.extract_regex(text, pattern)
    numbers = {}
    for place, group in enumerate(found.type):
        part = found.field(place).fill_null("")
        if group.name == "fraction":
            part = pc.utf8_slice_codeunits(pc.utf8_rpad(part, 6, "0"), 0, 6)
        elif group.name in ("sign", "half", "utc"):
            words = {"-": "-1", "+": "1", "PM": "1"}
            part = pc.index_in(part, value_set=pa.array(list(words))).fill_null(-1)
            numbers[group.name] = np.array([*map(int, words.values()), 0])[part.to_numpy()]
            continue
        numbers[group.name] = pc.if_else(pc.equal(part, ""), "0", part).cast(pa.int64()).to_numpy()
    numbers["day"] = np.where(found.is_valid().to_numpy(zero_copy_only=False), numbers["day"], -1)
    return numbers


def _to_microseconds(field: dict[str, Ids], hour: Ids, known: Mask) -> tuple[Times, Mask]:
    """Convert date and time of day to microseconds; impossible ones such as 30 February are not parsed."""
    month = ((field["year"] - 1970) * 12 + field["month"] - 1).astype("M8[M]")
    day = month.astype("M8[D]") + (field["day"] - 1)
    known = (
        known & (field["day"] >= 1) & (field["month"] >= 1) & (field["month"] <= 12) & (day.astype("M8[M]") == month)
    )
    known &= (hour < 24) & (field["minute"] < 60) & (field["second"] < 60)
    seconds = hour * 3600 + field["minute"] * 60 + field["second"]
    return np.where(known, day.astype(np.int64) * DAY + seconds * SECOND, 0), known
