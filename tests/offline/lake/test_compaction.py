"""Compaction changes the number of files only: when killed at any step, and beside readers and writers."""

import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.lake import merged_files, storage
from recsys.offline.lake.compaction import STALE_S, compact
from recsys.offline.lake.description import describe
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES

from .faults import FaultyFilesystem, Killed

TIME = pa.timestamp("us", tz="UTC")


@pytest.fixture
def three_files(put):
    put("users", name="c", user_id=[5], created_at=[0])
    put("users", name="a", user_id=[1, 2], created_at=[0, 0], country=["FR", None])
    put("users", name="b", user_id=[3, 4], created_at=[0, 0])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "lake" / "users" / "date=2026-01-05"


def ids(lake):
    return lake.read("users")["user_id"].to_pylist()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_of_a_partition_become_one_with_the_same_rows_in_the_same_order(lake, three_files, folder):
    before = lake.read("users")
    sizes = sum(path.stat().st_size for path in folder.iterdir())
    result = compact(lake)
    assert names(folder) == ["a.merged.parquet"]
    assert lake.read("users").equals(before)
    assert result == {
        "users": {
            "files_before": 3,
            "files_after": 1,
            "bytes_before": sizes,
            "bytes_after": (folder / "a.merged.parquet").stat().st_size,
        }
    }


def test_files_of_different_partitions_or_tables_are_not_merged(lake, put):
    for date in ("2026-01-05", "2026-01-06"):
        for name in ("a", "b"):
            put("users", date, name, user_id=[1], created_at=[0])
            put("follows", date, name, user_id=[1], author_id=[2], created_at=[0])
    assert compact(lake, ["users"])["users"]["files_after"] == 2
    assert len(lake.files("follows")) == 4


def test_a_second_run_finds_nothing_to_do(lake, three_files, folder):
    compact(lake)
    before = (folder / "a.merged.parquet").stat().st_mtime_ns
    assert compact(lake)["users"]["files_before"] == 1
    assert (folder / "a.merged.parquet").stat().st_mtime_ns == before


def test_later_files_join_the_merged_one_also_in_front_of_it(lake, put, three_files, folder):
    compact(lake)
    put("users", name="d", user_id=[6], created_at=[0])
    compact(lake)
    assert names(folder) == ["a.merged.parquet"]
    put("users", name="A", user_id=[0], created_at=[0])
    assert ids(lake) == [0, 1, 2, 3, 4, 5, 6]
    compact(lake)
    assert names(folder) == ["A.merged.parquet"]
    assert ids(lake) == [0, 1, 2, 3, 4, 5, 6]


def test_merged_files_stay_within_target_bytes(lake, put, folder):
    for name in "abcd":
        put("users", name=name, user_id=[ord(name)], created_at=[0])
    size = (folder / "a.parquet").stat().st_size
    compact(lake, target_bytes=2 * size)
    assert names(folder) == ["a.merged.parquet", "c.merged.parquet"]
    assert ids(lake) == [ord(name) for name in "abcd"]


def dies_at(lake, step, monkeypatch):
    """Run a compaction that is killed before its nth change; whether it reached that change."""
    real = lake.filesystem
    lake.filesystem = FaultyFilesystem()
    lake.filesystem.left = step
    try:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "remove", lambda filesystem, path: None)  # a killed process does not clean up
            compact(lake)
    except Killed:
        return True
    finally:
        lake.filesystem = real
    return False


@pytest.mark.parametrize("merged_before", [False, True])
def test_killed_at_any_step_the_rows_are_the_same_and_a_rerun_completes(
    lake, put, three_files, folder, monkeypatch, merged_before
):
    if merged_before:
        compact(lake)
        put("users", name="d", user_id=[6], created_at=[0])
        put("users", name="e", user_id=[7], created_at=[0])
    before = lake.read("users")
    step = 1
    while dies_at(lake, step, monkeypatch):
        assert lake.read("users").equals(before), f"killed before step {step}"
        assert describe(lake)["tables"]["users"]["rows"] == len(before)
        step += 1
    assert step > 3, "a move and every delete were tried"
    assert lake.read("users").equals(before)
    assert [name for name in names(folder) if not name.endswith(".tmp")] == ["a.merged.parquet"]


