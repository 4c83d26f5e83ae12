import numpy as np
import worlds
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import RerankingConfig
from recsys.reranking.mmr import MaximalMarginalRelevance, select


def unit(rng, n, size):
    vectors = rng.normal(size=(n, size)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def naive(relevance, vectors, diversity, k):
    """The definition, pair by pair."""
    chosen = []
    while len(chosen) < min(k, len(relevance)):
        best, best_value = -1, -np.inf
        for place in range(len(relevance)):
            if place in chosen:
                continue
            likeness = max([0.0, *(float(vectors[place] @ vectors[other]) for other in chosen)])
            value = (1 - diversity) * float(relevance[place]) - diversity * likeness
            if value > best_value:
                best, best_value = place, value
        chosen.append(best)
    return chosen


@given(st.integers(1, 25), st.integers(0, 12), st.sampled_from([0.0, 0.15, 0.5, 0.9, 1.0]), st.integers(0, 2**32 - 1))
def test_the_vectorised_choice_equals_the_naive_one(n, k, diversity, seed):
    rng = np.random.default_rng(seed)
    relevance, vectors = rng.random(n).astype(np.float32), unit(rng, n, 4)
    assert select(relevance, vectors, diversity, k).tolist() == naive(relevance, vectors, diversity, k)


def rerank(score, vectors, *, diversity, limit=20, pool=150):
    mmr = MaximalMarginalRelevance(vectors, RerankingConfig(diversity=diversity, mmr_pool=pool))
    return mmr(worlds.context(limit=limit), worlds.candidates(range(len(score)), score))


def test_without_diversity_the_order_is_that_of_the_scores():
    vectors = unit(np.random.default_rng(0), 5, 3)
    assert rerank([0.2, 0.5, 0.1, 0.5, 0.3], vectors, diversity=0.0).post_row.tolist() == [1, 3, 4, 0, 2]


def test_a_copy_of_the_best_post_loses_to_a_different_post():
    vectors = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    assert rerank([0.9, 0.8, 0.7], vectors, diversity=0.3).post_row.tolist() == [0, 2, 1]


def test_equal_vectors_keep_the_order_of_scores():
    vectors = np.tile(np.array([[0.6, 0.8]], np.float32), (4, 1))
    assert rerank([0.1, 0.4, 0.2, 0.3], vectors, diversity=0.5).post_row.tolist() == [1, 3, 2, 0]


def test_full_diversity_alternates_between_two_directions():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    assert rerank([0.9, 0.8, 0.2, 0.1], vectors, diversity=1.0).post_row.tolist()[:2] == [0, 2]


def test_the_choice_does_not_depend_on_the_scale_of_scores():
    vectors = unit(np.random.default_rng(1), 30, 4)
    score = np.random.default_rng(2).random(30)
    assert (
        rerank(score, vectors, diversity=0.4).post_row.tolist()
        == rerank(score / 100, vectors, diversity=0.4).post_row.tolist()
    )


def test_a_slate_longer_than_the_pool_is_filled():
    vectors = unit(np.random.default_rng(3), 40, 4)
    score = np.linspace(1, 0.5, 40)
    assert len(rerank(score, vectors, diversity=0.2, limit=20, pool=5)) == 20
    assert set(rerank(score, vectors, diversity=0.9, limit=3, pool=5).post_row.tolist()) <= set(range(5))


def test_chosen_candidates_keep_their_columns():
    vectors = unit(np.random.default_rng(4), 6, 3)
    score = [0.1, 0.6, 0.3, 0.2, 0.5, 0.4]
    slate = rerank(score, vectors, diversity=0.5, limit=4)
    np.testing.assert_allclose(slate.score, np.array(score, np.float32)[slate.post_row])


def test_no_candidates_give_an_empty_slate():
    assert len(rerank([], np.empty((0, 3), np.float32), diversity=0.5)) == 0
