"""A cursor returns what was written to it, only for its own user and only until it expires."""

import base64
import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError, RequestError
from recsys.serving.http.cursor import KEY_BYTES, MAX_REMEMBERED, Cursors, add_page, read_key
from recsys.types import SECOND, Shown

NOW = 1_768_780_800_000_000
CURSORS = Cursors(bytes(range(KEY_BYTES)), ttl_s=60)
SHOWN = Shown((5, 7, -(2**62)), {11: 2, -3: 1}, {"football": 2, "música\0 \U0001f600": 1})

ids = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(1, 2**31)
names = st.text(st.characters(codec="utf-8"), max_size=30)
shown = st.builds(
    Shown,
    st.lists(ids, max_size=40).map(tuple),
    st.dictionaries(ids, counts, max_size=20),
    st.dictionaries(names, counts, max_size=20),
)


@given(shown, ids)
def test_reading_a_cursor_returns_what_was_written_in_order(shown, user_id):
    read = CURSORS.read(CURSORS.write(user_id, shown, NOW), user_id, NOW + 1)
    assert read == shown
    assert (list(read.authors), list(read.topics)) == (list(shown.authors), list(shown.topics))


@given(st.text(max_size=300))
def test_garbage_is_refused_and_never_crashes(text):
    with pytest.raises(RequestError, match="ask for the first page again"):
        CURSORS.read(text, 1, NOW)


@given(st.data())
def test_a_cursor_with_any_bit_changed_is_refused(data):
    raw = base64.urlsafe_b64decode(CURSORS.write(1, SHOWN, NOW) + "==")
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RequestError, match="signature does not match"):
        CURSORS.read(base64.urlsafe_b64encode(changed).decode(), 1, NOW)


def test_a_cursor_signed_with_another_key_is_refused():
    forged = Cursors(b"x" * KEY_BYTES, ttl_s=60).write(1, SHOWN, NOW)
    with pytest.raises(RequestError, match="signature does not match"):
        CURSORS.read(forged, 1, NOW)


def test_a_cursor_of_another_user_is_refused():
    with pytest.raises(RequestError, match="must belong to the user that sends it"):
        CURSORS.read(CURSORS.write(1, SHOWN, NOW), 2, NOW)


def test_a_cursor_is_valid_until_its_expiry():
    text = CURSORS.write(1, SHOWN, NOW)
    assert CURSORS.read(text, 1, NOW + 60 * SECOND - 1) == SHOWN
    with pytest.raises(RequestError, match="must be used within 60 s, but it expired 5 s ago"):
        CURSORS.read(text, 1, NOW + 65 * SECOND)


def test_a_cursor_over_the_length_limit_is_refused_before_decoding():
    with pytest.raises(RequestError, match="at most 32768 characters, got 40000"):
        CURSORS.read("A" * 40_000, 1, NOW)


def test_pages_accumulate_and_the_newest_entries_are_kept():
    shown = Shown()
    for page in range(30):
        posts = list(range(page * 20, page * 20 + 20))
        shown = add_page(shown, posts, [post % 7 for post in posts[:19]], ["a", "b"])
    assert shown.post_ids == tuple(range(600 - MAX_REMEMBERED, 600))
    assert sum(shown.authors.values()) == 30 * 19
    assert shown.topics == {"a": 30, "b": 30}
    assert add_page(shown, [], list(range(1000, 1000 + MAX_REMEMBERED)), []).authors == dict.fromkeys(
        range(1000, 1000 + MAX_REMEMBERED), 1
    )


def test_the_longest_cursor_of_hashed_ids_is_still_accepted():
    hashed = random.Random(0).sample(range(-(2**62), 0), MAX_REMEMBERED)
    full = Shown(tuple(hashed), {-i: 9 for i in hashed}, {f"topic {i:030d}": 3 for i in range(MAX_REMEMBERED)})
    text = CURSORS.write(1, full, NOW)
    assert CURSORS.read(text, 1, NOW) == full


def test_the_key_is_created_once_and_readable_only_by_its_owner(tmp_path):
    path = tmp_path / "data" / "cursor.key"
    key = read_key(path)
    assert len(key) == KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_key(path) == key
    assert [p.name for p in path.parent.iterdir()] == ["cursor.key"]


def test_workers_that_start_together_share_one_key(tmp_path):
    path = tmp_path / "cursor.key"
    code = (
        "from recsys.serving.http.cursor import read_key; sys.stdin.read(1); print(read_key(Path(sys.argv[1])).hex())"
    )
    code = f"import sys; from pathlib import Path; {code}"
    workers = [
        subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    keys = {worker.communicate("x")[0] for worker in workers}
    assert keys == {path.read_bytes().hex() + "\n"}


def test_a_second_worker_uses_the_key_of_the_first(tmp_path, monkeypatch):
    path = tmp_path / "cursor.key"
    real_link = os.link

    def lose_race(source, target):
        path.write_bytes(b"f" * KEY_BYTES)
        real_link(source, target)

    monkeypatch.setattr(os, "link", lose_race)
    assert read_key(path) == b"f" * KEY_BYTES
    assert [p.name for p in tmp_path.iterdir()] == ["cursor.key"]


def test_an_invalid_key_file_is_named_with_the_remedy(tmp_path):
    (tmp_path / "cursor.key").write_bytes(b"short")
    with pytest.raises(DataError, match=r"cursor.key must hold 32 bytes, got 5; delete it"):
        read_key(tmp_path / "cursor.key")
