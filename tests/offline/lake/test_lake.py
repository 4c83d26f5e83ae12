"""Files are whole or absent, bad rows are quarantined and counted, older files still read."""

import subprocess
import sys
import textwrap
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import lake as lake_module
from recsys.offline.lake.schemas import TABLES

TIME = pa.timestamp("us", tz="UTC")
ACTION = {
    "event_id": 1,
    "request_id": 2,
    "user_id": 3,
    "post_id": 4,
    "type": "click",
    "event_time": 5,
    "ingest_time": 6,
}


@pytest.fixture
def outside(tmp_path):
    """`outside(table, rows)` writes a file as another program would: without our schema, all columns nullable."""

    def write(table, rows, date="2026-01-05", name="other"):
        folder = tmp_path / "lake" / table / f"date={date}"
        folder.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(column for row in rows for column in row))
        columns = {c: pa.array([row.get(c) for row in rows], TABLES[table].schema.field(c).type) for c in names}
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
        return folder / f"{name}.parquet"

    return write


def ids(rows):
    return rows["user_id"].to_pylist()


def everything_below(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_rows_read_back_as_written_with_nulls_for_missing_columns(lake, put):
    put("users", user_id=[1, 2], language=["en", None], created_at=[10, 20])
    rows = lake.read("users")
    assert rows.column_names == ["user_id", "language", "country", "created_at"]
    assert ids(rows) == [1, 2]
    assert rows["language"].to_pylist() == ["en", None]
    assert rows["country"].to_pylist() == [None, None]
    assert rows["created_at"].cast(pa.int64()).to_pylist() == [10, 20]


def test_an_absent_table_is_empty_and_has_the_columns_asked_for(lake):
    rows = lake.read("actions", ["type", "user_id"])
    assert (len(rows), rows.column_names) == (0, ["type", "user_id"])


def test_files_come_in_order_of_date_then_name(lake, put):
    for date, name, user in (("2026-01-06", "a", 3), ("2026-01-05", "b", 2), ("2026-01-05", "a", 1)):
        put("users", date, name, user_id=[user], created_at=[0])
    assert ids(lake.read("users")) == [1, 2, 3]


def test_files_are_parquet_partitioned_by_date_text_as_zstd_and_numbers_as_lz4(lake, put, tmp_path):
    put("users", user_id=[1], created_at=[0])
    file = pq.ParquetFile(tmp_path / "lake" / "users" / "date=2026-01-05" / "part.parquet")
    columns = [file.metadata.row_group(0).column(i) for i in range(4)]
    assert [column.compression for column in columns] == ["LZ4", "ZSTD", "ZSTD", "LZ4"]
    assert all("DELTA_BINARY_PACKED" in columns[i].encodings for i in (0, 3))


def test_writing_the_same_file_again_replaces_it(lake, put):
    put("users", user_id=[1], created_at=[0])
    put("users", user_id=[2], created_at=[0])
    assert ids(lake.read("users")) == [2]


def test_a_failed_write_leaves_no_file(lake, put, tmp_path, monkeypatch):
    write_table = pq.write_table

    def full_disk(*args, **kwargs):
        write_table(*args, **kwargs)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lake_module.pq, "write_table", full_disk)
    with pytest.raises(OSError, match="No space left"):
        put("users", user_id=[1], created_at=[0])
    assert everything_below(tmp_path / "lake") == []


