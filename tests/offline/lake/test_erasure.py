"""Erasing a person removes their rows everywhere, also after a crash at any step; other rows keep every value."""

import os
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from recsys.errors import DataError
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.lake import merged_files, storage
from recsys.offline.lake.compaction import compact
from recsys.offline.lake.erasure import PERSONAL, erase
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import TABLES

from .faults import FaultyFilesystem, Killed

ANN = to_int64("Ann")
OTHERS = (1, 5)


@pytest.fixture
def full(lake, put):
    """Rows of Ann and of users 1 and 5 in every table with users; the files of the second date are all Ann's."""
    made = {"created_at": lambda n: list(range(n)), "now": lambda n: list(range(n))}
    for table in PERSONAL:
        schema = TABLES[table].schema
        for date, name, users in (
            ("2026-01-05", "a", [1, ANN, 5, ANN]),
            ("2026-01-05", "b", [5, 1]),
            ("2026-01-06", "a", [ANN, ANN]),
        ):
            n = len(users)
            columns = {"user_id": users}
            for column in schema:
                if column.name == "user_id" or column.nullable:
                    continue
                if pa.types.is_timestamp(column.type) or pa.types.is_integer(column.type):
                    columns[column.name] = made.get(column.name, lambda n: [7 + i for i in range(n)])(n)
                else:
                    columns[column.name] = ["click"] * n
            put(table, date, name, **columns)
    put("returned", "2026-01-07", "more", request_id=[1, 2], user_id=[5, ANN], post_id=[3, 4], position=[0, 1],
        now=[9, 9], propensity=[0.5, 0.25], sources=[3, 1], score=[0.1, None], features=[[1.5], [3.5, 2]])  # fmt: skip
    put("ids", kind=["user", "post", "user"], id=[ANN, ANN, 5], name_=["Ann", "a post", "Bob"])
    put("posts", post_id=[10, 11], author_id=[ANN, 1], created_at=[0, 0], visible=[True, True])
    return lake


def rows_of_others(lake):
    found = {}
    for table in PERSONAL:
        rows = lake.read(table)
        found[table] = rows.filter(pc.not_equal(rows["user_id"], ANN))
    return found


def files_with_ann(lake):
    """Paths of all files below the lake, hidden ones too, with her number or name in a column."""
    found = []
    for info in lake.filesystem.get_file_info(fs.FileSelector(lake.root, recursive=True)):
        if info.type != fs.FileType.File or info.extension == "json" or "/posts/" in info.path:
            continue
        rows = pq.read_table(info.path, partitioning=None)
        if "kind" in rows.column_names:
            rows = rows.filter(pc.not_equal(rows["kind"], "post"))
        text = " ".join(str(rows[name].to_pylist()) for name in rows.column_names if name not in ("name", "file"))
        if str(ANN) in text or "Ann" in text:
            found.append(info.path)
    return found


def test_a_person_is_removed_from_every_table_and_others_keep_every_value(full):
    before, posts = rows_of_others(full), full.read("posts")
    assert all(len(rows) >= 4 for rows in before.values())
    result = erase(full, ANN, "Ann")
    after = rows_of_others(full)
    assert all(after[table].equals(before[table]) for table in PERSONAL)
    assert files_with_ann(full) == []
    assert {table: (removed.rows, removed.files) for table, removed in result.tables.items()} == {
        "users": (4, 2), "follows": (4, 2), "blocks": (4, 2), "requests": (4, 2), "returned": (5, 3),
        "impressions": (4, 2), "actions": (4, 2), "ids": (1, 1),
    }  # fmt: skip
    assert full.read("posts").equals(posts)
    assert result.authored_posts == 1


def test_a_second_run_removes_nothing(full):
    erase(full, ANN, "Ann")
    again = erase(full, ANN, "Ann")
    assert sum(removed.rows + removed.files for removed in again.tables.values()) == 0