def test_a_merged_file_counts_from_the_moment_it_has_its_name(lake, three_files):
    seen = []

    class Watching(fs.LocalFileSystem):
        def delete_file(self, path):
            seen.append(ids(lake))
            super().delete_file(path)
            seen.append(ids(lake))

    lake.filesystem = Watching()
    compact(lake)
    assert seen == [[1, 2, 3, 4, 5]] * 6


def test_writing_a_part_again_replaces_its_rows(lake, put, three_files, folder):
    compact(lake)
    put("users", name="b", user_id=[9], created_at=[0])
    assert ids(lake) == [1, 2, 9, 5]
    put("users", name="b", user_id=[3, 4], created_at=[0, 0])
    assert ids(lake) == [1, 2, 3, 4, 5]
    assert names(folder) == ["a.merged.parquet"]


def test_writing_a_part_again_beside_its_leftover_file_counts_once(lake, put, three_files, folder):
    leftover = (folder / "b.parquet").read_bytes()
    compact(lake)
    (folder / "b.parquet").write_bytes(leftover)
    assert ids(lake) == [1, 2, 3, 4, 5]
    put("users", name="b", user_id=[9], created_at=[0])
    assert ids(lake) == [1, 2, 9, 5]
    compact(lake)
    assert ids(lake) == [1, 2, 9, 5]


def test_a_part_can_be_deleted_and_is_listed_until_then(lake, three_files, folder):
    compact(lake)
    written = lake.written_paths("users")
    assert [path.rsplit("/", 1)[-1] for path in written] == ["a.parquet", "b.parquet", "c.parquet"]
    lake.delete_files([written[1]])
    assert ids(lake) == [1, 2, 5]
    lake.delete_files(lake.written_paths("users"))
    assert names(folder) == []


def test_a_different_file_with_the_name_of_a_part_is_refused_and_kept(lake, three_files, folder):
    compact(lake)
    strange = pa.table({"user_id": list(range(100)), "created_at": pa.array([0] * 100, TIME)})
    pq.write_table(strange, folder / "b.parquet")
    for touch in (lambda: lake.read("users"), lambda: compact(lake)):
        with pytest.raises(DataError, match=r"b\.parquet must not have the name of a file that .*a\.merged\.parquet"):
            touch()
    assert (folder / "b.parquet").exists()


def test_a_different_file_of_the_same_name_and_size_is_refused_and_kept(lake, put, folder):
    for name, user in (("a", 1), ("b", 2)):
        put("users", name=name, user_id=[user], created_at=[0])
    size = (folder / "b.parquet").stat().st_size
    compact(lake)
    put("users", "2026-01-06", "b", user_id=[3], created_at=[0])
    (folder.parent / "date=2026-01-06" / "b.parquet").rename(folder / "b.parquet")
    assert (folder / "b.parquet").stat().st_size == size
    for touch in (lambda: lake.read("users"), lambda: compact(lake)):
        with pytest.raises(DataError, match=r"b\.parquet must not have the name of a file that .*a\.merged\.parquet"):
            touch()
    put("users", name="b", user_id=[3], created_at=[0])
    assert ids(lake) == [1, 3]


def test_parts_without_digest_are_recognised_by_size(lake, put, three_files, folder):
    leftover = (folder / "b.parquet").read_bytes()
    compact(lake)
    path = folder / "a.merged.parquet"
    parts = [part._replace(digest=None)[:3] for part in merged_files.read_parts(lake.filesystem, str(path))]
    rows = pq.read_table(path, partitioning=None)
    pq.write_table(rows.replace_schema_metadata(merged_files.with_parts(rows.schema, parts).metadata), path)
    (folder / "b.parquet").write_bytes(leftover)
    assert ids(lake) == [1, 2, 3, 4, 5]
    compact(lake)
    assert names(folder) == ["a.merged.parquet"]