def test_a_writer_killed_before_the_rename_leaves_nothing_visible_and_can_run_again(lake, put, tmp_path):
    program = """
        import os, sys
        import pyarrow as pa
        from recsys.offline.lake import lake
        write_table = lake.pq.write_table
        def killed(*args, **kwargs):
            write_table(*args, **kwargs)
            os._exit(9)
        lake.pq.write_table = killed
        time = pa.array([0], pa.timestamp("us", tz="UTC"))
        rows = pa.table({"user_id": pa.array([1]), "created_at": time})
        lake.Lake(sys.argv[1]).write("users", rows, "2026-01-05", "part")
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "lake")]
    assert subprocess.run(command, check=False).returncode == 9
    assert len(everything_below(tmp_path / "lake")) == 1, "the temporary file was written"
    assert lake.files("users") == []
    assert len(lake.read("users")) == 0
    put("users", user_id=[1], created_at=[0])
    assert ids(lake.read("users")) == [1]


def test_bad_rows_are_quarantined_with_reason_and_counted(lake, outside, tmp_path):
    path = outside(
        "actions", [ACTION, ACTION | {"request_id": None}, ACTION | {"type": "wave"}, ACTION | {"type": "wave"}]
    )
    assert lake.read("actions", ["user_id"]).to_pylist() == [{"user_id": 3}]
    unknown = "actions.type is not one of click, like, share, hide, dwell"
    assert lake.quarantined == {"actions.request_id is null": 1, unknown: 2}
    (kept,) = (tmp_path / "lake" / "quarantine" / "actions").iterdir()
    rows = pq.read_table(kept).to_pylist()
    assert [row["reason"] for row in rows] == ["actions.request_id is null", unknown, unknown]
    assert {row["file"] for row in rows} == {str(path)}
    assert [row["type"] for row in rows] == ["click", "wave", "wave"]
    assert [row["line"] for row in rows] == [1, 2, 3]
    assert all(row["event_id"] == 1 for row in rows), "columns outside the read are kept too"


def test_a_row_that_breaks_two_rules_is_counted_under_the_first(lake, outside):
    outside("actions", [ACTION | {"post_id": None, "type": "wave"}])
    lake.read("actions")
    assert lake.quarantined == {"actions.post_id is null": 1}


def test_bad_rows_read_twice_count_once(lake, outside, tmp_path):
    outside("actions", [ACTION, ACTION | {"request_id": None}])
    lake.read("actions", ["post_id"])
    lake.read("actions")
    lake.read("actions", ["user_id"])
    assert lake.quarantined == {"actions.request_id is null": 1}
    assert len(everything_below(tmp_path / "lake" / "quarantine")) == 1


def test_a_missing_required_column_quarantines_all_rows_of_the_file(lake, outside):
    outside("users", [{"user_id": 1, "language": "en"}])
    assert len(lake.read("users", ["user_id"])) == 0
    assert lake.quarantined == {"users.created_at is null": 1}


def test_an_older_file_without_a_nullable_column_reads_as_null(lake, outside, put):
    outside("users", [{"user_id": 1, "created_at": 0}], name="a-old")
    put("users", name="b-new", user_id=[2], country=["FR"], created_at=[0])
    assert lake.read("users")["country"].to_pylist() == [None, "FR"]
    assert not lake.quarantined


def damage(path, how):
    content = path.read_bytes()
    path.write_bytes({"garbage": b"not parquet", "empty": b"", "cut": content[: len(content) // 2]}[how])


@pytest.mark.parametrize("how", ["garbage", "empty", "cut"])
def test_an_unreadable_file_is_quarantined_and_counted_and_the_others_are_read(lake, outside, put, tmp_path, how):
    bad = outside("users", [{"user_id": 1, "created_at": 0}], name="bad")
    damage(bad, how)
    content = bad.read_bytes()
    put("users", name="good", user_id=[2], created_at=[0])
    assert ids(lake.read("users")) == [2]
    assert ids(lake.read("users")) == [2]
    assert lake.quarantined == {"unreadable_file": 1}
    assert not bad.exists()
    (moved,) = (tmp_path / "lake" / "quarantine" / "users").iterdir()
    assert moved.name.startswith("bad.parquet.")
    assert moved.read_bytes() == content


def test_a_file_that_the_system_refuses_to_open_stays_where_it_is(lake, put, monkeypatch):
    put("users", user_id=[1], created_at=[0])

    class Refusing(fs.LocalFileSystem):
        def open_input_file(self, path):
            raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(lake, "filesystem", Refusing())
        with pytest.raises(DataError, match=r"part\.parquet cannot be opened: .*Permission denied"):
            lake.read("users")
    assert ids(lake.read("users")) == [1]


def test_deleting_tables_ignores_absent_ones(lake, put):
    put("users", user_id=[1], created_at=[0])
    lake.delete_tables(["users", "posts"])
    assert lake.files("users") == []


def test_a_lake_records_whether_its_last_run_finished(lake):
    assert lake.info() == {}
    lake.begin()
    with pytest.raises(DataError, match=r"are incomplete.*run `recsys simulate` again"):
        lake.info()
    lake.finish({"origin": "world", "logs_end": 5})
    assert lake.info() == {"complete": True, "origin": "world", "logs_end": 5}
    lake.begin()
    with pytest.raises(DataError, match="are incomplete"):
        lake.info()


def test_a_lake_file_that_is_not_json_is_named(lake, tmp_path):
    lake.finish({})
    (tmp_path / "lake" / "_lake.json").write_text("{")
    with pytest.raises(DataError, match=r"_lake\.json is not JSON"):
        lake.info()
    (tmp_path / "lake" / "_lake.json").write_text("[]")
    with pytest.raises(DataError, match=r"_lake\.json is not a JSON object"):
        lake.info()


def test_a_file_that_vanishes_before_it_is_read_makes_the_read_repeat(lake, put, monkeypatch):
    put("users", user_id=[1], created_at=[0])
    (there,) = lake.stored_files("users")
    listings = [[there], [there, fs.FileInfo(f"{there.path}.gone.parquet", fs.FileType.File, size=4)]]
    monkeypatch.setattr(lake, "stored_files", lambda table: listings.pop() if len(listings) > 1 else listings[0])
    assert ids(lake.read("users")) == [1]
    assert not lake.quarantined


def test_a_table_that_never_stops_changing_raises_an_error_with_its_name(lake, put, monkeypatch):
    gone = fs.FileInfo(f"{lake.root}/users/gone.parquet", fs.FileType.File, size=4)
    monkeypatch.setattr(lake, "stored_files", lambda table: [gone])
    with pytest.raises(DataError, match=r"table users of .* changes while it is read: .*gone\.parquet"):
        lake.read("users")


def test_a_writer_killed_at_any_moment_leaves_whole_files_only(lake, put, tmp_path):
    program = """
        import sys
        import numpy as np, pyarrow as pa
        from recsys.offline.lake.lake import Lake
        lake = Lake(sys.argv[1])
        for number in range(1, 1_000_000):
            ids = pa.array(np.full(20_000 + number, number))
            times = pa.array(np.zeros(len(ids), int)).cast(pa.timestamp("us", "UTC"))
            rows = pa.table({"user_id": ids, "created_at": times})
            lake.write("users", rows, "2026-01-05", "part")
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "lake")])
    try:
        end = time.monotonic() + 60
        while not lake.files("users"):
            assert writer.poll() is None
            assert time.monotonic() < end, "the writer never wrote"
            time.sleep(0.01)
        time.sleep(0.1)
    finally:
        writer.kill()
        writer.wait()
    (number,) = set(ids(lake.read("users")))
    assert len(lake.read("users")) == 20_000 + number
    assert not lake.quarantined
    put("users", user_id=[1], created_at=[0])
    assert ids(lake.read("users")) == [1]


def test_older_and_newer_versions_are_readable(lake, put, tmp_path):
    folder = tmp_path / "lake" / "requests" / "date=2026-01-05"
    folder.mkdir(parents=True)
    schema = TABLES["requests"].schema
    added = schema.get_field_index("session_id")
    old = pa.table({name: [1] for name in ("request_id", "user_id")} | {"now": pa.array([0], TIME)})
    old = old.cast(pa.schema([schema.field(name) for name in old.column_names], {"recsys.schema": "1"}))
    new = put_row(schema, request_id=2).append_column("mood", pa.array(["fine"]))
    new = new.replace_schema_metadata({"recsys.schema": "3"})
    pq.write_table(old, folder / "a.parquet")
    pq.write_table(new, folder / "b.parquet")
    put("requests", name="c", request_id=[3], user_id=[1], now=[0], session_id=[9])
    rows = lake.read("requests")
    assert rows.column_names == schema.names
    assert rows["request_id"].to_pylist() == [1, 2, 3]
    assert rows.column(added).to_pylist() == [None, None, 9]
    assert not lake.quarantined


def put_row(schema, **values):
    row = {"user_id": 1, "now": 0, **values}
    return pa.table({f.name: pa.array([row.get(f.name)], f.type) for f in schema})