def test_erasing_an_unknown_user_changes_no_file(full):
    before = {info.path: info for table in TABLES for info in full.file_infos(table)}
    result = erase(full, 77, "77")
    assert sum(removed.rows for removed in result.tables.values()) == 0
    assert all(
        merged_files.identity(full.filesystem.get_file_info(path)) == merged_files.identity(before[path])
        for path in before
    )


def test_erasing_from_an_empty_lake_creates_nothing(lake):
    assert erase(lake, 5, "5").quarantine.rows == 0
    assert not lake.exists()


def test_only_files_with_the_person_are_rewritten_and_empty_ones_are_deleted(full, tmp_path):
    other = tmp_path / "lake/actions/date=2026-01-05/b.parquet"
    before = other.stat()
    erase(full, ANN, "Ann")
    assert (other.stat().st_mtime_ns, other.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert [path.split("lake/")[1] for path in full.files("actions")] == [
        "actions/date=2026-01-05/a.parquet", "actions/date=2026-01-05/b.parquet",
    ]  # fmt: skip


def test_names_are_removed_but_not_of_a_post_with_the_same_number(full):
    erase(full, ANN, "Ann")
    assert full.read("ids").select(["kind", "name"]).to_pylist() == [
        {"kind": "post", "name": "a post"}, {"kind": "user", "name": "Bob"},
    ]  # fmt: skip


def test_files_without_the_person_are_read_by_one_column_only(full, monkeypatch):
    full.delete_tables(["ids"])
    asked = Counter()
    read = pq.ParquetFile.read

    def counted(self, columns=None, **options):
        asked[tuple(columns)] += 1
        return read(self, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", counted)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *_: pytest.fail("no file needs rewriting"))
    erase(full, 77, "77")
    assert set(asked) == {("user_id",)}


def test_a_rewritten_file_keeps_order_row_groups_version_and_unknown_columns(lake, put, tmp_path):
    put("users", user_id=[1], created_at=[0])
    path = tmp_path / "lake/users/date=2026-01-05/part.parquet"
    schema = TABLES["users"].schema.append(pa.field("added_later", pa.string())).with_metadata({"recsys.schema": "9"})
    n = 1000
    users = np.where(np.arange(n) % 3 == 0, 4, np.arange(n))
    columns = [users, [None] * n, ["FR"] * n, pa.array([0] * n, pa.timestamp("us", "UTC")), [f"x{i}" for i in range(n)]]
    rows = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    pq.write_table(rows, path, row_group_size=100)
    erase(lake, 4, "4")
    after = pq.read_table(path, partitioning=None)
    assert after.equals(rows.filter(pa.array(users != 4)), check_metadata=True)
    assert pq.read_metadata(path).num_row_groups == 10


def test_merged_files_keep_their_parts(full, put):
    compact(full)
    before = rows_of_others(full)
    erase(full, ANN, "Ann")
    assert files_with_ann(full) == []
    assert all(rows.equals(before[table]) for table, rows in rows_of_others(full).items())
    (merged,) = full.files("follows")
    assert [(part.name, part.rows) for part in merged_files.read_parts(full.filesystem, merged)] == [("a", 2), ("b", 2)]
    put("follows", "2026-01-05", "a", user_id=[8], author_id=[1], created_at=[0])
    assert full.read("follows")["user_id"].to_pylist() == [8, 5, 1]
    assert full.files("follows") == [merged]


def test_leftovers_of_a_compaction_are_removed_too(full, tmp_path):
    folder = tmp_path / "lake/users/date=2026-01-05"
    left_over = (folder / "a.parquet").read_bytes()
    compact(full)
    (folder / "a.parquet").write_bytes(left_over)
    before = rows_of_others(full)
    erase(full, ANN, "Ann")
    assert files_with_ann(full) == []
    assert rows_of_others(full)["users"].equals(before["users"])


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 9, 14, 20, 24])
def test_killed_at_any_step_the_next_run_completes_the_erasure(full, step, merged):
    if merged:
        compact(full, ["users", "actions", "returned"])
    before = rows_of_others(full)
    dying = Lake(full.url)
    dying.filesystem = FaultyFilesystem()
    dying.filesystem.left = step
    with pytest.raises(Killed):
        erase(dying, ANN, "Ann")
    assert all(rows.equals(before[table]) for table, rows in rows_of_others(full).items())
    erase(full, ANN, "Ann")
    assert files_with_ann(full) == []
    assert all(rows.equals(before[table]) for table, rows in rows_of_others(full).items())


