"""The schemas, `conform`, and the page that documents them agree."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from recsys.errors import DataError
from recsys.offline.lake.lake import conform
from recsys.offline.lake.schemas import SCHEMA_VERSION, TABLES

EXAMPLE = {
    pa.int64(): 7,
    pa.int16(): 3,
    pa.uint16(): 2,
    pa.float32(): 0.5,
    pa.bool_(): True,
    pa.string(): "click",
    pa.timestamp("us", tz="UTC"): 1_767_571_200_000_000,
    pa.list_(pa.int64()): [1, 2],
    pa.list_(pa.float32()): [0.5],
}


def required_only(table):
    spec = TABLES[table]
    return {
        name: pa.array([EXAMPLE[spec.schema.field(name).type]], spec.schema.field(name).type) for name in spec.required
    }


@pytest.mark.parametrize("table", TABLES)
def test_required_columns_alone_make_a_valid_row_and_the_others_become_null(table):
    rows = conform(table, pa.table(required_only(table)))
    assert rows.schema.equals(TABLES[table].schema, check_metadata=True)
    assert rows.schema.metadata == {b"recsys.schema": SCHEMA_VERSION.encode()}
    optional = [name for name in rows.column_names if name not in TABLES[table].required]
    assert all(rows[name].null_count == 1 for name in optional)


@pytest.mark.parametrize(("table", "column"), [(table, name) for table in TABLES for name in TABLES[table].required])
def test_a_missing_required_column_is_refused_by_name(table, column):
    columns = required_only(table)
    del columns[column]
    with pytest.raises(DataError, match=rf"table {table}: .*{column}"):
        conform(table, pa.table(columns))


def test_a_column_of_the_wrong_type_is_refused_with_the_offending_value():
    columns = required_only("users") | {"user_id": pa.array(["anna"])}
    with pytest.raises(DataError, match=r"table users: .*anna"):
        conform("users", pa.table(columns))


def test_an_unknown_column_is_refused_by_name():
    columns = required_only("users") | {"langauge": pa.array(["en"])}
    with pytest.raises(DataError, match="table users has no column langauge; it has user_id, language"):
        conform("users", pa.table(columns))


def test_returned_impressions_and_actions_share_the_columns_of_the_join():
    for table in ("returned", "impressions", "actions"):
        assert {"request_id", "user_id", "post_id"} <= set(TABLES[table].required)
    assert "request_id" in TABLES["requests"].required


def test_allowed_values_are_given_for_existing_columns_only():
    for spec in TABLES.values():
        assert set(spec.enums) <= set(spec.schema.names)


@pytest.mark.parametrize("table", TABLES)
def test_the_data_page_lists_the_columns_of_the_table(table):
    page = (Path(__file__).resolve().parents[3] / "data" / "README.md").read_text()
    (line,) = re.findall(rf"^\| [^|]*`{table}`[^|]*\| (.*) \|$", page, re.M)
    columns = re.findall(r"(\*\*)?`(\w+)`", line)
    assert [name for _, name in columns] == TABLES[table].schema.names
    assert [name for bold, name in columns if bold] == TABLES[table].required
