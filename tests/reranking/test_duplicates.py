import numpy as np
import worlds
from hypothesis import given

from recsys.reranking.duplicates import Duplicates


def test_the_best_scored_copy_of_a_text_is_kept():
    catalogue = worlds.catalogue([0, 1, 2, 3], group=[0, 0, 2, 0])
    kept = Duplicates(catalogue)(worlds.context(), worlds.candidates([3, 0, 1, 2], [0.2, 0.1, 0.3, 0.1]))
    assert kept.post_row.tolist() == [1, 2]
    assert sorted(kept.removed["duplicate"].tolist()) == [0, 3]


def test_equal_scores_keep_the_lowest_row():
    kept = Duplicates(worlds.catalogue([0, 1], group=[0, 0]))(worlds.context(), worlds.candidates([1, 0], [0.5, 0.5]))
    assert kept.post_row.tolist() == [0]


@given(worlds.scored_posts())
def test_every_text_is_kept_exactly_once_with_its_best_score(world):
    catalogue, candidates = world
    kept = Duplicates(catalogue)(worlds.context(), candidates)
    groups = catalogue.group[candidates.post_row]
    best = {group: candidates.score[groups == group].max() for group in np.unique(groups)}
    found = dict(zip(catalogue.group[kept.post_row].tolist(), kept.score.tolist(), strict=True))
    assert len(found) == len(kept)
    assert found == best
