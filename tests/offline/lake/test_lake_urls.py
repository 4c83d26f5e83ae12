"""A lake works the same behind every kind of URL."""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.offline.lake.compaction import compact
from recsys.offline.lake.description import describe
from recsys.offline.lake.lake import Lake
from recsys.online.consumer.to_lake import Position, _write_position, read_position

TIME = pa.timestamp("us", tz="UTC")


@pytest.fixture(params=["path", "file", "memory"])
def lake(request, tmp_path):
    if request.param == "memory":
        pytest.importorskip("fsspec")
        return Lake(f"memory://{tmp_path.name}/lake")
    folder = tmp_path / "lake"
    return Lake(folder.as_uri() if request.param == "file" else str(folder))


def put(lake, name, *users):
    rows = pa.table({"user_id": pa.array(users, pa.int64()), "created_at": pa.array([0] * len(users), TIME)})
    lake.write("users", rows, "2026-01-05", name)


def ids(lake):
    return lake.read("users")["user_id"].to_pylist()


def test_files_are_written_replaced_merged_and_deleted(lake):
    put(lake, "b", 3)
    put(lake, "a", 1, 2)
    put(lake, "b", 4)
    assert ids(lake) == [1, 2, 4]
    assert compact(lake)["users"]["files_after"] == 1
    assert ids(lake) == [1, 2, 4]
    put(lake, "a", 5)
    assert ids(lake) == [5, 4]
    lake.delete_files(lake.written_paths("users")[:1])
    assert ids(lake) == [4]
    lake.delete_tables(["users"])
    assert ids(lake) == []


def test_bad_rows_and_bad_files_go_to_the_quarantine(lake):
    put(lake, "good", 1)
    folder = f"{lake.root}/users/date=2026-01-05"
    with lake.filesystem.open_output_stream(f"{folder}/bad.parquet") as stream:
        stream.write(b"not parquet")
    rows = pa.table({"user_id": pa.array([1, None]), "created_at": pa.array([0, 0], TIME)})
    pq.write_table(rows, f"{folder}/other.parquet", filesystem=lake.filesystem)
    assert ids(lake) == [1, 1]
    assert describe(lake)["quarantine"] == {"unreadable_file": 1, "users.user_id is null": 1}


def test_the_lake_file_and_the_streams_position_are_kept(lake):
    lake.begin()
    assert lake.interrupted()
    lake.finish({"origin": "world"})
    assert lake.info() == {"complete": True, "origin": "world"}
    _write_position(lake, Position("7-0", None))
    assert read_position(lake) == Position("7-0", None)


def test_an_absent_lake_is_empty_and_described_as_missing(lake):
    assert ids(lake) == []
    assert lake.info() == {}
    with pytest.raises(DataError, match="there is no lake at "):
        describe(lake)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(DataError, match="'nowhere://lake' cannot be opened: Protocol not known: nowhere"):
        Lake("nowhere://lake")


def test_a_scheme_whose_package_is_missing_names_it(monkeypatch):
    fsspec = pytest.importorskip("fsspec")

    def missing(url):
        raise ImportError("Install somefs to access Some Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(DataError, match="'some://lake' cannot be opened: Install somefs"):
        Lake("some://lake")


def test_without_fsspec_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataError, match=r"'memory://lake' cannot be opened: .*; install fsspec for it"):
        Lake("memory://lake")