def test_a_read_only_lake_raises_and_stays_unchanged(full):
    before = {table: full.read(table) for table in TABLES}
    full.filesystem = FaultyFilesystem()
    full.filesystem.left, full.filesystem.fault = 3, OSError(30, "Read-only file system")
    with pytest.raises(OSError, match="Read-only"):
        erase(full, ANN, "Ann")
    full.filesystem = fs.LocalFileSystem()
    assert full.read("actions").equals(before["actions"])
    assert not full.quarantine_counts()


def test_a_write_error_without_errno_does_not_quarantine_an_intact_file(full):
    full.filesystem = FaultyFilesystem()
    full.filesystem.left, full.filesystem.fault = 1, OSError("the far side hung up")
    with pytest.raises(OSError, match="hung up"):
        erase(full, ANN, "Ann")
    assert not full.quarantine_counts()


def test_a_file_that_is_replaced_meanwhile_is_searched_again(lake, put, tmp_path, monkeypatch):
    put("users", user_id=[5, 6], created_at=[0, 0])
    path = tmp_path / "lake/users/date=2026-01-05/part.parquet"
    copy_rows, written = merged_files._copy_rows, []

    def meanwhile(*arguments):
        copy_rows(*arguments)
        if not written:
            put("users", user_id=[7, 5, 8], created_at=[0, 0, 0])
            os.utime(path, ns=(1, 1))
        written.append(path)

    monkeypatch.setattr(merged_files, "_copy_rows", meanwhile)
    result = erase(lake, 5, "5")
    assert lake.read("users")["user_id"].to_pylist() == [7, 8]
    assert (result.tables["users"].rows, len(written)) == (1, 2)


def test_a_table_that_never_stops_changing_raises_an_error(lake, put, monkeypatch):
    put("users", user_id=[5], created_at=[0])

    def changed(*_):
        raise FileNotFoundError

    monkeypatch.setattr(lake, "delete_rows", changed)
    with pytest.raises(DataError, match="keeps changing; erase again"):
        erase(lake, 5, "5")


def test_user_ids_of_other_column_types_are_found(lake, tmp_path):
    folder = tmp_path / "lake/follows/date=2026-01-05"
    folder.mkdir(parents=True)
    times = pa.array([0] * 5, pa.timestamp("us", "UTC"))
    for name, users in (
        ("text", pa.array(["Ann", " 05", "x", str(ANN), None])),
        ("small", pa.array([5, 1, 2, 3, 4], pa.int8())),
        ("float", pa.array([5.0, 1.5, None, float("nan"), 2.0])),
        ("dictionary", pa.array(["Ann", "b", "c", "d", "e"]).dictionary_encode()),
    ):
        pq.write_table(
            pa.table({"user_id": users, "author_id": [1] * 5, "created_at": times}), folder / f"{name}.parquet"
        )
    assert erase(lake, ANN, "Ann").tables["follows"].rows == 3
    assert erase(lake, 5, "5").tables["follows"].rows == 3


def test_quarantined_rows_are_removed_and_those_of_others_stay(lake, put, tmp_path):
    put("impressions", event_id=[1, 2, 3, 4], request_id=[1] * 4, user_id=[ANN, 5, ANN, 6], post_id=[1] * 4,
        position=[0, -4, -5, -6], event_time=[0] * 4, ingest_time=[0] * 4)  # fmt: skip
    lake.read("impressions")
    (aside,) = (tmp_path / "lake/quarantine/impressions").iterdir()
    assert pq.read_table(aside)["user_id"].to_pylist() == [5, ANN, 6]
    result = erase(lake, ANN, "Ann")
    assert result.tables["impressions"].rows == 2
    rows = pq.read_table(aside)
    assert rows["user_id"].to_pylist() == [5, 6]
    assert rows["line"].to_pylist() == [0, 1]
    assert files_with_ann(lake) == []


