"""MIND folders: impressions, clicks and click histories."""

import pytest

from recsys.errors import DataError
from recsys.offline.catalogue.ids import to_int64

from .conftest import moment, rows, set_aside

HOUR = 3600 * 1_000_000
U1, U2 = to_int64("U1"), to_int64("U2")
N1, N2, N3, N4, N5 = (to_int64(f"N{number}") for number in range(1, 6))

NEWS = (
    "N1\tsports\tgolf\tA long drive\tIt went far.\thttps://example.org/1\t[]\t[]\n"
    "N2\tfood\tcooking\tCooking at home\t\thttps://example.org/2\t[]\t[]\n"
    "N9\t\t\tNobody saw this\t\t\t\t\n"
)
BEHAVIORS = (
    "1\tU1\t11/11/2019 9:00:00 AM\tN5 N4\tN1-1 N2-0 N3-0\n"
    "2\tU2\t11/12/2019 3:00:00 PM\t\tN3-0 N1-1\n"
    "3\tU1\t11/11/2019 8:00:00 AM\tN4 N5 N2\tN3-1\n"
)
NINE, EIGHT, THREE = moment("2019-11-11T09:00"), moment("2019-11-11T08:00"), moment("2019-11-12T15:00")


def line(number, user="U1", time="11/11/2019 9:00:00 AM", history="", entries="N1-1"):
    return f"{number}\t{user}\t{time}\t{history}\t{entries}\n"


@pytest.fixture
def mind(folder):
    return folder(news__tsv=NEWS, behaviors__tsv=BEHAVIORS)


def test_the_report_counts_the_imported_rows(mind, bring):
    report = bring("mind", mind).as_json()
    assert report == {
        "rows": {"impressions": 6, "actions": 6},
        "clicks": 3,
        "history_clicks": 3,
        "users": 2,
        "posts": 6,
        "id_only_posts": 3,
        "quarantined": {},
        "synthetic_times": True,
        "files": ["news.tsv", "behaviors.tsv"],
    }


def test_a_line_becomes_impressions_and_clicks_of_one_request(mind, bring, lake):
    bring("mind", mind)
    assert rows(lake, "impressions", "event_time", "user_id", "post_id") == sorted(
        [(NINE, U1, N1), (NINE, U1, N2), (NINE, U1, N3), (THREE, U2, N3), (THREE, U2, N1), (EIGHT, U1, N3)]
    )
    shown = {(request, post) for request, post in rows(lake, "impressions", "request_id", "post_id")}
    clicks = rows(lake, "actions", "request_id", "post_id", "event_time")
    assert sorted((post, time) for request, post, time in clicks if (request, post) in shown) == sorted(
        [(N1, NINE), (N1, THREE), (N3, EIGHT)]
    )
    assert lake.read("impressions")["position"].null_count == 6
    assert len(set(rows(lake, "impressions", "event_id") + rows(lake, "actions", "event_id"))) == 12


def test_a_request_has_its_user_time_and_candidates(mind, bring, lake):
    bring("mind", mind)
    found = lake.read("requests")
    requests = dict(zip(found["request_id"].to_pylist(), found["candidates"].to_pylist(), strict=True))
    assert sorted(map(sorted, requests.values())) == sorted(map(sorted, [[N1, N2, N3], [N3, N1], [N3]]))
    assert min(requests) > 0
    assert rows(lake, "requests", "user_id", "now") == sorted([(U1, NINE), (U2, THREE), (U1, EIGHT)])
    assert set(requests) == set(rows(lake, "impressions", "request_id"))


def test_a_history_is_imported_once_in_order_before_the_first_impression(mind, bring, lake):
    bring("mind", mind)
    shown = set(rows(lake, "requests", "request_id"))
    clicks = rows(lake, "actions", "event_time", "post_id", "user_id", "request_id")
    history = [(time, post, user) for time, post, user, request in clicks if request not in shown]
    # The third line is the user's earliest.
    assert sorted(history) == sorted([(EIGHT - 3 * HOUR, N4, U1), (EIGHT - 2 * HOUR, N5, U1), (EIGHT - HOUR, N2, U1)])
    assert len({request for *_, request in clicks if request not in shown}) == 3