@pytest.mark.parametrize("moment", ["move", "delete_file"])
def test_a_part_that_is_replaced_after_the_rename_is_kept_and_reported(lake, three_files, folder, moment):
    strange = pa.table({"user_id": [7, 8, 9], "created_at": pa.array([0] * 3, TIME)})

    class Racing(fs.LocalFileSystem):
        def act(self, name, *paths):
            getattr(super(), name)(*paths)
            if name == moment:
                pq.write_table(strange, folder / "b.parquet")

        def move(self, *paths):
            self.act("move", *paths)

        def delete_file(self, path):
            self.act("delete_file", path)

    real, lake.filesystem = lake.filesystem, Racing()
    with pytest.raises(DataError, match=r"b\.parquet must not change while it is merged"):
        compact(lake)
    lake.filesystem = real
    assert pq.read_table(folder / "b.parquet", partitioning=None)["user_id"].to_pylist() == [7, 8, 9]
    lake.write("users", strange, "2026-01-05", "b")
    assert ids(lake) == [1, 2, 7, 8, 9, 5]
    compact(lake)
    assert names(folder) == ["a.merged.parquet"]


def after_the_first_listing(monkeypatch, act):
    """Act once, after a reader has chosen the current files and before it opens them."""
    current_files, waiting = merged_files.current_files, [act]

    def slowly(*args):
        found = current_files(*args)
        if waiting:
            waiting.pop()()
        return found

    monkeypatch.setattr(merged_files, "current_files", slowly)


def test_a_reader_between_a_rename_over_a_merged_file_and_the_deletes_sees_each_row_once(
    lake, put, three_files, folder, monkeypatch
):
    compact(lake)
    put("users", name="d", user_id=[6], created_at=[0])
    put("users", name="e", user_id=[7], created_at=[0])
    left = [(path, path.read_bytes(), path.stat()) for path in (folder / "d.parquet", folder / "e.parquet")]

    def merge_without_deletes():
        compact(Lake(lake.url))
        for path, content, was in left:
            path.write_bytes(content)
            os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    after_the_first_listing(monkeypatch, merge_without_deletes)
    assert ids(lake) == [1, 2, 3, 4, 5, 6, 7]
    after_the_first_listing(monkeypatch, lambda: None)
    assert describe(lake)["tables"]["users"]["rows"] == 7


def test_a_reader_whose_listing_missed_the_merged_file_and_a_part_sees_each_row_once(
    lake, three_files, folder, monkeypatch
):
    list_files = lake.stored_files
    compact_after = [1]

    def torn(table):
        found = list_files(table)
        if compact_after:
            compact_after.pop()
            compact(Lake(lake.url))
            return [info for info in found if info.base_name not in ("a.parquet", "b.parquet", "c.parquet")]
        return found

    monkeypatch.setattr(lake, "stored_files", torn)
    assert ids(lake) == [1, 2, 3, 4, 5]


def test_a_file_that_is_replaced_while_it_is_read_is_not_quarantined(lake, put, three_files, folder, monkeypatch):
    open_file, torn = pq.ParquetFile, []

    def replaced(source, **options):
        if not torn:
            torn.append(True)
            time.sleep(0.01)
            put("users", name="a", user_id=[7], created_at=[0])
            raise pa.ArrowInvalid("half of one file, half of another")
        return open_file(source, **options)

    monkeypatch.setattr(pq, "ParquetFile", replaced)
    assert ids(lake) == [7, 3, 4, 5]
    assert not lake.quarantined
    assert names(folder) == ["a.parquet", "b.parquet", "c.parquet"]