def test_quarantined_rows_whose_source_is_gone_are_removed_too(lake, tmp_path):
    folder = tmp_path / "lake/quarantine/actions"
    folder.mkdir(parents=True)
    rows = pa.table({"user_id": [ANN, 5], "reason": ["r", "r"], "file": ["f", "f"], "line": [0, 1]})
    pq.write_table(rows, folder / "0123.parquet")
    result = erase(lake, ANN, "Ann")
    assert (result.quarantine.rows, result.quarantine.files) == (1, 1)
    assert pq.read_table(folder / "0123.parquet").equals(rows.slice(1))


def test_a_quarantine_that_cannot_be_written_raises(lake):
    rows = pa.table({"user_id": [ANN, 5], "reason": ["r", "r"], "file": ["f", "f"], "line": [0, 1]})
    lake.quarantine("actions", "0123", rows)
    lake.filesystem = FaultyFilesystem()
    lake.filesystem.left, lake.filesystem.fault = 1, OSError("the far side hung up")
    with pytest.raises(OSError, match="hung up"):
        erase(lake, ANN, "Ann")


def test_rejected_lines_with_the_name_as_a_word_are_removed(lake, put, tmp_path):
    put("ids", kind=["user"], id=[-7], name_=["Zoë"])
    lines = ["1\tAnn\tN5", "2\tAnnabel\tN5", "3,Zoë,x", "4\t5\tN5", None]
    columns = {"reason": ["r"] * 5, "file": ["f"] * 5, "line": range(5), "text": lines}
    lake.quarantine(
        "import", "import-csv-1", pa.table({name: pa.array(list(values)) for name, values in columns.items()})
    )
    assert erase(lake, ANN, "Ann").quarantine.rows == 1
    assert erase(lake, -7, "-7").quarantine.rows == 1  # found by its name in `ids`
    assert pq.read_table(tmp_path / "lake/quarantine/import/import-csv-1.parquet")["line"].to_pylist() == [1, 3, 4]


def test_a_file_that_cannot_be_decoded_is_kept_and_reported(lake, put, tmp_path):
    put(
        "actions",
        event_id=[1],
        request_id=[1],
        user_id=[ANN],
        post_id=[1],
        type=["click"],
        event_time=[0],
        ingest_time=[0],
    )
    path = tmp_path / "lake/actions/date=2026-01-05/part.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    result = erase(lake, ANN, "Ann")
    assert not path.exists()
    (aside,) = result.not_searched
    assert aside.endswith(".unreadable")
    assert storage.is_file(lake.filesystem, aside)


def test_a_damaged_file_with_readable_user_ids_is_deleted_whole(lake, put, tmp_path):
    users = list(range(1000))
    for name in ("mine", "other"):
        put("users", name=name, user_id=users, country=[f"{hash((name, i))}" for i in users], created_at=users)
        path = tmp_path / f"lake/users/date=2026-01-05/{name}.parquet"
        column = pq.read_metadata(path).row_group(0).column(2)
        data = bytearray(path.read_bytes())
        start = column.dictionary_page_offset or column.data_page_offset
        data[start : start + 200] = bytes([255]) * 200
        path.write_bytes(data)
    result = erase(lake, 999, "999")
    assert (result.quarantine.rows, result.quarantine.files, result.not_searched) == (2, 2, [])
    assert list((tmp_path / "lake/quarantine/users").iterdir()) == []


def test_stale_temporary_files_are_deleted(lake, put, tmp_path):
    put("users", user_id=[5], created_at=[0])
    left = tmp_path / "lake/users/date=2026-01-05/.part.12345678.tmp"
    left.write_bytes(b"half a file")
    os.utime(left, (0, 0))
    erase(lake, 9, "9")
    assert not left.exists()


def test_progress_counts_files_up_to_the_total(full):
    seen = []
    erase(full, ANN, "Ann", lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 1
    assert seen[-1][0] == seen[-1][1] == 3 * len(PERSONAL) + 2