def history_of(lake):
    """(time, post) of clicks outside of requests."""
    shown = set(rows(lake, "requests", "request_id"))
    clicks = rows(lake, "actions", "event_time", "post_id", "request_id")
    return [(time, post) for time, post, request in clicks if request not in shown]


def test_a_history_does_not_reveal_clicks_on_impressions(folder, bring, lake):
    """In both orders of lines, and with the later history in another part."""
    first = line(1, history="N4", entries="N1-1 N2-0")
    later = line(2, time="11/12/2019 9:00:00 AM", history="N4 N1", entries="N3-0")
    for place, parts in enumerate([[first + later], [later + first], [first, later], [later, first]]):
        for number, text in enumerate(parts):
            folder(f"source{place}/{number}", news__tsv=NEWS, behaviors__tsv=text)
        into = type(lake)(f"{lake.url}{place}")
        report = bring("mind", folder(f"source{place}"), into=into)
        assert report.more == {"history_clicks": 1}
        assert history_of(into) == [(NINE - HOUR, N4)]
        assert rows(into, "actions", "post_id", "event_time") == sorted([(N1, NINE), (N4, NINE - HOUR)])


def test_clicks_added_to_a_history_lie_between_the_two_lines(folder, bring, lake):
    lines = [
        line(2, time="11/11/2019 9:00:01 AM", history="N4 N3 N5", entries="N2-0"),
        line(1, history="N4", entries="N1-0"),
        line(3, user="U2", history="", entries="N1-0"),
    ]
    bring("mind", folder(news__tsv=NEWS, behaviors__tsv="".join(lines)))
    assert history_of(lake) == [(NINE - HOUR, N4), (NINE + 999_998, N3), (NINE + 999_999, N5)]


def test_a_long_history_does_not_start_before_1970(folder, bring, lake):
    entry = line(1, time="1/1/1970 2:00:00 AM", history="N1 N2 N3", entries="N5-0")
    bring("mind", folder(news__tsv=NEWS, behaviors__tsv=entry))
    assert history_of(lake) == sorted([(0, N1), (0, N2), (HOUR, N3)])
    assert not lake.quarantined


def test_posts_are_described_by_the_news_and_created_when_first_mentioned(mind, bring, lake):
    bring("mind", mind)
    assert rows(lake, "posts", "text", "topic", "post_id", "language", "created_at") == sorted(
        [
            ("A long drive. It went far. golf", "sports", N1, "en", NINE),
            ("Cooking at home", "food", N2, "en", EIGHT - HOUR),
            ("Nobody saw this", None, to_int64("N9"), "en", EIGHT - 3 * HOUR),
        ]
    )
    assert lake.read("posts")["author_id"].null_count == 3


def test_users_are_created_when_first_seen_and_names_are_recorded(mind, bring, lake):
    bring("mind", mind)
    assert rows(lake, "users", "user_id", "created_at") == sorted([(U1, EIGHT - 3 * HOUR), (U2, THREE)])
    assert rows(lake, "ids", "kind", "id", "name") == sorted(
        [("user", U1, "U1"), ("user", U2, "U2")]
        + [("post", to_int64(name), name) for name in ("N1", "N2", "N3", "N4", "N5", "N9")]
    )


