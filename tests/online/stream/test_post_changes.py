"""Post changes: every reader gets all of them in order, from its own position."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.online.keys import POST_CHANGES
from recsys.online.stream.post_changes import NO_POST, START, PostChange, PostChanges, is_after


def test_changes_come_back_as_they_were_in_order(client):
    changes = PostChanges(client)
    vector = np.arange(8, dtype=np.float32) / 3
    positions = [changes.append(7, vector, language=2), changes.append(2**40, None), changes.append(7, vector * 2)]
    first, second, third = changes.read(START)
    np.testing.assert_array_equal(first.vector, vector)
    np.testing.assert_array_equal(third.vector, vector * 2)
    assert (first.post_id, first.language, second.post_id, second.vector) == (7, 2, 2**40, None)
    assert [change.position for change in (first, second, third)] == positions
    assert is_after(positions[1], positions[0])
    assert not is_after(positions[1], positions[1])


def test_every_reader_gets_all_changes_from_its_own_position(client):
    changes = PostChanges(client)
    positions = [changes.append(number, None) for number in range(5)]
    assert [change.post_id for change in changes.read(positions[1])] == [2, 3, 4]
    assert [change.post_id for change in changes.read(START, count=2)] == [0, 1]
    assert [change.post_id for change in changes.read(START)] == [0, 1, 2, 3, 4]


def test_waiting_ends_without_a_change(client):
    assert PostChanges(client).read(START, block_ms=20) == []


def test_changes_before_a_position_can_be_trimmed(client):
    changes = PostChanges(client)
    positions = [changes.append(number, None) for number in range(5)]
    assert changes.trim(positions[3]) == 3
    assert [change.post_id for change in changes.read(START)] == [3, 4]


@pytest.mark.parametrize(
    "fields", [{"post_id": 1}, {"post_id": "x", "language": 0}, {"vector": b"123", "post_id": 1, "language": 0}]
)
def test_an_unreadable_change_is_logged_and_skipped(client, fields, caplog):
    name = client.xadd(POST_CHANGES, fields).decode()
    changes = PostChanges(client)
    changes.append(7, None)
    bad, good = changes.read(START)
    assert (bad, good.post_id) == (PostChange(name, NO_POST, None), 7)
    assert f"change {name} of recsys:post_changes must have" in caplog.text


@pytest.mark.parametrize(
    ("post_id", "vector", "language", "rule"),
    [
        (2**63, None, -1, "the id of a post must be a number of 64 bits"),
        (1, np.ones(4), 2**31, "the language of a post must be a number of 32 bits"),
        (NO_POST, np.ones(4), 0, "must not be -1"),
        (1, np.ones(5), 0, r"4 dimensions, got shape \(5,\)"),
        (1, np.array([1, 2, np.nan, 4]), 0, "finite vector"),
        (1, np.full(4, 1e300), 0, "finite vector"),
    ],
)
def test_a_change_that_no_index_can_hold_is_refused_with_its_cause(post_id, vector, language, rule):
    with pytest.raises(DataError, match=rule):
        PostChange("1-0", post_id, vector, language).check(4)


def test_another_type_under_the_key_is_named(client):
    client.set(POST_CHANGES, "x")
    with pytest.raises(DataError, match="recsys:post_changes must hold"):
        PostChanges(client).append(1, None)
