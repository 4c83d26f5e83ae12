"""What all imports share: repeated, changed, interrupted and failed imports."""

import pytest

from recsys.errors import DataError
from recsys.offline.imports import identity, partitions
from recsys.offline.imports.session import Import
from recsys.offline.lake.compaction import compact
from recsys.offline.lake.lake import Lake

from .conftest import contents, rows, set_aside

NEWS = "N1\tsports\tgolf\tDrive\tFar\t\t[]\t[]\nN2\tfood\tbread\tBake\tHot\t\t[]\t[]\n"


def behaviors(n):
    return "".join(f"{k}\tU{k % 3}\t11/{11 + k % 4}/2019 9:00:00 AM\tN2 N7\tN1-1 N{k + 5}-0\n" for k in range(1, n + 1))


SOURCES = {
    "mind": {"news__tsv": NEWS, "behaviors__tsv": behaviors(9) + "broken\n"},
    "interactions": {"train__txt": "0 1 x\n1 2\n\x00\n", "test__txt": "0 3\n"},
    "sequences": {"sequences__txt": "0 1 2\n1 y 2\n\x00\n"},
    "csv": {"events__csv": "u,p,t\n1,a,2026-01-05\n2,b,2026-01-06\nbroken\n"},
}
LESS = {
    "mind": {"news__tsv": NEWS, "behaviors__tsv": behaviors(1)},
    "interactions": {"train__txt": "0 1 2\n", "test__txt": "0 2\n"},
    "sequences": {"sequences__txt": "0 1\n"},
    "csv": {"events__csv": "u,p,t\n2,b,2026-01-06\n"},
}


@pytest.fixture
def source(folder, bring):
    """`source(kind, **files)` writes the files over older ones and imports them."""

    def run(kind, into=None, below="source", **files):
        path = folder(below, **files)
        given = {} if into is None else {"into": into}
        if kind == "csv":
            return bring("csv", path / "events.csv", "user_id=u,post_id=p,event_time=t", **given)
        return bring(kind, path, **given)

    return run


@pytest.mark.parametrize("kind", SOURCES)
def test_the_same_source_again_gives_the_same_files(source, lake, kind):
    report = source(kind, **SOURCES[kind])
    first = contents(lake)
    assert source(kind, **SOURCES[kind]) == report
    assert contents(lake) == first
    assert len(first) > 2
    assert report.quarantined


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_that_shrank_leaves_no_old_rows(source, lake, kind, tmp_path):
    source(kind, **SOURCES[kind])
    source(kind, **LESS[kind])
    fresh = Lake(str(tmp_path / "fresh"))
    source(kind, into=fresh, **LESS[kind])
    assert contents(lake) == contents(fresh)
    assert set_aside(lake) == []


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("again", [False, True])
def test_a_killed_import_is_reported_and_a_rerun_completes_it(source, lake, kind, again, monkeypatch, tmp_path):
    whole = Lake(str(tmp_path / "whole"))
    source(kind, into=whole, **SOURCES[kind])
    if again:
        source(kind, **LESS[kind])
    write, written = Lake.write, []

    def die(self, table, table_rows, date, name):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(name)
        write(self, table, table_rows, date, name)

    with monkeypatch.context() as broken:
        broken.setattr(Lake, "write", die)
        with pytest.raises(KeyboardInterrupt):
            source(kind, **SOURCES[kind])
    with pytest.raises(DataError, match="run `recsys import` again"):
        lake.info()
    source(kind, **SOURCES[kind])
    assert contents(lake) == contents(whole)


