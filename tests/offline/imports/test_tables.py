"""CSV and Parquet: mapped columns become events and descriptions."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.config import Config
from recsys.errors import ConfigError, DataError
from recsys.offline.catalogue.build import build_catalogue
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.imports import tabular
from recsys.offline.logs.events import mentioned_ids
from recsys.offline.logs.exposures import read_logs

from .conftest import moment, rows, set_aside

EVENTS = "user_id=u,post_id=p,event_time=t,type=k"
ALICE, P1 = to_int64("alice"), to_int64("p1")
NOON = moment("2026-01-05T12:00")
HEAD = "u,p,t,k\n"


@pytest.fixture
def csv(tmp_path):
    """`csv(text)` writes a file."""

    def write(text, name="events.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_rows_become_impressions_and_actions(csv, bring, lake):
    path = csv(
        "when,who,note,what,how\n"
        "2026-01-05T12:00:00Z,alice,a,p1,impression\n"
        '2026-01-05 12:00:05,alice,"b, c",p1,click\n'
        "1767614400,7,,8,like\n"
    )
    report = bring("csv", path, "user_id=who,post_id=what,event_time=when,type=how")
    assert report.as_json() == {
        "rows": {"impressions": 1, "actions": 2},
        "clicks": 1,
        "users": 2,
        "posts": 2,
        "id_only_posts": 2,
        "quarantined": {},
        "synthetic_times": False,
        "files": ["events.csv"],
    }
    columns = ("user_id", "post_id", "event_time", "ingest_time")
    assert rows(lake, "impressions", *columns) == [(ALICE, P1, NOON, NOON)]
    assert rows(lake, "actions", "type", *columns) == [
        ("click", ALICE, P1, NOON + 5_000_000, NOON + 5_000_000),
        ("like", 7, 8, NOON, NOON),
    ]
    assert rows(lake, "ids", "kind", "id", "name") == sorted([("post", P1, "p1"), ("user", ALICE, "alice")])


def test_without_a_request_id_a_click_joins_the_impression_of_the_same_user_and_post(csv, bring, lake):
    bring(
        "csv", csv(HEAD + "1,2,2026-01-05,impression\n1,3,2026-01-05,impression\n1,2,2026-01-05T00:01,click\n"), EVENTS
    )
    [(request, post)] = rows(lake, "actions", "request_id", "post_id")
    assert post == 2
    assert (request, 2) in rows(lake, "impressions", "request_id", "post_id")
    assert (request, 3) not in rows(lake, "impressions", "request_id", "post_id")


def test_a_mapped_request_id_is_used_and_an_empty_one_replaced(csv, bring, lake):
    path = csv("u,p,t,k,r,pos\n1,2,2026-01-05,impression,55,3\n1,2,2026-01-05,click,55,\n1,4,2026-01-05,click,,\n")
    bring("csv", path, EVENTS + ",request_id=r,position=pos")
    [(request, position)] = rows(lake, "impressions", "request_id", "position")
    requests = dict(rows(lake, "actions", "post_id", "request_id"))
    assert (requests[2], position) == (request, 3)
    assert requests[4] != request


def test_users_who_number_their_requests_from_1_do_not_share_them(csv, bring, lake):
    path = csv(
        "u,p,t,k,r\na,p1,2026-01-05,impression,1\nb,p1,2026-01-05,impression,1\nb,p1,2026-01-05,click,1\n"
        "a,p2,2026-01-05,impression,2\nb,p2,2026-01-05,impression,2\n"
    )
    bring("csv", path, EVENTS + ",request_id=r")
    assert len(set(rows(lake, "impressions", "event_id") + rows(lake, "actions", "event_id"))) == 5
    assert len(set(rows(lake, "impressions", "request_id"))) == 4
    catalogue = build_catalogue(lake, *mentioned_ids(lake))
    logs = read_logs(lake, catalogue, Config().offline)
    assert len(logs.exposures) == 4
    clicked = [
        (catalogue.user_name.to_pylist()[user], catalogue.post_name.to_pylist()[post])
        for user, post in zip(logs.exposures.user_row, logs.exposures.post_row, strict=True)
    ]
    assert [pair for pair, click in zip(clicked, logs.exposures.click, strict=True) if click] == [("b", "p1")]


def test_the_same_post_seen_twice_is_two_events(csv, bring, lake):
    bring("csv", csv(HEAD + "1,2,2026-01-05,click\n1,2,2026-01-06,click\n1,2,2026-01-06,like\n"), EVENTS)
    assert len(set(rows(lake, "actions", "event_id"))) == 3


def test_without_a_type_every_row_is_a_click_and_the_user_is_told(csv, bring, lake, capsys):
    bring("csv", csv("u,p,t\n1,2,2026-01-05\n1,3,2026-01-05\n"), "user_id=u,post_id=p,event_time=t")
    assert rows(lake, "actions", "type") == ["click", "click"]
    assert "every row is a click" in capsys.readouterr().err


def test_types_are_renamed_and_unknown_ones_quarantined(csv, bring, lake):
    path = csv(
        HEAD
        + "1,2,2026-01-05,view\n1,2,2026-01-05,purchase\n1,2,2026-01-05,like\n1,2,2026-01-05,poke\n1,2,2026-01-05,\n"
    )
    report = bring("csv", path, EVENTS, "view=impression,purchase=click")
    assert report.rows == {"impressions": 1, "actions": 2}
    assert rows(lake, "actions", "type") == ["click", "like"]
    assert report.quarantined == {"unknown_type": 2}


@pytest.mark.parametrize("time", ["1767614400", "1767614400000", "1767614400000000", "2026-01-05T13:00:00+01:00"])
def test_times_are_numbers_in_three_units_or_iso(csv, bring, lake, time):
    bring("csv", csv(HEAD + f"1,2,{time},click\n"), EVENTS)
    assert rows(lake, "actions", "event_time") == [NOON]
    assert "date=2026-01-05" in lake.files("actions")[0]


def test_values_and_arrival_times_are_imported_if_given(csv, bring, lake):
    path = csv("u,p,t,k,v,a\n1,2,2026-01-05,dwell,2.5,2026-01-06\n1,3,2026-01-05,dwell,,\n")
    bring("csv", path, EVENTS + ",value=v,ingest_time=a")
    found = lake.read("actions").sort_by("post_id")
    assert found["value"].to_pylist() == [2.5, None]
    start = moment("2026-01-05")
    assert found["ingest_time"].cast("int64").to_pylist() == [moment("2026-01-06"), start]


def test_the_latest_row_describes_a_post(csv, bring, lake):
    path = csv(
        "u,p,t,k,txt,top,au,lang,born\n"
        "1,2,2026-01-06,click,new,sports,ann,en,2026-01-01\n"
        "1,2,2026-01-05,click,old,food,bob,de,2026-01-02\n"
        "1,2,2026-01-07,click,,,,,\n"
        "1,3,2026-01-07,click,,arts,,,\n"
        "1,4,2026-01-07,click,,,,,\n"
    )
    report = bring("csv", path, EVENTS + ",text=txt,topic=top,author_id=au,language=lang,created_at=born")
    assert (report.posts, report.id_only_posts, report.users) == (3, 1, 1)
    found = {row["post_id"]: row for row in lake.read("posts").to_pylist()}
    assert set(found) == {2, 3}
    post = found[2]
    assert (post["text"], post["topic"], post["author_id"], post["language"], post["visible"]) == (
        "new", "sports", to_int64("ann"), "en", True,
    )  # fmt: skip
    assert post["created_at"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert (found[3]["topic"], found[3]["created_at"]) == ("arts", datetime(2026, 1, 7, tzinfo=UTC))
    assert ("user", to_int64("ann"), "ann") in rows(lake, "ids", "kind", "id", "name")


def test_bad_rows_are_quarantined_with_their_line(csv, bring, lake):
    text = (
        b"u,p,t,k,v,n\n"
        b'1,2,2026-01-05,dwell,1,"two\n\nlines"\n'
        b"1,2,2026-01-05\n"
        b"1,2,never,click,,\n"
        b"1,2,2027-01-05,click,,\n"
        b",2,2026-01-05,click,,\n"
        b"1,,2026-01-05,click,,\n"
        b"\n"
        b"1,2,-99999999999,click,,\n"
        b'1,2,2026-01-05,poke,,"a ""b"", c"\n'
        b"1,2,2026-01-05,dwell,much,\n"
        b'1,2,2026-01-05,dwell,1e99,say 6" long\n'
        b"1,2,2026-01-05,click,,,\n"
        b"1,2,2026-01-05,click,,"
    ) + b"\xff\n1,2\xff,2026-01-05,click,,\n1,2,2026-01-05"
    report = bring("csv", csv(text), EVENTS + ",value=v")
    assert report.rows == {"impressions": 0, "actions": 2}  # columns that are not mapped may be broken
    assert set_aside(lake) == [
        (reason, "events.csv", line, text)
        for reason, line, text in [
            ("wrong_number_of_columns", 5, "1,2,2026-01-05"),
            ("unparsable_time", 6, "1,2,never,click,,"),
            ("time_in_the_future", 7, "1,2,2027-01-05,click,,"),
            ("empty_user_id", 8, ",2,2026-01-05,click,,"),
            ("empty_post_id", 9, "1,,2026-01-05,click,,"),
            ("empty_user_id", 10, ""),
            ("time_before_1970", 11, "1,2,-99999999999,click,,"),
            ("unknown_type", 12, '1,2,2026-01-05,poke,,"a ""b"", c"'),
            ("value_not_a_number", 13, "1,2,2026-01-05,dwell,much,"),
            ("value_not_a_number", 14, '1,2,2026-01-05,dwell,1e99,say 6" long'),
            ("wrong_number_of_columns", 15, "1,2,2026-01-05,click,,,"),
            ("invalid_utf8", 17, "1,2\ufffd,2026-01-05,click,,"),
            ("wrong_number_of_columns", 18, "1,2,2026-01-05"),
        ]
    ]


def test_bad_rows_keep_their_lines_over_many_blocks(csv, bring, lake, monkeypatch):
    monkeypatch.setattr(tabular, "CSV_BLOCK_BYTES", 64)
    lines = [f"{n},2,2026-01-05,{'click' if n % 7 else 'poke'}" + ",x" * (n % 5 == 0) for n in range(2, 100)]
    report = bring("csv", csv(HEAD + "\n".join(lines)), EVENTS)
    for reason, _, number, text in set_aside(lake):
        assert text.startswith(f"{number},")
        assert reason == ("wrong_number_of_columns" if number % 5 == 0 else "unknown_type")
    good = [n for n in range(2, 100) if n % 5 and n % 7]
    assert rows(lake, "actions", "user_id") == good
    assert sum(report.quarantined.values()) == len(lines) - len(good)


@pytest.mark.parametrize("block", [64, 1 << 24])
@pytest.mark.parametrize("closes", ["", '8,9,2026-01-05,click,"closed"\n', '8,9,2026-01-05,click,a "word"\n'])
@pytest.mark.parametrize("broken", ['1,"2,2026-01-05,click,\n', '1,2,2026-01-05,click,"note\n'])
def test_a_quote_that_never_closes_costs_only_its_line(csv, bring, lake, monkeypatch, broken, closes, block):
    """Also if another quote follows, and whether the quote is inside the line or at its end."""
    monkeypatch.setattr(tabular, "CSV_BLOCK_BYTES", block)
    quoted = '6,2,2026-01-05,click,"two\nlines, ""both"" good"\n'
    rest = "".join(f"{number},2,2026-01-05,click,\n" for number in range(10, 40))
    report = bring("csv", csv("u,p,t,k,n\n" + quoted + broken + rest + closes + quoted + ",,,,\n"), EVENTS)
    n_lines = 30 + bool(closes)
    assert report.quarantined == {"empty_user_id": 1, "quote_not_closed": 1}
    assert report.rows["actions"] == n_lines + 2
    assert set_aside(lake) == [
        ("quote_not_closed", "events.csv", 4, broken.rstrip("\n")),
        ("empty_user_id", "events.csv", 4 + n_lines + 3, ",,,,"),
    ]


def test_a_record_of_many_lines_is_limited_in_length(csv, bring, lake, monkeypatch):
    monkeypatch.setattr(tabular, "QUOTED_BYTES", 100)
    text = HEAD + '1,2,2026-01-05,"click\n' + "1,2,2026-01-05,click\n" * 20 + '"\n'
    report = bring("csv", csv(text), EVENTS)
    assert report.rows["actions"] == 20
    assert report.quarantined == {"quote_not_closed": 2}


def test_a_line_longer_than_a_block_raises_and_leaves_nothing(csv, bring, lake, monkeypatch):
    monkeypatch.setattr(tabular, "CSV_BLOCK_BYTES", 64)
    path = csv(HEAD + "1,2,2026-01-05,click\n" * 20 + "x" * 500 + "\n")
    with pytest.raises(DataError, match="no record may be longer than 64 bytes"):
        bring("csv", path, EVENTS)
    assert not lake.files("actions")
    assert lake.unfinished() is None


def test_rows_that_the_lake_would_refuse_are_quarantined_by_the_import(csv, bring, lake):
    path = csv(
        "u,p,t,k,v,a\n1,2,1960-01-05,click,,\n1,2,2026-01-05,dwell,-5,\n1,2,2026-01-05,click,,1969-12-31\n"
        "1,3,2026-01-05,impression,-1,\n1,4,1970-01-01,click,0,\n"
    )
    report = bring("csv", path, EVENTS + ",value=v,ingest_time=a")
    assert report.quarantined == {"time_before_1970": 2, "value_out_of_range": 1}
    assert [(reason, line) for reason, _, line, _ in set_aside(lake)] == [
        ("time_before_1970", 2), ("value_out_of_range", 3), ("time_before_1970", 4),
    ]  # fmt: skip
    assert rows(lake, "impressions", "post_id") + rows(lake, "actions", "post_id") == [3, 4]
    assert not lake.quarantined


def test_a_post_older_than_1970_keeps_its_description(csv, bring, lake):
    path = csv("id,body,born\n7,Seven Samurai,1954-04-26\n", "films.csv")
    report = bring("csv", path, "post_id=id,text=body,created_at=born", table="posts")
    assert report.quarantined == {}
    assert rows(lake, "posts", "text", "created_at") == [("Seven Samurai", 0)]
    assert not lake.quarantined


def test_times_that_look_like_dates_written_as_numbers_cause_a_warning(csv, bring, lake, capsys):
    bring("csv", csv(HEAD + "1,2,20200101,click\n" + "1,2,2026-01-05,click\n" * 3), EVENTS)
    assert "1 of 4 events are of 1970" in " ".join(capsys.readouterr().err.split())
    bring("csv", csv(HEAD + "1,2,2026-01-05,click\n" * 3), EVENTS)
    assert "of 1970" not in capsys.readouterr().err


def test_names_are_stored_at_one_date_whatever_the_times_are(csv, bring, lake):
    bring("csv", csv(HEAD + "a,b,1970-03-01,click\na,b,2026-01-05,click\n"), EVENTS)
    assert [path.split("/")[-2] for path in lake.files("ids")] == ["date=1970-01-01"]


def test_one_file_imported_as_two_tables_keeps_both(csv, bring, lake):
    path = csv("u,p,t,txt\n1,2,2026-01-05,hello\n")
    bring("csv", path, "post_id=p,text=txt", table="posts")
    bring("csv", path, "user_id=u,post_id=p,event_time=t")
    assert rows(lake, "posts", "text") == ["hello"]
    assert rows(lake, "actions", "post_id") == [2]


@pytest.mark.parametrize(
    ("columns", "types", "table", "says"),
    [
        ("user_id=u,post_id=p", None, "events", "needs event_time"),
        (EVENTS + ",colour=c", None, "events", "no field 'colour'"),
        (EVENTS + ",text", None, "events", "got 'text'"),
        (EVENTS + ",user_id=x", None, "events", "user_id twice"),
        ("", None, "events", "takes pairs"),
        (EVENTS, "view=show", "events", "no type 'show'"),
        (EVENTS, None, "clicks", "--table must be one of"),
        ("user_id=u,post_id=p,event_time=t,type=z", None, "events", "no column 'z'; its columns are u, p, t, k"),
    ],
)
def test_a_wrong_mapping_raises_a_config_error(csv, bring, lake, columns, types, table, says):
    with pytest.raises(ConfigError, match=says):
        bring("csv", csv(HEAD), columns, types, table)
    assert lake.unfinished() is None


def test_a_column_name_that_occurs_twice_is_refused(csv, bring):
    with pytest.raises(ConfigError, match="twice column 'u'"):
        bring("csv", csv("u,p,t,k,u\n"), EVENTS)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_missing_or_empty_file_raises(csv, bring, kind, tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        bring(kind, tmp_path / "none", EVENTS)
    with pytest.raises(DataError, match=r"is empty|is not a Parquet file"):
        bring(kind, csv(""), EVENTS)


def test_descriptions_of_posts_join_the_events_of_another_file(csv, bring, lake):
    bring("csv", csv("id,body,kind,born\np1,first,video,2026-01-02\np1,second,,\n9,other,film,\n", "posts.csv"),
          "post_id=id,text=body,media=kind,created_at=born", table="posts")  # fmt: skip
    report = bring("csv", csv(HEAD + "1,p1,2026-01-05,click\n1,9,2026-01-05,click\n"), EVENTS)
    assert report.id_only_posts == 1
    assert rows(lake, "posts", "post_id", "text", "created_at") == [(P1, "second", 0)]
    assert set_aside(lake) == [("unknown_media", "posts.csv", 4, "9,other,film,")]


def test_users_and_follows_can_be_imported_as_tables(csv, bring, lake):
    report = bring("csv", csv("who,c\nalice,SE\n7,\n", "users.csv"), "user_id=who,country=c", table="users")
    assert report.users == 2
    assert dict(rows(lake, "users", "user_id", "country")) == {ALICE: "SE", 7: None}
    bring(
        "csv",
        csv("a,b,t\nalice,7,2026-01-05\n7,,\n", "follows.csv"),
        "user_id=a,author_id=b,created_at=t",
        table="follows",
    )
    assert rows(lake, "follows", "user_id", "author_id", "created_at") == [(ALICE, 7, moment("2026-01-05"))]


def test_parquet_types_are_used(tmp_path, bring, lake):
    noon = datetime(2026, 1, 5, 12)
    table = pa.table(
        {
            "u": pa.array(["alice", "bob", None, "bob"]).dictionary_encode(),
            "p": pa.array([5.0, 6.0, 7.0, None]),
            "t": pa.array([noon, noon, noon, None], pa.timestamp("ns")),
            "k": pa.array(["impression", "dwell", "click", "click"], pa.large_string()),
            "v": pa.array([None, 1.5, None, None], pa.float64()),
        }
    )
    pq.write_table(table, tmp_path / "events.parquet")
    report = bring("parquet", tmp_path / "events.parquet", EVENTS + ",value=v")
    assert rows(lake, "impressions", "user_id", "post_id", "event_time") == [(ALICE, 5, NOON)]
    assert rows(lake, "actions", "user_id", "post_id", "type", "value") == [(to_int64("bob"), 6, "dwell", 1.5)]
    assert report.quarantined == {"empty_post_id": 1, "empty_user_id": 1}
    (reason, _, line, text), _ = set_aside(lake)
    assert (reason, line) == ("empty_user_id", 3)
    assert '"u": null, "p": 7.0' in text


def test_a_missing_value_in_a_column_of_numbers_is_null(tmp_path, bring, lake):
    nan = float("nan")
    columns = {"u": [7.0, nan, 8.0], "p": [12.0, 13.0, 14.0], "t": [1767614400.0] * 3, "v": [nan, 1.0, 2.0]}
    table = pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})
    pq.write_table(table.append_column("k", pa.array(["dwell"] * 3)), tmp_path / "events.parquet")
    report = bring("parquet", tmp_path / "events.parquet", EVENTS + ",value=v")
    assert report.quarantined == {"empty_user_id": 1}
    found = lake.read("actions").sort_by("user_id")
    assert found["user_id"].to_pylist() == [7, 8]
    assert found["post_id"].to_pylist() == [12, 14]
    assert found["value"].to_pylist() == [None, 2.0]


def test_parquet_in_batches_keeps_its_row_numbers(tmp_path, bring, lake, monkeypatch):
    monkeypatch.setattr(tabular, "PARQUET_ROWS", 10)
    table = pa.table({"u": list(range(1, 36)), "p": [2] * 35, "t": [1767614400] * 35, "k": ["click"] * 35})
    kinds = ["poke" if row in (10, 11, 35) else "click" for row in range(1, 36)]
    pq.write_table(table.set_column(3, "k", pa.array(kinds)), tmp_path / "events.parquet", row_group_size=8)
    report = bring("parquet", tmp_path / "events.parquet", EVENTS)
    assert report.rows["actions"] == 32
    assert [line for _, _, line, _ in set_aside(lake)] == [10, 11, 35]
    assert all(f'"u": {line},' in text for _, _, line, text in set_aside(lake))


def test_a_column_of_lists_is_refused_as_a_field(tmp_path, bring):
    pq.write_table(pa.table({"u": [[1]], "p": [1], "t": [1], "k": ["click"]}), tmp_path / "events.parquet")
    with pytest.raises(ConfigError, match="one value per row"):
        bring("parquet", tmp_path / "events.parquet", EVENTS)
