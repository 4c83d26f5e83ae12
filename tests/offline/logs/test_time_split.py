"""Shares follow time; no label comes from the next share."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.offline.logs.exposures import Exposures
from recsys.offline.logs.time_split import SHARES, split_by_time
from recsys.types import DAY, HOUR, SECOND

START = 1_767_571_200 * SECOND


def exposures(now, click=True, screen_delay=0):
    now = np.asarray(now, np.int64)
    rows = np.zeros(len(now), np.int32)
    return Exposures(
        request_id=now,
        user_row=rows,
        post_row=rows,
        position=rows,
        now=now,
        seen=now,
        history_seen=now,
        shown_at=now + screen_delay,
        policy=rows,
        propensity=rows.astype(np.float32),
        click=np.broadcast_to(click, now.shape),
    )


EVERY_MINUTE = START + np.arange(0, 14 * DAY, 60 * SECOND)


def test_shares_divide_the_exposures_in_proportion_and_in_order():
    split = split_by_time(exposures(EVERY_MINUTE), (9, 3, 1, 1), 60)
    assert split.bounds("towers")[0] == START
    lengths = [(end - start) / DAY for start, end in map(split.bounds, SHARES)]
    assert lengths == pytest.approx([9, 3, 1, 1], abs=0.001)
    assert all(split.bounds(a)[1] == split.bounds(b)[0] for a, b in pairwise(SHARES))
    assert split.bounds("test")[1] == EVERY_MINUTE[-1] + 1


def test_only_the_ratios_of_shares_count():
    rows = exposures(EVERY_MINUTE)
    assert split_by_time(rows, (9, 3, 1, 1), 60) == split_by_time(rows, (0.9, 0.3, 0.1, 0.1), 60)


def test_an_exposure_whose_window_crosses_a_cut_is_in_no_share():
    rows = exposures(EVERY_MINUTE)
    split = split_by_time(rows, (9, 3, 1, 1), 3600)
    masks = {share: split.rows(rows, share) for share in SHARES}
    assert np.sum(list(masks.values()), axis=0).max() == 1, "no exposure is in two shares"
    for share in SHARES[:-1]:
        last = rows.now[masks[share]].max()
        end = split.bounds(share)[1]
        assert last + HOUR < end
        assert last + HOUR + 60 * SECOND >= end, "and nothing more is dropped"
    assert masks["test"][-1], "the test's windows may end after the logs"
    assert int((~np.any(list(masks.values()), axis=0)).sum()) == 3 * 60


def test_the_label_window_starts_on_screen_not_at_the_request():
    rows = exposures(EVERY_MINUTE, screen_delay=10 * 60 * SECOND)
    split = split_by_time(rows, (9, 3, 1, 1), 3600)
    for share in SHARES[:-1]:
        assert rows.shown_at[split.rows(rows, share)].max() + HOUR < split.bounds(share)[1]
    assert split.rows(rows, "test")[-1]


def test_a_gap_in_the_logs_and_one_late_click_leave_no_share_empty():
    first, second = EVERY_MINUTE[: len(EVERY_MINUTE) // 2], EVERY_MINUTE[len(EVERY_MINUTE) // 2 :] + 60 * DAY
    rows = exposures(np.append(np.concatenate([first, second]), second[-1] + 30 * DAY))
    split = split_by_time(rows, (6, 5, 1, 2), 60)
    sizes = np.array([split.rows(rows, share).sum() for share in SHARES])
    assert sizes / sizes.sum() == pytest.approx(np.array([6, 5, 1, 2]) / 14, abs=0.001)
    assert split.rows(rows, "test")[-1]


@pytest.mark.parametrize("moments", [1, 2, 3])
def test_exposures_at_too_few_moments_for_four_shares_raise_a_named_error(moments):
    rows = exposures(START + np.repeat(np.arange(moments) * DAY, 100))
    with pytest.raises(DataError, match=r"the \w+ share of the logs has no click; offline.split needs .* moments"):
        split_by_time(rows, (6, 5, 1, 2), 60)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=200))
def test_exposures_of_one_moment_are_in_one_share(days):
    rows = exposures(START + np.sort(np.array(days)) * DAY)
    try:
        split = split_by_time(rows, (6, 5, 1, 2), 60)
    except DataError:
        return
    for moment in np.unique(rows.now):
        found = [int(split.rows(rows, share)[rows.now == moment].sum()) for share in SHARES]
        assert sorted(found) == [0, 0, 0, int((rows.now == moment).sum())]


@pytest.mark.parametrize("empty", SHARES)
def test_a_share_without_clicks_raises_an_error_with_its_name(empty):
    rows = exposures(EVERY_MINUTE)
    start, end = split_by_time(rows, (9, 3, 1, 1), 60).bounds(empty)
    click = (rows.now < start) | (rows.now >= end)
    with pytest.raises(DataError, match=f"the {empty} share of the logs has no click"):
        split_by_time(exposures(EVERY_MINUTE, click), (9, 3, 1, 1), 60)


def test_a_share_shorter_than_the_label_window_raises_an_error():
    with pytest.raises(DataError, match=r"the calibrators share .* got \(9, 3, 1, 1\)"):
        split_by_time(exposures(EVERY_MINUTE), (9, 3, 1, 1), DAY / SECOND)
