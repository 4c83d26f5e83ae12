"""Names become stable, distinct numbers, and the names can be looked up."""

import numpy as np
import pyarrow as pa
import pytest

from recsys.hashing import hash_rows
from recsys.offline.catalogue.ids import to_int64
from recsys.offline.imports import identity
from recsys.offline.imports.identity import Names, hash_names
from recsys.offline.lake.schemas import TABLES


@pytest.fixture
def names():
    return Names(TABLES["ids"].schema.empty_table())


def test_names_get_the_same_numbers_as_everywhere_else(names):
    given = ["7", "N1", "007", "-5", "0", "N1", "123456789012345678", "9223372036854775807", "9223372036854775808"]
    ids, collided = names.ids_of("post", pa.array(given))
    assert ids.tolist() == [to_int64(name) for name in given]
    assert not collided.any()


def test_only_names_that_are_not_decimal_are_recorded(names):
    names.ids_of("post", pa.array(["7", "N1", "-5"]))
    names.ids_of("user", pa.array(["N1", "007"]))
    kept = {(row["kind"], row["id"]): row["name"] for row in names.table().to_pylist()}
    assert kept == {
        ("post", to_int64("N1")): "N1",
        ("user", to_int64("N1")): "N1",
        ("user", to_int64("007")): "007",
    }


def test_a_second_name_with_the_same_number_is_reported(names, monkeypatch):
    monkeypatch.setattr(identity, "to_int64", lambda name: -1)
    assert names.ids_of("post", pa.array(["a", "a", "b"]))[1].tolist() == [False, False, True]
    assert names.ids_of("post", pa.array(["b", "a"]))[1].tolist() == [True, False]
    assert names.ids_of("user", pa.array(["b"]))[1].tolist() == [False]
    assert names.table().num_rows == 2


def test_names_of_earlier_imports_collide_too(monkeypatch):
    monkeypatch.setattr(identity, "to_int64", lambda name: -1)
    names = Names(pa.table({"kind": ["post"], "id": [-1], "name": ["a"]}))
    assert names.ids_of("post", pa.array(["b", "a"]))[1].tolist() == [True, False]


def test_row_hashes_differ_and_are_never_negative():
    a, b = (column.ravel() for column in np.meshgrid(np.arange(-50, 50), np.arange(-50, 50)))
    mixed = hash_rows(a, b)
    assert len(np.unique(mixed)) == len(a)
    assert (mixed >= 0).all()
    assert (hash_rows(a, b) == mixed).all()
    assert (hash_rows(b, a) != mixed).any()
    assert len(hash_rows(np.empty(0, np.int64), 3)) == 0


def test_hashes_stay_the_same_over_versions():
    assert hash_rows(1, 2).tolist() == [6804074658870690613]
    assert hash_names(pa.array(["5", "x", None])).tolist() == [5, to_int64("x"), 0]
