"""Every post is in one list, its code approximates its vector, and searches find the best posts."""

import numpy as np
import pytest

from recsys.retrieval.index.bitmap import Bitmap
from recsys.retrieval.index.effort import Effort
from recsys.retrieval.index.fast_lists import inverted_file
from recsys.retrieval.index.fast_lists.inverted_file import InvertedFile
from recsys.retrieval.index.fast_lists.quantizer import Prepared
from recsys.retrieval.index.fast_lists.simd import LANES

RNG = np.random.default_rng(5)
POSTS = (RNG.normal(size=(3000, 12)) * np.linspace(0.1, 3, 12)).astype(np.float32)
QUERIES = (RNG.normal(size=(200, 12)) * np.linspace(2, 0.5, 12)).astype(np.float32)


def built(posts, queries, n_lists, code_bytes):
    prepared = Prepared.of(posts, queries)
    return InvertedFile.grouped(prepared, n_lists).coded(prepared, code_bytes)


@pytest.fixture(scope="module", params=[8, 16])
def lists(request):
    return built(POSTS, QUERIES, 20, request.param)


def decoded(lists):
    """Reconstruct the vectors from lists and codes, in order of row."""
    pairs = lists.codes.transpose(0, 2, 1, 3).reshape(len(lists.rows), -1, 2)
    numbers = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(len(lists.rows), -1)
    list_of = np.repeat(np.arange(lists.n_lists), np.diff(lists.starts) * LANES)
    seen = lists.centres[list_of].astype(np.float64)
    for nth, dimension in enumerate(lists.number_of):
        seen[:, dimension] += (numbers[:, nth] - 7.5) * lists.step[nth]
    filled = lists.rows >= 0
    result = np.empty_like(POSTS)
    result[lists.rows[filled]] = (seen @ lists.to_seen.T.astype(np.float64))[filled]
    return result


def test_every_post_is_in_exactly_one_lane(lists):
    np.testing.assert_array_equal(np.sort(lists.rows[lists.rows >= 0]), np.arange(len(POSTS)))
    assert lists.sizes.sum() == len(POSTS)


def test_scores_of_codes_are_close_to_scores_of_vectors(lists):
    error = QUERIES @ (decoded(lists) - POSTS).T
    assert np.sqrt((error**2).mean()) < (0.1 if lists.code_bytes == 8 else 0.02) * (QUERIES @ POSTS.T).std()


def test_longer_codes_have_less_error():
    def error(code_bytes):
        coded = built(POSTS, QUERIES, 20, code_bytes)
        return float(((QUERIES @ (decoded(coded) - POSTS).T) ** 2).mean())

    assert error(16) < error(8) / 4


def test_the_dimension_with_the_largest_score_variance_gets_the_most_nibbles():
    posts = POSTS * np.array([50.0] + [1.0] * 11, np.float32)
    coded = built(posts, np.eye(12, dtype=np.float32), 1, 8)
    count = np.bincount(coded.number_of, minlength=12)
    assert count.max() >= 2
    assert count.min() <= 1


def test_recoding_the_lists_equals_a_new_build(lists):
    again = lists.coded(Prepared.of(POSTS, QUERIES), 24)
    fresh = built(POSTS, QUERIES, 20, 24)
    np.testing.assert_array_equal(again.codes, fresh.codes)
    np.testing.assert_array_equal(again.step, fresh.step)


def test_a_single_query_gives_the_same_results_as_in_a_batch(lists):
    effort = Effort(5, 2)
    scores, rows = lists.search(QUERIES[:20], 30, None, effort)
    for i in range(20):
        one_scores, one_rows = lists.search(QUERIES[i : i + 1], 30, None, effort)
        np.testing.assert_array_equal(one_scores[0], scores[i])
        np.testing.assert_array_equal(one_rows[0], rows[i])


def test_visited_counts_the_lanes_of_the_lists(lists):
    assert lists.visited(QUERIES[:10], Effort(lists.n_lists, 2)) == lists.starts[-1] * LANES
    assert 0 < lists.visited(QUERIES[:10], Effort(2, 2)) < lists.starts[-1] * LANES