def test_bad_lines_are_quarantined_with_reason_and_line_and_the_rest_is_imported(folder, bring, lake):
    lines = [
        line(1),
        "2\tU1\t11/11/2019 9:00:00 AM\tN1-1\n",
        line(3, time="2019-11-11 09:00:00"),
        line(4, time="1/1/2027 9:00:00 AM"),
        line(5, user=""),
        line(6, entries="N1-1 N2 N3-0 -1"),
        line(1, user="U2"),
        "\n",
        line(8, user="U" * 201),
        line("", user="U2"),
        line(9, history="N4 " + "N" * 201),
    ]
    path = folder(news__tsv=NEWS + "N3\tfood\n", behaviors__tsv="".join(lines).encode() + b"10\tU\xff\t\t\t\n")
    report = bring("mind", path)
    assert report.quarantined == {
        "duplicate_impression_id": 1,
        "empty_impression_id": 1,
        "empty_post_id": 1,
        "empty_user_id": 1,
        "impression_without_label": 1,
        "invalid_utf8": 1,
        "post_id_too_long": 1,
        "time_in_the_future": 1,
        "unparsable_time": 1,
        "user_id_too_long": 1,
        "wrong_number_of_columns": 3,
    }
    assert report.rows == {"impressions": 4, "actions": 4}
    found = set_aside(lake)
    assert [(reason, number) for reason, file, number, _ in found if file == "behaviors.tsv"] == [
        ("wrong_number_of_columns", 2),
        ("unparsable_time", 3),
        ("time_in_the_future", 4),
        ("empty_user_id", 5),
        ("empty_post_id", 6),
        ("impression_without_label", 6),
        ("duplicate_impression_id", 7),
        ("wrong_number_of_columns", 8),
        ("user_id_too_long", 9),
        ("empty_impression_id", 10),
        ("post_id_too_long", 11),
        ("invalid_utf8", 12),
    ]
    assert ("wrong_number_of_columns", "news.tsv", 4, "N3\tfood") in found
    assert ("unparsable_time", "behaviors.tsv", 3, lines[2].rstrip("\n")) in found
    assert ("impression_without_label", "behaviors.tsv", 6, "N2") in found


def test_parts_in_subfolders_are_imported_by_name_with_separate_requests(folder, bring, lake):
    folder("source/B_dev", news__tsv=NEWS.replace("golf", "tennis"), behaviors__tsv=line(1, user="U2", history="N4"))
    folder("source/A_train", news__tsv=NEWS, behaviors__tsv=line(1))
    path = folder("source/C_empty").parent
    report = bring("mind", path)
    assert report.files == ["A_train/news.tsv", "A_train/behaviors.tsv", "B_dev/news.tsv", "B_dev/behaviors.tsv"]
    assert report.quarantined == {}
    assert len(set(rows(lake, "requests", "request_id"))) == 2
    assert "A long drive. It went far. tennis" in rows(lake, "posts", "text")


@pytest.mark.parametrize("missing", ["news", "behaviors"])
def test_a_missing_file_is_named(folder, bring, lake, missing):
    path = folder(**{f"{name}__tsv": "" for name in {"news", "behaviors"} - {missing}})
    with pytest.raises(DataError, match=rf"has no {missing}\.tsv"):
        bring("mind", path)
    assert lake.unfinished() is None


def test_windows_line_ends_and_a_missing_last_line_end_are_accepted(folder, bring, lake):
    text = BEHAVIORS.replace("\n", "\r\n").rstrip()
    report = bring("mind", folder(news__tsv="\ufeff" + NEWS.replace("\n", "\r\n"), behaviors__tsv=text))
    assert report.quarantined == {}
    assert report.rows == {"impressions": 6, "actions": 6}
    assert N1 in rows(lake, "posts", "post_id")


def test_small_blocks_give_the_same_rows_as_a_large_one(mind, bring, lake, monkeypatch, tmp_path):
    from recsys.offline.imports import lines
    from recsys.offline.lake.lake import Lake

    whole = bring("mind", mind)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 7)
    other = Lake(str(tmp_path / "other"))
    assert bring("mind", mind, into=other) == whole
    for table in ("impressions", "actions", "requests", "posts", "users", "ids"):
        assert sorted(map(str, other.read(table).to_pylist())) == sorted(map(str, lake.read(table).to_pylist()))
