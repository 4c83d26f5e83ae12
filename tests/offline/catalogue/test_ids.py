"""Any string is an id; a decimal one is its own number."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import RequestError
from recsys.offline.catalogue.ids import MAX_ID_CHARACTERS, to_int64

INT64 = st.integers(-(2**63), 2**63 - 1)
ANY_TEXT = st.text(st.characters(), min_size=1, max_size=MAX_ID_CHARACTERS)  # lone surrogates too


@given(INT64)
def test_a_decimal_int64_becomes_that_number(number):
    assert to_int64(str(number)) == number


@given(ANY_TEXT)
def test_any_other_text_becomes_a_negative_number_that_is_its_own_id(text):
    number = to_int64(text)
    assert -(2**63) <= number < 2**63
    assert number < 0 or str(number) == text
    assert to_int64(text) == number
    assert to_int64(str(number)) == number


@pytest.mark.parametrize("text", ["007", "+5", "-0", " 5", "5 ", "1_000", "٣", "1e3", str(2**63), str(-(2**63) - 1)])
def test_text_that_only_looks_like_a_number_is_hashed(text):
    assert to_int64(text) < 0
    assert str(to_int64(text)) != text


def test_the_number_is_the_same_in_another_process():
    code = "from recsys.offline.catalogue.ids import to_int64; print(to_int64('anna'), to_int64('Ünal'))"
    first, second = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert (to_int64("anna"), to_int64("Ünal")) == (int(first), int(second))


def test_the_hash_is_pinned_because_lakes_and_redis_hold_it():
    assert to_int64("anna") == -5054518887337042537


@pytest.mark.parametrize("text", ["", "x" * (MAX_ID_CHARACTERS + 1)])
def test_empty_and_overlong_ids_are_refused_with_the_rule(text):
    with pytest.raises(RequestError, match=f"must have 1 to 200 characters, got {len(text)}"):
        to_int64(text)


def test_different_texts_get_different_numbers():
    assert len({to_int64(f"user-{n}") for n in range(10_000)}) == 10_000
