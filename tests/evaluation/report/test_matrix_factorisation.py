"""Matrix factorisation finds posts of a user's taste, and cannot know posts and users without a click."""

import numpy as np
import pytest

from recsys.config import IdTowersConfig
from recsys.evaluation.report.matrix_factorisation import MatrixFactorisation
from recsys.features.histories import Clicks
from recsys.retrieval.index.bitmap import Bitmap

N_USERS, N_POSTS, N_CLICKED = 60, 50, 40
SMALL = IdTowersConfig(embedding_size=8, epochs=30, batch_size=64, n_uniform_negatives=32, learning_rate=0.05)
ALL = Bitmap.of(np.ones(N_POSTS, bool))


@pytest.fixture(scope="module")
def factors():
    """Even users click 12 even posts, odd users odd ones; the last user and the last posts have no click."""
    rng = np.random.default_rng(0)
    clicks = [
        (user, post)
        for user in range(N_USERS - 1)
        for post in rng.permutation(np.arange(user % 2, N_CLICKED, 2))[:12].tolist()
    ]
    user, post = np.array(clicks, np.int32)[rng.permutation(len(clicks))].T
    log = Clicks(user, post, np.arange(len(user)))
    return MatrixFactorisation.learn(log, N_USERS, N_POSTS, SMALL, lambda done, total: None)


def test_users_get_the_posts_of_their_taste(factors):
    for user in range(10):
        assert (factors.best(user, ALL, 15) % 2 == user % 2).mean() > 0.9


def test_posts_without_a_click_are_never_found_so_a_list_may_be_short(factors):
    assert sorted(factors.best(0, ALL, 45).tolist()) == list(range(N_CLICKED))


def test_only_allowed_posts_are_found(factors):
    allowed = np.random.default_rng(1).random(N_POSTS) < 0.5
    found = factors.best(3, Bitmap.of(allowed), 10)
    assert len(set(found.tolist())) == 10
    assert allowed[found].all()


def test_a_user_without_a_click_gets_popular_posts(factors):
    found = factors.best(N_USERS - 1, ALL, 10)
    popularity = factors.posts[:, -1]
    assert popularity[np.searchsorted(factors.post_row, found)].min() >= np.sort(popularity)[-10]