@pytest.mark.parametrize("share", [1.0, 0.05, 0.004])
@pytest.mark.parametrize("effort", [Effort(0, 1), Effort(3, 2)])
@pytest.mark.parametrize("k", [1, 10])
@pytest.mark.parametrize("n_allowed", [0, 1, 60])
def test_the_search_ends_even_if_the_allowed_share_is_wrong(lists, k, effort, share, n_allowed, monkeypatch):
    """An endless search could not be interrupted: it is compiled code."""
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", 0)
    worst = np.argsort(QUERIES[0] @ POSTS.T)[:n_allowed]
    mask = np.isin(np.arange(len(POSTS)), worst)
    bitmap = Bitmap(np.packbits(mask, bitorder="little"), len(POSTS), share)
    _, rows = lists.search(QUERIES[:3], k, bitmap, effort)
    assert mask[rows[rows >= 0]].all()
    if effort.lists:
        assert (rows >= 0).sum() == 3 * min(k, n_allowed)


def test_a_strict_filter_makes_the_search_visit_more_lists(lists, monkeypatch):
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", 0)
    allowed = Bitmap.of(RNG.random(len(POSTS)) < 0.1)
    posts = np.flatnonzero(allowed.has(np.arange(len(POSTS), dtype=np.int32)))
    best = posts[np.argsort(-(QUERIES[:50] @ POSTS[posts].T), axis=1)[:, :20]]

    def recall(bitmap):
        _, rows = lists.search(QUERIES[:50], 20, bitmap, Effort(4, 4))
        return np.mean(
            [len(set(row) & set(exact)) / 20 for row, exact in zip(rows.tolist(), best.tolist(), strict=True)]
        )

    visited, best_of_lists = [], inverted_file.search_kernel.best_of_lists
    monkeypatch.setattr(
        inverted_file.search_kernel,
        "best_of_lists",
        lambda query, n_lists, *words: visited.append(n_lists) or best_of_lists(query, n_lists, *words),
    )
    assert recall(allowed) > 0.8
    assert set(visited) == {16}  # 4 * 0.1 ** -0.6
    # The search notices a wrong share: the same bits, declared as all posts.
    assert recall(Bitmap(allowed.bits, allowed.n_posts, 1.0)) > 0.8


@pytest.mark.parametrize(("n_best", "k"), [(20, 5), (50, 5), (20, 20), (200, 20), (1000, 20), (2900, 20)])
def test_when_the_best_posts_are_excluded_the_next_best_are_found(lists, n_best, k, monkeypatch):
    """The user was shown the best posts before."""
    monkeypatch.setattr(inverted_file, "SCORE_ALL_BELOW", 0)
    everything = Bitmap.of(np.ones(len(POSTS), bool))
    order = np.argsort(-(QUERIES[:100] @ POSTS.T), axis=1)

    def recall(effort):
        shares = []
        for nth, best in enumerate(order):
            allowed = everything.without(best[:n_best].astype(np.int32))
            _, rows = lists.search(QUERIES[nth : nth + 1], k, allowed, effort)
            shares.append(len(set(rows[0].tolist()) & set(best[n_best : n_best + k].tolist())) / k)
        return np.mean(shares)

    # Compare with the largest effort, not with exact scores: further down, scores are closer than bytes can resolve.
    assert recall(Effort(6, 2)) > recall(Effort(lists.n_lists, 100)) - 0.03


def test_a_huge_effort_equals_scoring_all_posts(lists):
    """Rescoring more posts than there are rescores all."""
    _, most = lists.search(QUERIES[:5], 20, None, Effort(lists.n_lists, 1e300))
    _, all_ = lists.search(QUERIES[:5], 20, None, Effort(lists.n_lists, len(POSTS)))
    np.testing.assert_array_equal(most, all_)


def test_a_very_strict_filter_scores_every_allowed_post(lists):
    mask = RNG.random(len(POSTS)) < 0.05
    _, rows = lists.search(QUERIES[:50], 20, Bitmap.of(mask), Effort(1, 1))
    scores = QUERIES[:50] @ POSTS.T
    worst = np.take_along_axis(scores, rows, axis=1).min(axis=1)
    twentieth = np.sort(np.where(mask, scores, -np.inf), axis=1)[:, -20]
    assert mask[rows].all()
    rounding = np.abs(QUERIES[:50]) @ np.ptp(POSTS, axis=0) / 255
    assert (worst >= twentieth - rounding).all()
