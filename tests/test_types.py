import numpy as np
import worlds

from recsys.types import Source


def test_sources_are_named_in_a_fixed_order():
    assert Source.names(Source.TRENDING | Source.TWO_TOWER) == ["two_tower", "trending"]
    assert Source.names(0) == []


def test_taking_candidates_takes_every_column_along():
    candidates = worlds.candidates([5, 6, 7], [0.3, 0.2, 0.1])
    taken = candidates.take(np.array([2, 0]))
    assert taken.post_row.tolist() == [7, 5]
    np.testing.assert_allclose(taken.score, [0.1, 0.3])
    np.testing.assert_allclose(taken.retrieval_score, [0.1, 0.3])
    assert taken.features is None
    assert len(taken) == 2


def test_what_is_removed_is_remembered_under_its_reason():
    candidates = worlds.candidates([5, 6, 7, 8])
    first = candidates.where(np.array([True, False, True, True]), "old")
    second = first.where(np.array([False, True, True]), "seen").where(np.array([True, False]), "old")
    assert second.post_row.tolist() == [7]
    assert {reason: rows.tolist() for reason, rows in second.removed.items()} == {"old": [6, 8], "seen": [5]}
    assert candidates.removed == {}
    assert first.removed.keys() == {"old"}


def test_keeping_all_changes_nothing():
    candidates = worlds.candidates([5, 6])
    assert candidates.where(np.ones(2, bool), "old") is candidates
