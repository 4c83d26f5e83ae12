"""Describing a lake from metadata alone, and the commands `describe` and `compact`."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from recsys.cli.lake import app
from recsys.errors import DataError
from recsys.offline.lake.description import describe
from recsys.offline.lake.lake import Lake
from recsys.offline.lake.schemas import SCHEMA_VERSION

TIME = pa.timestamp("us", tz="UTC")


@pytest.fixture
def run(lake):
    def command(*words):
        return CliRunner().invoke(app, [*words, "--set", f"offline.url={lake.url}"])

    return command


@pytest.fixture
def filled(lake, put, tmp_path):
    put("users", "2026-01-05", "a", user_id=[1, 2], created_at=[0, 0])
    put("users", "2026-01-07", "a", user_id=[3], created_at=[0])
    put("users", "2026-01-07", "b", user_id=[4], created_at=[0])
    old = pa.table({"user_id": [5, None], "created_at": pa.array([0, 0], TIME)})
    pq.write_table(
        old.replace_schema_metadata({"recsys.schema": "1"}),
        tmp_path / "lake" / "users" / "date=2026-01-07" / "old.parquet",
    )
    lake.finish({"origin": "world", "logs_end": 7})
    return lake


def test_a_lake_is_described_by_table(filled):
    found = describe(filled)
    assert list(found["tables"]) == ["users"]
    users = found["tables"]["users"]
    bytes_on_disk = sum(info.size for info in filled.file_infos("users"))
    assert users == {
        "files": 4,
        "unreadable_files": 0,
        "rows": 6,
        "bytes": bytes_on_disk,
        "first_date": "2026-01-05",
        "last_date": "2026-01-07",
        "schema_versions": ["1", SCHEMA_VERSION],
        "columns": {
            "user_id": "int64",
            "language": "string",
            "country": "string",
            "created_at": "timestamp[us, tz=UTC]",
        },
    }
    assert (found["complete"], found["origin"], found["logs_end"]) == (True, "world", 7)


def test_the_quarantine_is_counted_from_its_files(filled):
    assert describe(filled)["quarantine"] == {}
    Lake(filled.url).read("users")
    lines = {"reason": ["unparsable_line"] * 2, "file": ["x"] * 2, "line": [1, 2], "text": ["?", "!"]}
    Lake(filled.url).quarantine("import", "x", pa.table(lines))
    assert describe(filled)["quarantine"] == {"unparsable_line": 2, "users.user_id is null": 1}


@pytest.mark.parametrize("content", [b"not parquet", b"", "no reasons", "cut"])
def test_a_file_in_the_quarantine_that_cannot_be_read_is_counted(filled, tmp_path, content):
    filled.read("users")
    folder = tmp_path / "lake" / "quarantine" / "import"
    folder.mkdir()
    pq.write_table(pa.table({"text": ["?"]}), folder / "x.parquet")
    if content == "cut":
        (folder / "x.parquet").write_bytes((folder / "x.parquet").read_bytes()[20:])
    elif content != "no reasons":
        (folder / "x.parquet").write_bytes(content)
    assert describe(filled)["quarantine"] == {"unreadable_file": 1, "users.user_id is null": 1}
    assert (folder / "x.parquet").exists()


@pytest.mark.parametrize(("text", "what"), [("[]", "a JSON object"), ("{", "JSON"), ("\xff", "JSON")])
def test_a_broken_lake_file_is_named_and_the_tables_are_described(run, filled, tmp_path, text, what):
    (tmp_path / "lake" / "_lake.json").write_text(text, "latin-1")
    found = describe(filled)
    assert found["tables"]["users"]["rows"] == 6
    assert (found["complete"], found["origin"], found["logs_end"]) == (None, None, None)
    assert f"_lake.json is not {what};" in found["problem"]
    result = run("describe")
    assert result.exit_code == 0
    assert f"is not {what}" in " ".join(result.stdout.split())


def test_recorded_facts_of_the_wrong_type_are_ignored(run, filled, tmp_path):
    (tmp_path / "lake" / "_lake.json").write_text('{"complete": "yes", "origin": 5, "logs_end": "now"}')
    found = describe(filled)
    assert [found[name] for name in ("complete", "origin", "logs_end", "problem")] == [None] * 4
    assert run("describe").exit_code == 0


@pytest.mark.parametrize("origin", ["world", "import"])
def test_the_origin_is_printed(run, lake, put, origin):
    put("users", user_id=[1], created_at=[0])
    lake.finish({"origin": origin})
    assert f"complete; origin: {origin}" in " ".join(run("describe").stdout.split())


def test_writing_a_file_again_removes_its_bad_rows_from_the_quarantine(filled, put):
    filled.read("users")
    put("users", "2026-01-07", "old", user_id=[5], created_at=[0])
    assert describe(filled)["quarantine"] == filled.quarantined == {}


@pytest.mark.parametrize("name", ["bad", "bad.merged"])
@pytest.mark.parametrize("content", [b"not parquet", b"PAR1" + b"\xff" * 60 + b"\x3c\0\0\0PAR1"])
def test_describing_quarantines_nothing_and_counts_unreadable_files(filled, tmp_path, name, content):
    bad = tmp_path / "lake" / "users" / "date=2026-01-07" / f"{name}.parquet"
    bad.write_bytes(content)
    users = describe(filled)["tables"]["users"]
    assert (users["files"], users["unreadable_files"], users["rows"]) == (5, 1, 6)
    assert bad.exists()


def test_an_interrupted_lake_is_described_as_incomplete(lake, put):
    put("users", user_id=[1], created_at=[0])
    assert describe(lake)["complete"] is None
    lake.begin()
    assert describe(lake)["complete"] is False


def test_describe_prints_one_json_object(run, filled):
    result = run("describe", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout.splitlines()[-1]) == describe(filled)
    assert "users" in result.stderr
    assert "6" in run("describe").stdout


def test_an_existing_empty_folder_is_an_empty_lake(run, tmp_path):
    (tmp_path / "lake").mkdir()
    result = run("describe", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["tables"] == {}
    assert json.loads(run("compact", "--json").stdout) == {"tables": {}}


@pytest.mark.parametrize("command", ["describe", "compact"])
def test_a_missing_lake_is_an_error(run, command):
    result = run(command)
    assert isinstance(result.exception, DataError)
    assert "there is no lake at" in str(result.exception)


def test_compact_prints_files_and_bytes_by_table(run, filled):
    before = describe(filled)["tables"]["users"]
    result = run("compact", "--json")
    assert result.exit_code == 0
    after = describe(filled)["tables"]["users"]
    assert (before["files"], after["files"], after["rows"]) == (4, 2, 6)
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "tables": {
            "users": {
                "files_before": 4,
                "files_after": 2,
                "bytes_before": before["bytes"],
                "bytes_after": after["bytes"],
            }
        }
    }
    assert after["schema_versions"] == [SCHEMA_VERSION]


def test_compact_can_be_limited_to_a_table(run, filled, put):
    put("follows", name="a", user_id=[1], author_id=[1], created_at=[0])
    put("follows", name="b", user_id=[1], author_id=[1], created_at=[0])
    assert list(json.loads(run("compact", "--table", "users", "--json").stdout.splitlines()[-1])["tables"]) == ["users"]
    assert len(filled.files("follows")) == 2