def test_describing_survives_a_compaction(lake, three_files, monkeypatch):
    after_the_first_listing(monkeypatch, lambda: compact(Lake(lake.url)))
    found = describe(lake)["tables"]["users"]
    assert (found["files"], found["rows"]) == (1, 5)


def test_bad_rows_count_once_when_their_file_is_merged_while_read(lake, three_files, folder, monkeypatch):
    bad = pa.table({"user_id": pa.array([None, 0]), "created_at": pa.array([0, 0], TIME)})
    pq.write_table(bad, folder / "Bad.parquet")
    read_file = lake._read_file

    def slowly(table, info, wanted, latest):
        rows = read_file(table, info, wanted, latest)
        if info.base_name == "Bad.parquet":
            compact(Lake(lake.url))
        return rows

    monkeypatch.setattr(lake, "_read_file", slowly)
    assert ids(lake) == [0, 1, 2, 3, 4, 5]
    assert lake.quarantined == describe(lake)["quarantine"] == {"users.user_id is null": 1}


def test_new_files_do_not_restart_a_read(lake, put, three_files, monkeypatch):
    read_file, read = lake._read_file, []

    def slowly(table, info, wanted, latest):
        put("users", name=f"z{len(read)}", user_id=[9], created_at=[0])
        read.append(info.path)
        return read_file(table, info, wanted, latest)

    monkeypatch.setattr(lake, "_read_file", slowly)
    assert ids(lake) == [1, 2, 3, 4, 5]
    assert len(read) == 3


def test_only_the_date_that_changes_is_read_again(lake, put, three_files, monkeypatch):
    put("users", "2026-01-06", "a", user_id=[6], created_at=[0])
    read_file, read = lake._read_file, []

    def slowly(table, info, wanted, latest):
        rows = read_file(table, info, wanted, latest)
        read.append(info.path.split("date=")[1])
        if read[-1].startswith("2026-01-06"):
            compact(Lake(lake.url))
        return rows

    monkeypatch.setattr(lake, "_read_file", slowly)
    assert ids(lake) == [1, 2, 3, 4, 5, 6]
    assert read == [f"2026-01-0{file}.parquet" for file in ("5/a", "5/b", "5/c", "6/a", "5/a.merged")]


def test_a_file_that_changes_while_it_is_merged_is_not_lost(lake, put, three_files, monkeypatch):
    from recsys.offline.lake import compaction

    write = compaction._write

    def write_slowly(*args):
        write(*args)
        put("users", name="b", user_id=[7, 8, 9], created_at=[0, 0, 0])

    monkeypatch.setattr(compaction, "_write", write_slowly)
    with pytest.raises(DataError, match="changed while they were merged; run `recsys lake compact` again"):
        compact(lake)
    assert ids(lake) == [1, 2, 7, 8, 9, 5]


def test_bad_rows_are_merged_too_and_count_once(lake, put, three_files, folder):
    bad = pa.table({"user_id": pa.array([None, 6]), "created_at": pa.array([0, 0], TIME)})
    pq.write_table(bad, folder / "bad.parquet")
    assert ids(lake) == [1, 2, 3, 4, 6, 5]
    compact(lake)
    assert ids(lake) == [1, 2, 3, 4, 6, 5]
    assert lake.quarantined == describe(lake)["quarantine"] == {"users.user_id is null": 1}


def test_unreadable_files_and_files_of_other_types_are_not_merged(lake, three_files, put, folder):
    put("users", name="x", user_id=[6], created_at=[0])
    put("users", name="y", user_id=[7], created_at=[0])
    text = pa.table({"user_id": ["8"], "created_at": pa.array([0], TIME)})
    pq.write_table(text, folder / "d.parquet")
    (folder / "e.parquet").write_bytes(b"not parquet")
    compact(lake)
    assert names(folder) == ["a.merged.parquet", "d.parquet", "e.parquet", "x.merged.parquet"]
    assert ids(lake) == [1, 2, 3, 4, 5, 8, 6, 7]
    assert lake.quarantined == {"unreadable_file": 1}


