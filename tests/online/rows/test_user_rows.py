"""Users' rows as patches: independent of the order of delivery; entries older than a row's lifetime are dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys.config import OnlineConfig
from recsys.errors import DataError
from recsys.offline.catalogue.catalogue import Catalogue
from recsys.offline.logs.events import ACTIONS
from recsys.online.rows import user_merge, user_rows
from recsys.online.rows.byte_patches import Patches
from recsys.online.rows.counter_layout import FORGOTTEN, REFRESHED
from recsys.online.rows.events import changes_user_row
from recsys.online.rows.user_layout import unpack_users
from recsys.online.rows.user_rows import advance_users
from recsys.online.stream.records import Event
from recsys.types import DAY, HOUR

from ..conftest import START
from ..consumer.test_changes import columns

IDS = [1, 2, 77]
Rows = list[bytes | None]
NO_ROWS: Rows = [None] * len(IDS)


def patched(rows: Rows, patches: Patches) -> Rows:
    """Rows after the patches, as the script in Redis writes them."""
    after: Rows = []
    at = 0
    for place, (row, (n, whole, _)) in enumerate(zip(rows, patches.heads.tolist(), strict=True)):
        assert n == 1 or not whole
        assert whole or row is not None
        value = bytearray(b"" if whole else row or b"")
        for _ in range(n):
            start, written = np.frombuffer(patches.program, "<u4", 2, at).tolist()
            assert start <= len(value)
            value[start : start + written] = patches.program[at + 8 : at + 8 + written]
            at += 8 + written
        after.append(bytes(value))
        assert patches.row_after(place, row) == after[-1]
    assert at == len(patches.program)
    return after


def apply(catalogue: Catalogue, rows: Rows, events: Sequence[Event]) -> Rows:
    batch = columns(catalogue, events)
    batch = batch.where(changes_user_row(batch.action))
    return patched(rows, advance_users([b"a", b"b", b"c"], rows, batch, np.searchsorted(IDS, batch.user_id), 4))


def test_one_user_and_many_users_run_the_same_compiled_kernel(catalogue: Catalogue) -> None:
    """Compiling takes seconds; a running consumer must not compile again when a batch first has two users."""
    batch = columns(catalogue, [Event("click", 0, 0, 1, 100, START, START)])
    advance_users([b"a"], [None], batch, np.zeros(1, np.int64), 4)
    apply(catalogue, NO_ROWS, [Event("click", n, 0, user, 100, START, START) for n, user in enumerate(IDS)])
    assert len(user_merge.merge_into_patches.signatures) == len(user_rows._find.signatures) == 1


EVENTS = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from(ACTIONS),
        event_id=st.just(0),
        request_id=st.just(0),
        user_id=st.sampled_from(IDS),
        post_id=st.sampled_from([9, 100, 107, 114, 121, -5]),
        event_time=st.integers(START - 100 * HOUR, START),
        ingest_time=st.just(START),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(events=EVENTS, data=st.data())
def test_users_do_not_depend_on_order_or_batches_of_delivery(
    catalogue: Catalogue, events: list[Event], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(events))
    cut = data.draw(st.integers(0, len(events)))
    together = apply(catalogue, NO_ROWS, events)
    parted = apply(catalogue, apply(catalogue, NO_ROWS, shuffled[:cut]), shuffled[cut:])
    at_once, in_two = (unpack_users([b"a", b"b", b"c"], rows) for rows in (together, parted))
    for one, other in ((at_once, in_two), (at_once.topics, in_two.topics), (at_once.authors, in_two.authors)):
        np.testing.assert_array_equal(one.states.t, other.states.t)
        np.testing.assert_allclose(one.states.v, other.states.v, rtol=1e-12, atol=0)
    for name in ("topics", "authors"):
        np.testing.assert_array_equal(getattr(at_once, name).count, getattr(in_two, name).count)
        np.testing.assert_array_equal(getattr(at_once, name).key, getattr(in_two, name).key)
    np.testing.assert_array_equal(at_once.clicks.count, in_two.clicks.count)
    np.testing.assert_array_equal(at_once.clicks.post_id, in_two.clicks.post_id)
    np.testing.assert_array_equal(at_once.clicks.time, in_two.clicks.time)


def click(post_id: int, time: int) -> Event:
    return Event("click", 0, 0, 1, post_id, time, time)


def test_entries_forty_half_lives_older_than_the_newest_event_go_and_the_others_stay(catalogue: Catalogue) -> None:
    rows = apply(catalogue, NO_ROWS, [click(post, START + 70 * n * DAY) for n, post in enumerate([100, 107, 114, 121])])
    before = unpack_users([b"a"], rows[:1])
    assert (len(before.authors.key), len(before.topics.key)) == (4, 4)
    rows = apply(catalogue, rows, [click(128, START + 390 * DAY)])
    (after,) = [unpack_users([b"a"], rows[:1])]
    assert set(after.authors.states.t) == {START + days * DAY for days in (140, 210, 390)}
    assert set(after.topics.states.t) == {START + days * DAY for days in (140, 210, 390)}
    assert list(after.clicks.post_id) == [128, 121, 114, 107]


def test_the_lifetime_of_rows_equals_the_forgotten_limit() -> None:
    assert OnlineConfig().ttl_s * 1e6 == FORGOTTEN == 40 * 7 * DAY
    # Ten half-lives, and a day because a lifetime begins anew only with the first event of a day.
    assert OnlineConfig(ttl_s=71 * 86_400).ttl_s * 1e6 == 10 * 7 * DAY + REFRESHED
    with pytest.raises(ValidationError):
        OnlineConfig(ttl_s=71 * 86_400 - 1)


@pytest.mark.parametrize("setting", [{"ttl_s": 1e18}, {"ttl_s": float("inf")}, {"trending_size": 10**19}])
def test_a_number_that_redis_would_refuse_is_refused_before_anything_is_written(setting: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        OnlineConfig(**setting)


def test_a_click_on_an_unknown_post_counts_for_the_missing_topic_and_no_author(
    catalogue: Catalogue,
) -> None:
    users = unpack_users([b"a"], apply(catalogue, NO_ROWS, [click(10**9, START)])[:1])
    assert list(users.clicks.post_id) == [10**9]
    assert (list(users.topics.key), list(users.authors.key)) == ([0], [])


@pytest.mark.parametrize("damage", [slice(None, -8), slice(None, -3), slice(8, None)])
def test_an_invalid_row_is_named(catalogue: Catalogue, damage: slice) -> None:
    rows = apply(catalogue, NO_ROWS, [click(100, START)])
    damaged: Rows = [None, (rows[0] or b"")[damage], None]
    with pytest.raises(DataError, match="online row b must"):
        apply(catalogue, damaged, [click(107, START)])
