"""Every broken rule gives a reason; a bad value costs only its row; the columns read do not matter."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES
from recsys.types import DAY

TIME = pa.timestamp("us", tz="UTC")
NOW = 1_767_571_200_000_000
IDS = {"request_id": 2, "user_id": 3, "post_id": 4}
EVENT = {"event_id": 1, **IDS, "event_time": NOW, "ingest_time": NOW}
ROW = {
    "impressions": {**EVENT, "position": 0},
    "actions": {**EVENT, "type": "dwell", "value": 1.0},
    "returned": {**IDS, "position": 0, "now": NOW, "propensity": 0.5},
    "requests": {"request_id": 2, "user_id": 3, "now": NOW, "candidates": [1, 2]},
    "users": {"user_id": 3, "language": "en", "created_at": NOW},
}


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"), now=NOW)


@pytest.fixture
def outside(tmp_path):
    """`outside(table, column=array)` writes rows that are valid except for these columns."""

    def write(table, **columns):
        n = len(next(iter(columns.values())))
        schema = TABLES[table].schema
        good = {name: pa.array([value] * n, schema.field(name).type) for name, value in ROW[table].items()}
        folder = tmp_path / "lake" / table / "date=2026-01-05"
        folder.mkdir(parents=True)
        pq.write_table(pa.table(good | columns), folder / "part.parquet")

    return write


def typed(table, column, values):
    return pa.array(values, TABLES[table].schema.field(column).type)


@pytest.mark.parametrize(
    ("table", "column", "values", "reason"),
    [
        ("returned", "propensity", [0.0, 0.5, 1.0, 1.5, -1.0, math.nan, None], "is not above 0 and at most 1"),
        ("returned", "position", [-1, 3, 0, -7, -1, -1, 0], "is not at least 0"),
        ("impressions", "position", [-1, 3, 0, -7, -1, -1, None], "is not at least 0"),
        ("actions", "value", [-1.0, 0.0, 3.5, math.inf, math.nan, -math.inf, None], "is not at least 0"),
    ],
)
def test_out_of_range_numbers_are_quarantined_and_nulls_are_not(lake, outside, table, column, values, reason):
    outside(table, **{column: typed(table, column, values)})
    assert lake.read(table, ["user_id", column])[column].to_pylist() == [values[1], values[2], values[6]]
    assert lake.quarantined == {f"{table}.{column} {reason}": 4}


@pytest.mark.parametrize(
    ("table", "column"),
    [("impressions", "event_time"), ("actions", "ingest_time"), ("requests", "now"), ("users", "created_at")],
)
def test_times_before_1970_and_later_than_tomorrow_are_quarantined(lake, outside, table, column):
    outside(table, **{column: pa.array([-1, 0, NOW, NOW + DAY, NOW + DAY + 1], TIME)})
    assert lake.read(table, [column])[column].cast(pa.int64()).to_pylist() == [0, NOW, NOW + DAY]
    assert lake.quarantined == {f"{table}.{column} is before 1970": 1, f"{table}.{column} is in the future": 1}


def test_an_event_may_arrive_before_it_happened_by_the_clients_clock(lake, outside):
    outside("impressions", event_time=pa.array([NOW], TIME), ingest_time=pa.array([NOW - DAY], TIME))
    assert len(lake.read("impressions")) == 1


def test_by_default_the_future_begins_a_day_after_the_wall_clock(tmp_path, outside):
    outside("users", created_at=pa.array([NOW, NOW + 10_000 * DAY], TIME))
    lake = Lake(str(tmp_path / "lake"))
    assert len(lake.read("users")) == 1
    assert lake.quarantined == {"users.created_at is in the future": 1}


def test_the_times_of_a_world_may_be_in_the_future(lake, outside):
    outside("users", created_at=pa.array([NOW + 1000 * DAY], TIME))
    lake.finish({"origin": "world", "logs_end": NOW + 900 * DAY})
    assert len(lake.read("users")) == 1
    lake.finish({"origin": "import"})
    assert len(lake.read("users")) == 0


@pytest.mark.parametrize(
    ("table", "column", "values", "good", "words"),
    [
        ("users", "user_id", pa.array(["7", "abc", "8"]), [7, 8], "int64"),
        ("users", "user_id", pa.array([7.0, 7.5, 8.0]), [7, 8], "int64"),
        ("impressions", "position", pa.array([3, 70_000, 4], pa.int64()), [3, 4], "int16"),
        ("requests", "candidates", pa.array([["1"], ["2", "x"], None]), [[1], None], "list<int64>"),
        ("users", "language", pa.array([b"en", b"\xff\xfe", b"de"]).view(pa.string()), ["en", "de"], "string"),
    ],
)
def test_a_value_of_the_wrong_type_costs_only_its_row(lake, outside, tmp_path, table, column, values, good, words):
    outside(table, **{column: values})
    assert lake.read(table, [column])[column].to_pylist() == good
    assert lake.quarantined == {f"{table}.{column} is not {words}": 1}
    (kept,) = (tmp_path / "lake" / "quarantine" / table).iterdir()
    assert pq.read_table(kept, columns=["line"])["line"].to_pylist() == [1]


def test_times_as_text_are_read_if_they_have_a_zone(lake, outside):
    outside("users", created_at=pa.array(["2026-01-05T00:00:00Z", "yesterday"]))
    assert lake.read("users")["created_at"].cast(pa.int64()).to_pylist() == [NOW]
    assert lake.quarantined == {"users.created_at is not a time": 1}


def test_nanoseconds_are_truncated_to_microseconds(lake, outside):
    outside("users", created_at=pa.array([NOW * 1000 + 1], pa.timestamp("ns")))
    assert lake.read("users")["created_at"].cast(pa.int64()).to_pylist() == [NOW]


def test_a_column_that_cannot_be_cast_costs_every_row_with_a_value(lake, outside):
    outside("users", language=pa.array([{"code": "en"}, None]))
    assert len(lake.read("users")) == 1
    assert lake.quarantined == {"users.language is not string": 1}


def test_which_rows_are_valid_does_not_depend_on_the_columns_that_are_read(lake, outside):
    outside("requests", candidates=pa.array([["1"], ["x"]]))
    assert len(lake.read("requests", ["request_id"])) == len(lake.read("requests")) == 1


def test_many_bad_values_among_many_good_ones_are_all_found(lake, outside):
    text = np.arange(5000).astype(str).astype(object)
    text[::7] = "bad"
    outside("users", user_id=pa.array(text, pa.string()))
    assert lake.read("users")["user_id"].to_pylist() == [number for number in range(5000) if number % 7]
    assert lake.quarantined == {"users.user_id is not int64": 715}