def test_old_files_are_deleted_after_the_new_ones_are_written(source, lake, monkeypatch):
    source("csv", **SOURCES["csv"])
    before = set(rows(lake, "actions", "post_id"))
    monkeypatch.setattr(partitions.Partitions, "write", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        source("csv", **LESS["csv"])
    assert set(rows(lake, "actions", "post_id")) == before


def test_a_second_source_adds_to_the_first(source, lake):
    source("interactions", **SOURCES["interactions"])
    source("csv", below="other", **SOURCES["csv"])
    assert len(rows(lake, "actions", "post_id")) == 6
    assert {name for _, name in rows(lake, "ids", "kind", "name")} == {"a", "b", "x"}
    info = lake.info()
    assert (info["origin"], info["format"], info["synthetic_times"]) == ("import", "csv", True)


def test_importing_into_a_worlds_lake_is_refused(source, lake):
    lake.begin()
    with pytest.raises(DataError, match=r"interrupted simulation; .* --set data_dir=FOLDER"):
        source("csv", **SOURCES["csv"])
    lake.finish({"origin": "world", "logs_end": 0})
    with pytest.raises(DataError, match=r"simulated world's; .* --set data_dir=FOLDER"):
        source("csv", **SOURCES["csv"])
    assert lake.info()["origin"] == "world"
    assert not lake.files("actions")


def fails(*_):
    raise DataError("a page cannot be read")


def killed(*_):
    raise KeyboardInterrupt


def test_another_source_removes_the_rows_of_an_interrupted_import_and_says_so(source, lake, monkeypatch, capsys):
    source("interactions", **SOURCES["interactions"])
    before = contents(lake)
    with monkeypatch.context() as broken:
        broken.setattr(Lake, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            source("csv", below="first", **SOURCES["csv"])
    assert len(contents(lake)) > len(before)
    source("csv", below="second", **LESS["csv"])
    assert "first/events.csv" in (said := " ".join(capsys.readouterr().err.split()))
    assert "was interrupted: its rows are removed first" in said
    left = [name for name in contents(lake) if "import-csv-" in name]
    assert len(left) == 2
    assert lake.info()["synthetic_times"] is True
    assert before.keys() < contents(lake).keys()


def test_an_interrupted_import_without_a_name_is_refused(source, lake):
    lake.begin({"origin": "import"})
    with pytest.raises(DataError, match="left no name"):
        source("csv", **SOURCES["csv"])


@pytest.mark.parametrize("buffer", [1 << 28, 1])
def test_a_failed_import_leaves_the_lake_as_it_was(source, lake, monkeypatch, buffer):
    monkeypatch.setattr(partitions, "BUFFER_BYTES", buffer)
    source("interactions", **SOURCES["interactions"])
    before = contents(lake)
    with monkeypatch.context() as broken:
        broken.setattr(Import, "close", fails)
        with pytest.raises(DataError, match="a page"):
            source("csv", below="other", **SOURCES["csv"])
    assert contents(lake) == before
    source("csv", below="other", **SOURCES["csv"])


def test_a_failed_rerun_keeps_the_rows_of_the_first_run(source, lake, monkeypatch):
    source("csv", **SOURCES["csv"])
    before = contents(lake)
    monkeypatch.setattr(Import, "close", fails)
    with pytest.raises(DataError, match="a page"):
        source("csv", **LESS["csv"])
    assert contents(lake) == before


def test_a_failed_rerun_that_replaced_files_removes_the_source_and_says_so(source, lake, monkeypatch, capsys):
    source("interactions", **SOURCES["interactions"])
    before = contents(lake)
    source("csv", below="other", **SOURCES["csv"])
    monkeypatch.setattr(partitions, "BUFFER_BYTES", 1)
    monkeypatch.setattr(Import, "close", fails)
    with pytest.raises(DataError, match="a page"):
        source("csv", below="other", **LESS["csv"])
    assert contents(lake).keys() == before.keys()
    assert lake.info()["origin"] == "import"
    assert "other/events.csv were removed, also those of earlier imports" in " ".join(capsys.readouterr().err.split())


def test_a_rerun_that_fails_after_deleting_old_files_removes_the_source(source, lake, monkeypatch):
    source("csv", **SOURCES["csv"])
    real = partitions.Partitions.remove_stale
    monkeypatch.setattr(partitions.Partitions, "remove_stale", lambda self: (real(self), fails()))
    with pytest.raises(DataError, match="a page"):
        source("csv", events__csv="u,p,t\n2,b,2026-01-07\n")
    assert contents(lake).keys() == {"_lake.json"}
    assert lake.unfinished() is None


def test_a_failed_run_after_a_killed_one_removes_the_source(source, lake, monkeypatch):
    source("interactions", **SOURCES["interactions"])
    before = contents(lake)
    with monkeypatch.context() as broken:
        broken.setattr(Lake, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            source("csv", below="other", **SOURCES["csv"])
    monkeypatch.setattr(Import, "close", fails)
    with pytest.raises(DataError, match="a page"):
        source("csv", below="other", **LESS["csv"])
    assert contents(lake) == before


def test_two_names_with_one_hash_are_never_merged(source, lake, monkeypatch):
    real = identity.to_int64
    monkeypatch.setattr(identity, "to_int64", lambda name: -7 if name in "ab" else real(name))
    report = source("csv", events__csv="u,p,t\n1,a,2026-01-05\n2,b,2026-01-06\na,3,2026-01-06\n1,a,2026-01-07\n")
    assert report.quarantined == {"post_id_hash_collision": 1}
    assert rows(lake, "actions", "user_id", "post_id") == [(-7, 3), (1, -7), (1, -7)]
    assert rows(lake, "ids", "kind", "name") == [("post", "a"), ("user", "a")]
    second = source("csv", below="other", events__csv="u,p,t\n5,b,2026-01-06\n")
    assert second.quarantined == {"post_id_hash_collision": 1}


def test_a_small_buffer_gives_more_files_with_the_same_rows(source, lake, monkeypatch, tmp_path):
    from recsys.offline.imports import lines

    report = source("mind", **SOURCES["mind"])
    monkeypatch.setattr(partitions, "BUFFER_BYTES", 1)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    other = Lake(str(tmp_path / "other"))
    assert source("mind", into=other, **SOURCES["mind"]) == report
    assert len(other.files("impressions")) > len(lake.files("impressions"))
    for table in ("impressions", "actions", "requests"):
        assert sorted(map(str, other.read(table).to_pylist())) == sorted(map(str, lake.read(table).to_pylist()))
    source("mind", into=other, **LESS["mind"])
    assert len(other.read("impressions")) == 2


def test_many_rejected_lines_are_written_in_parts_and_deleted_by_a_rerun(source, lake, monkeypatch):
    from recsys.offline.imports import session

    monkeypatch.setattr(session, "_QUARANTINE_BYTES", 1)
    report = source("csv", events__csv="u,p,t\n" + "".join(f"{n},{n},never\n" for n in range(20)))
    assert report.quarantined == {"unparsable_time": 20}
    assert [line for _, _, line, _ in set_aside(lake)] == list(range(2, 22))
    source("csv", **LESS["csv"])
    assert set_aside(lake) == []


def test_files_inside_merged_files_are_replaced_and_deleted_too(source, lake, folder):
    source("csv", **SOURCES["csv"])
    source("csv", below="other", events__csv="u,p,t\n7,7,2026-01-05\n8,8,2026-01-06\n")
    before = rows(lake, "actions", "user_id", "post_id")
    compact(lake)
    assert len(lake.files("actions")) == 2
    source("csv", **SOURCES["csv"])
    assert rows(lake, "actions", "user_id", "post_id") == before
    source("csv", **LESS["csv"])
    assert sorted(rows(lake, "actions", "user_id")) == [2, 7, 8]