def test_columns_of_older_and_newer_versions_are_kept(lake, put, three_files, folder):
    old = pa.table({"user_id": [6], "created_at": pa.array([0], TIME)}).replace_schema_metadata({"recsys.schema": "1"})
    new = pa.table({"user_id": [7], "created_at": pa.array([0], TIME), "mood": ["fine"]})
    pq.write_table(old, folder / "d.parquet")
    pq.write_table(new.replace_schema_metadata({"recsys.schema": "10"}), folder / "e.parquet")
    compact(lake)
    (path,) = folder.iterdir()
    rows = pq.read_table(path, partitioning=None)
    assert rows["mood"].to_pylist() == [None] * 6 + ["fine"]
    assert pq.read_schema(path).metadata[b"recsys.schema"] == b"10"
    assert ids(lake) == [1, 2, 3, 4, 5, 6, 7]


def test_lists_and_nulls_survive(lake, put):
    for name, lists in (("a", [[1, 2], None]), ("b", [[], [3]])):
        put("requests", name=name, request_id=[1, 2], user_id=[1, 1], now=[0, 0], candidates=lists)
    before = lake.read("requests")
    compact(lake)
    assert lake.read("requests").equals(before)
    assert before["candidates"].to_pylist() == [[1, 2], None, [], [3]]


def test_temporary_files_are_removed_once_they_are_old(lake, three_files, folder):
    for name, age in ((".old.1234.tmp", STALE_S + 60), (".new.1234.tmp", STALE_S - 600)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    compact(lake)
    assert names(folder) == [".new.1234.tmp", "a.merged.parquet"]


def test_an_incomplete_lake_is_refused(lake, three_files):
    lake.begin()
    with pytest.raises(DataError, match="are incomplete"):
        compact(lake)
    assert len(lake.files("users")) == 3


def test_an_unknown_table_is_named(lake):
    with pytest.raises(DataError, match="there is no table user; the tables are users, posts"):
        compact(lake, ["user"])


def test_every_table_can_be_merged(lake):
    example = {
        "int64": 1,
        "int16": 1,
        "uint16": 1,
        "float": 0.5,
        "bool": True,
        "timestamp[us, tz=UTC]": 0,
        "string": "x",
    }
    for table, spec in TABLES.items():
        enums = {name: allowed[0] for name, allowed in spec.enums.items()}
        row = {f.name: enums.get(f.name, example.get(str(f.type))) for f in spec.schema}
        for name in "ab":
            lake.write(table, pa.Table.from_pylist([row], spec.schema), "2026-01-05", name)
    compact(lake)
    assert {table: (len(lake.files(table)), len(lake.read(table))) for table in TABLES} == dict.fromkeys(TABLES, (1, 2))


def test_columns_of_types_outside_the_schemas_are_merged_too(lake, tmp_path):
    folder = tmp_path / "lake" / "users" / "date=2026-01-05"
    folder.mkdir(parents=True)
    strange = {
        "language": pa.array(["en"], pa.large_string()),
        "where": pa.array([{"x": 1.5, "names": ["a"]}]),
        "raw": pa.array([b"\xff"]),
        "kind": pa.array(["a"]).dictionary_encode(),
        "many": pa.array([[1]], pa.large_list(pa.int64())),
        "price": pa.array([1], pa.int64()).cast(pa.decimal128(21, 2)),
    }
    for name in "ab":
        pq.write_table(
            pa.table({"user_id": [1], "created_at": pa.array([0], TIME), **strange}), folder / f"{name}.parquet"
        )
    before = pq.read_table(folder / "a.parquet", partitioning=None)
    compact(lake)
    after = pq.read_table(folder / "a.merged.parquet", partitioning=None)
    assert after.to_pylist() == before.to_pylist() * 2
    assert after.schema.equals(before.schema)
    assert lake.read("users")["language"].to_pylist() == ["en", "en"]
