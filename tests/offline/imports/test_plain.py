"""Lists of items: every item is a click, at a made-up time that depends only on the data."""

import pytest

from recsys.errors import DataError
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.imports.plain import END, PERIOD

from .conftest import rows, set_aside

TRAIN = "0 1 2 3\n1 2 x\n2 5 6 7 8 9\n"
TEST = "0 9\n1 1\n"


def clicks(lake):
    """(user, post) in order of time."""
    return [(user, post) for _, user, post in rows(lake, "actions", "event_time", "user_id", "post_id")]


def test_every_interaction_is_a_click_and_no_impression_is_invented(folder, bring, lake):
    report = bring("interactions", folder(train__txt=TRAIN, test__txt=TEST))
    assert report.as_json() == {
        "rows": {"impressions": 0, "actions": 12},
        "clicks": 12,
        "users": 3,
        "posts": 9,
        "id_only_posts": 9,
        "quarantined": {},
        "synthetic_times": True,
        "files": ["train.txt", "test.txt"],
    }
    x = to_int64("x")
    assert sorted(clicks(lake)) == sorted(
        [(0, 1), (0, 2), (0, 3), (1, 2), (1, x), (2, 5), (2, 6), (2, 7), (2, 8), (2, 9), (0, 9), (1, 1)]
    )
    assert set(rows(lake, "actions", "type")) == {"click"}
    assert rows(lake, "ids", "kind", "id", "name") == [("post", x, "x")]
    assert not lake.files("impressions")
    assert lake.info()["synthetic_times"] is True


def test_test_clicks_come_after_all_training_clicks_within_the_period(folder, bring, lake):
    bring("interactions", folder(train__txt=TRAIN, test__txt=TEST))
    assert set(clicks(lake)[-2:]) == {(0, 9), (1, 1)}
    times = rows(lake, "actions", "event_time")
    assert times[0] >= END - PERIOD
    assert times[-1] < END
    assert len(set(times)) == 12


def test_made_up_times_depend_on_the_data_only(folder, bring, lake, tmp_path):
    from recsys.offline.lake.lake import Lake

    bring("interactions", folder(train__txt=TRAIN, test__txt=TEST))
    other = Lake(str(tmp_path / "other"))
    bring("interactions", folder("elsewhere", train__txt=TRAIN, test__txt=TEST), into=other)
    assert clicks(other) == clicks(lake)
    assert rows(other, "actions", "event_time") == rows(lake, "actions", "event_time")


def test_interactions_of_all_users_spread_over_the_whole_period(folder, bring, lake):
    train = "".join(f"{user} {' '.join(str(item) for item in range(20))}\n" for user in range(50))
    bring("interactions", folder(train__txt=train))
    found = rows(lake, "actions", "event_time", "user_id")
    for day in range(14):
        start = END - PERIOD + day * PERIOD // 14
        of_day = {user for time, user in found if start <= time < start + PERIOD // 14}
        assert len(of_day) > 25


def test_an_item_in_both_files_or_twice_in_a_line_is_two_clicks(folder, bring, lake):
    bring("interactions", folder(train__txt="0 1 1\n", test__txt="0 1\n"))
    assert clicks(lake) == [(0, 1)] * 3
    assert len(set(rows(lake, "actions", "event_id"))) == 3


def test_the_same_item_at_the_same_place_of_two_lines_of_a_user_is_two_clicks(folder, bring, lake):
    bring("interactions", folder(train__txt="0 1 2\n0 1 3\n"))
    assert len(set(rows(lake, "actions", "event_id"))) == 4


def test_empty_and_unreadable_lines_are_quarantined(folder, bring, lake):
    text = "0 1\n\n7 \x00\n 2\u00a03 \n" + "4 " + "y" * 201 + " 5\n"
    report = bring("interactions", folder(train__txt=text))
    assert report.quarantined == {"control_character": 1, "empty_line": 1, "post_id_too_long": 1}
    assert [found[:3] for found in set_aside(lake)] == [
        ("empty_line", "train.txt", 2),
        ("control_character", "train.txt", 3),
        ("post_id_too_long", "train.txt", 5),
    ]
    assert sorted(clicks(lake)) == [(0, 1), (2, 3), (4, 5)]


@pytest.mark.parametrize(("kind", "name"), [("interactions", "train__txt"), ("sequences", "sequences__txt")])
def test_a_user_without_items_counts_as_a_user(folder, bring, lake, kind, name):
    report = bring(kind, folder(**{name: "0 1\n7\n2 3\n"}))
    assert (report.users, report.clicks, report.quarantined) == (3, 2, {})


def test_an_import_and_the_benchmark_read_the_same_users_and_items(folder, bring, lake):
    from recsys.bench.public.data import read_dataset

    text = "0 1 x\n\n7\n 2\u00a03\t4 \r\nbad \x07 5\n\u3000é ü\n"
    path = folder(train__txt=text.encode() + b"b \xff\n", test__txt="0 9\n7\n")
    report = bring("interactions", path)
    dataset = read_dataset(path)
    assert report.quarantined == dataset.skipped
    assert (report.users, report.posts) == (len(dataset.user_ids), len(dataset.item_ids))
    assert report.clicks == len(dataset.train) + len(dataset.test)


def test_sequences_keep_the_order_of_each_user(folder, bring, lake):
    text = "1 9 8 7 6 9\n2 3 1\n3 4\n"
    report = bring("sequences", folder(sequences__txt=text))
    assert (report.rows, report.clicks, report.users, report.posts) == ({"impressions": 0, "actions": 8}, 8, 3, 7)
    found = clicks(lake)
    for line in text.splitlines():
        user, *items = map(int, line.split())
        assert [post for who, post in found if who == user] == items
    times = rows(lake, "actions", "event_time")
    assert times[0] >= END - PERIOD
    assert times[-1] < END


def test_users_of_sequences_start_at_different_times(folder, bring, lake):
    bring("sequences", folder(sequences__txt="".join(f"{user} 1 2\n" for user in range(30))))
    assert len(set(rows(lake, "actions", "event_time"))) == 60


def test_a_second_line_of_a_user_is_quarantined(folder, bring, lake):
    report = bring("sequences", folder(sequences__txt="1 2 3\n2 3\n1 4\n"))
    assert report.quarantined == {"user_on_two_lines": 1}
    assert set_aside(lake) == [("user_on_two_lines", "sequences.txt", 3, "1 4")]
    assert 4 not in rows(lake, "actions", "post_id")


@pytest.mark.parametrize(("kind", "name"), [("interactions", "train.txt"), ("sequences", "sequences.txt")])
def test_a_missing_file_is_named(folder, bring, kind, name):
    with pytest.raises(DataError, match=f"has no {name}"):
        bring(kind, folder())
