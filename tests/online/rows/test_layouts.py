"""Packed rows keep every bit; invalid rows are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.features.decay import States
from recsys.features.spec import AUTHOR, ENTITIES, POST, USER, USER_AUTHOR, USER_TOPIC, Entity, fingerprint
from recsys.online.keys import Generation, packed
from recsys.online.rows.counter_layout import pack, unpack
from recsys.online.rows.user_layout import ClickColumns, Entries, UserColumns, newest_clicks, pack_users, unpack_users


def random_states(rng: np.random.Generator, n: int, entity: Entity) -> States:
    return States(rng.random(n) * 1e15, rng.random((n, *entity.shape)))


def random_users(seed: int, n: int) -> UserColumns:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (3, n))

    def entries(count: np.ndarray, entity: Entity) -> Entries:
        key = rng.integers(-(2**62), 2**62, count.sum())
        owner = np.repeat(np.arange(n), count)
        key = key[np.lexsort((key, owner))]
        return Entries(count, key, random_states(rng, len(key), entity))

    n_clicks = int(counts[2].sum())
    time = rng.integers(0, 2**50, n_clicks)
    time = time[np.lexsort((-time, np.repeat(np.arange(n), counts[2])))]
    clicks = ClickColumns(counts[2], rng.integers(-(2**62), 2**62, n_clicks), time)
    return UserColumns(
        random_states(rng, n, USER), entries(counts[0], USER_TOPIC), entries(counts[1], USER_AUTHOR), clicks
    )


def assert_same(one: UserColumns, other: UserColumns) -> None:
    for a, b in (
        (one.states, other.states),
        (one.topics.states, other.topics.states),
        (one.authors.states, other.authors.states),
    ):
        np.testing.assert_array_equal(a.t, b.t)
        np.testing.assert_array_equal(a.v, b.v)
    for name in ("topics", "authors"):
        np.testing.assert_array_equal(getattr(one, name).count, getattr(other, name).count)
        np.testing.assert_array_equal(getattr(one, name).key, getattr(other, name).key)
    np.testing.assert_array_equal(one.clicks.count, other.clicks.count)
    np.testing.assert_array_equal(one.clicks.post_id, other.clicks.post_id)
    np.testing.assert_array_equal(one.clicks.time, other.clicks.time)


@pytest.mark.parametrize("entity", ENTITIES, ids=lambda entity: entity.name)
def test_rows_come_back_bit_for_bit_and_absent_ones_as_zeros(entity: Entity) -> None:
    states = random_states(np.random.default_rng(0), 3, entity)
    first, second, third = pack(entity, states)
    back = unpack(entity, [b"a", b"b", b"c", b"d"], [first, None, second, third])
    np.testing.assert_array_equal(back.t, [states.t[0], 0, *states.t[1:]])
    np.testing.assert_array_equal(back.v[[0, 2, 3]], states.v)
    assert not back.v[1].any()


def test_no_rows_are_no_states() -> None:
    assert unpack(POST, [], []).v.shape == (0, *POST.shape)
    assert len(unpack_users([], []).states.t) == 0


@given(st.integers(0, 2**32), st.integers(1, 6))
def test_users_come_back_bit_for_bit(seed: int, n: int) -> None:
    users = random_users(seed, n)
    assert_same(unpack_users([b"k"] * n, pack_users(users)), users)


@given(st.integers(0, 2**32), st.integers(0, 5), st.integers(0, 5))
def test_a_part_of_users_packs_to_the_same_bytes(seed: int, a: int, b: int) -> None:
    users = random_users(seed, 5)
    start, stop = sorted((a, b))
    assert pack_users(users.part(start, stop)) == pack_users(users)[start:stop]


def test_an_absent_user_has_no_counts_and_no_clicks() -> None:
    users = random_users(1, 2)
    first, second = pack_users(users)
    back = unpack_users([b"a", b"b", b"c"], [first, None, second])
    assert back.states.t[1] == 0
    assert back.topics.count[1] == back.authors.count[1] == back.clicks.count[1] == 0
    assert_same(unpack_users([b"a", b"c"], [first, second]), users)


def test_another_fingerprint_is_refused_naming_the_row_both_numbers_and_the_remedy() -> None:
    good, bad = pack(AUTHOR, States.zeros(2, AUTHOR))
    bad = (42).to_bytes(8, "little") + bad[8:]
    with pytest.raises(DataError, match=rf"row wrong .*{fingerprint()}, found 42; run `recsys train`"):
        unpack(AUTHOR, [b"right", b"wrong"], [good, bad])
    user = pack_users(random_users(0, 1))[0]
    with pytest.raises(DataError, match=r"row wrong .*found 42"):
        unpack_users([b"wrong"], [(42).to_bytes(8, "little") + user[8:]])


def test_a_truncated_row_is_refused_even_when_another_is_longer_by_as_much() -> None:
    first, second = pack(POST, random_states(np.random.default_rng(0), 2, POST))
    with pytest.raises(DataError, match=rf"row b must have {len(first)} bytes, found {len(first) - 8}"):
        unpack(POST, [b"a", b"b"], [first, second[:-8]])
    with pytest.raises(DataError, match=rf"row a must have {len(first)} bytes, found {len(first) + 8}"):
        unpack(POST, [b"a", b"b"], [first + bytes(8), second[:-8]])


@pytest.mark.parametrize("cut", [3, 8, 40])
def test_a_truncated_user_is_refused_naming_what_was_found(cut: int) -> None:
    value = pack_users(random_users(3, 1))[0]
    with pytest.raises(DataError, match=rf"row u must have .*bytes.*, found {len(value) - cut}"):
        unpack_users([b"u"], [value[:-cut]])
    with pytest.raises(DataError, match=r"row u must have at least .*bytes, found 20"):
        unpack_users([b"u"], [value[:20]])


def test_the_damaged_user_among_many_is_the_one_that_is_named() -> None:
    values = pack_users(random_users(4, 3))
    unpack_users([b"a", b"b", b"c"], values)
    words = np.frombuffer(values[1], np.float64).copy()
    words[1] = np.nan
    with pytest.raises(DataError, match="row b must have its own time between 1970 and 2169, found nan"):
        unpack_users([b"a", b"b", b"c"], [values[0], words.tobytes(), values[2]])


def test_keys_are_made_only_for_error_messages() -> None:
    def keys() -> list[bytes]:
        raise RuntimeError("asked for")

    good = pack(POST, random_states(np.random.default_rng(0), 1, POST))[0]
    assert len(unpack(POST, keys, [good]).t) == 1
    with pytest.raises(RuntimeError, match="asked for"):
        unpack(POST, keys, [good[:-1]])


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_packed_keys_are_the_keys_packed(ids: list[int]) -> None:
    generation, numbers = Generation(12), np.array(ids, np.int64)
    names = generation.rows("post", numbers)
    assert generation.packed_rows("post", numbers) == packed(names)
    assert len({*map(len, names)}) <= 1
    assert len(set(names)) == len(set(ids))


def test_a_key_can_be_read_by_people() -> None:
    assert Generation(3).rows("post", np.array([107, -1])) == [
        b"recsys:g:3:post:000000000000006b",
        b"recsys:g:3:post:ffffffffffffffff",
    ]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 3)), max_size=30), st.integers(0, 30))
def test_newest_clicks_do_not_depend_on_how_delivery_was_cut_up(clicks: list[tuple[int, int, int]], cut: int) -> None:
    def newest(part: list[tuple[int, int, int]]) -> ClickColumns:
        owner, post_id, time = np.array(part, np.int64).reshape(-1, 3).T
        return newest_clicks(owner, post_id, time, 3, 4)

    before = newest(clicks[:cut])
    owners = np.repeat(np.arange(3), before.count)
    kept = list(zip(owners.tolist(), before.post_id.tolist(), before.time.tolist(), strict=True))
    at_once, in_two = newest(clicks), newest(kept + clicks[cut:])
    np.testing.assert_array_equal(at_once.count, in_two.count)
    np.testing.assert_array_equal(at_once.post_id, in_two.post_id)
    np.testing.assert_array_equal(at_once.time, in_two.time)
