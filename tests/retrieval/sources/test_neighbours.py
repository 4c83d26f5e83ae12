"""Neighbours of posts: the formula on a hand-counted log; order, repeats and block size do not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import rows

from recsys.config import CovisitationConfig
from recsys.retrieval.sources import neighbours as module
from recsys.retrieval.sources.neighbours import neighbours

CONFIG = CovisitationConfig(n_neighbours=10, shrinkage=2.0)


def found(pairs, n_posts=6, config=CONFIG):
    user, post = rows([user for user, _ in pairs]), rows([post for _, post in pairs])
    result = neighbours(user, post, int(user.max(initial=-1)) + 1, n_posts, config)
    return {
        number: list(zip(result.post[low:high].tolist(), result.similarity[low:high].tolist(), strict=True))
        for number, (low, high) in enumerate(zip(result.start[:-1], result.start[1:], strict=True))
    }


def plainly(pairs, n_posts, config):
    pairs = set(pairs)
    users = {post: {user for user, other in pairs if other == post} for post in range(n_posts)}
    posts = {user: {post for other, post in pairs if other == user} for user, _ in pairs}
    answer = {}
    for one in range(n_posts):
        similar = []
        for other in range(n_posts):
            both = users[one] & users[other]
            if other != one and both:
                weight = sum(1 / np.log2(1 + len(posts[user])) for user in both)
                similar.append((other, weight / (np.sqrt(len(users[one]) * len(users[other])) + config.shrinkage)))
        answer[one] = similar
    return answer


def test_posts_clicked_by_the_same_people_are_neighbours():
    answer = found([(0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (2, 3)])
    two = 1 / np.log2(3)
    assert [post for post, _ in answer[2]] == [1, 3]
    assert answer[2][0][1] == pytest.approx(2 * two / (np.sqrt(2 * 3) + 2))
    assert answer[2][1][1] == pytest.approx(two / (np.sqrt(1 * 3) + 2))
    assert answer[0] == answer[4] == answer[5] == []


PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=40)


@settings(deadline=None)
@given(pairs=PAIRS, shuffled=st.randoms())
def test_neighbours_equal_a_plain_loop_in_any_order_and_with_repeats(pairs, shuffled):
    again = [*pairs, *pairs[:3]]
    shuffled.shuffle(again)
    answer, wanted = found(again), plainly(pairs, 6, CONFIG)
    assert answer == found(pairs)
    for post, similar in wanted.items():
        assert {other for other, _ in answer[post]} == {other for other, _ in similar}
        for other, value in answer[post]:
            assert value == pytest.approx(dict(similar)[other], rel=1e-5)
        values = [value for _, value in answer[post]]
        assert values == sorted(values, reverse=True)


def test_the_best_neighbours_are_kept_with_ties_by_row():
    pairs = [(user, post) for user in range(3) for post in range(5)]
    assert [post for post, _ in found(pairs, config=CONFIG.model_copy(update={"n_neighbours": 2}))[3]] == [0, 1]


def test_the_block_size_does_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(0)
    pairs = list(zip(rng.integers(0, 20, 200).tolist(), rng.integers(0, 30, 200).tolist(), strict=True))
    whole = found(pairs, 30)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 50)
    assert found(pairs, 30) == whole


def test_without_clicks_no_post_has_neighbours():
    assert found([], 3) == {0: [], 1: [], 2: []}


def test_the_matrix_holds_the_same_similarities():
    pairs = [(0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (2, 3)]
    user, post = (rows(column) for column in zip(*pairs, strict=True))
    result = neighbours(user, post, 3, 6, CONFIG)
    matrix = result.matrix().toarray()
    for one, similar in found(pairs).items():
        assert {other: pytest.approx(matrix[one, other]) for other in np.flatnonzero(matrix[one])} == dict(similar)
