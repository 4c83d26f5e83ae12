"""Towers of ids: whose clicks an example sees, the loss written out, and what is learned from who clicked what."""

from itertools import chain

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from worlds import rows

from recsys.config import IdTowersConfig
from recsys.retrieval.towers.id_towers import IdTowers, Log

SMALL = IdTowersConfig(
    embedding_size=8, epochs=30, batch_size=32, n_uniform_negatives=16, learning_rate=0.05, history_size=4,
    history_dropout=0.0,
)  # fmt: skip
N_POSTS = 12


def nothing(done, total):
    pass


def log_of(lists, ordered=False):
    start = np.cumsum([0, *map(len, lists)])
    return Log(start, rows(list(chain(*lists))), ordered)


def missing(user):
    """The post of its taste that a user did not click."""
    return (2 * user) % N_POSTS + user % 2


@pytest.fixture
def tastes():
    """Users 0, 2, 4, ... click even posts, the others odd ones; each misses one of its taste."""
    lists = [
        [post for post in range(user % 2, N_POSTS, 2) if post != (2 * user) % N_POSTS + user % 2] for user in range(40)
    ]
    return log_of(lists)


def histories(model, examples):
    found = model._before(np.array(examples), torch.Generator().manual_seed(0))
    return [
        found.post[low:high][found.keep[low:high]].tolist()
        for low, high in zip(found.start[:-1], found.start[1:], strict=True)
    ]


def test_of_a_set_an_example_sees_everything_but_itself():
    model = IdTowers(log_of([[1, 2, 3], [], [4], [5, 6]]), N_POSTS, SMALL)
    assert histories(model, range(6)) == [[2, 3], [1, 3], [1, 2], [], [6], [5]]


def test_in_ordered_logs_the_history_is_the_newest_earlier_clicks():
    model = IdTowers(log_of([[1, 2, 3, 4, 5, 6], [7, 8]], ordered=True), N_POSTS, SMALL)
    assert histories(model, [0, 1, 3, 5, 6, 7]) == [[], [1], [1, 2, 3], [2, 3, 4, 5], [], [7]]
    found = model._before(np.array([3]), torch.Generator().manual_seed(0))
    assert found.distance.tolist() == [2, 1, 0]


def test_of_a_large_set_an_example_sees_a_few_at_random_and_never_itself():
    model = IdTowers(log_of([list(range(12))]), N_POSTS, SMALL)
    for example in range(12):
        (seen,) = histories(model, [example])
        assert example not in seen
        assert len(seen) <= 4


def test_dropout_hides_a_share_of_the_history():
    config = SMALL.model_copy(update={"history_dropout": 0.5, "history_size": 50})
    model = IdTowers(log_of([list(range(12))] * 50), N_POSTS, config)
    seen = sum(map(len, histories(model, range(600))))
    assert 0.4 < seen / (600 * 11) < 0.6


@pytest.mark.parametrize("user_ids", [True, False])
@pytest.mark.parametrize("ordered", [True, False])
def test_the_loss_is_the_corrected_softmax_of_cosines(user_ids, ordered):
    log = log_of([[1, 2, 3], [4, 2], [7, 8, 9, 1]], ordered)
    config = SMALL.model_copy(update={"user_ids": user_ids, "history_size": 3})
    model = IdTowers(log, N_POSTS, config)
    with torch.no_grad():
        model._recency.copy_(torch.tensor([0.3, -0.2, 0.1]))
        model._popularity.weight.copy_(torch.linspace(-1, 1, N_POSTS)[:, None])
    batch = [1, 3, 8, 4]
    found = model.loss(torch.tensor(batch), torch.Generator().manual_seed(5)).item()

    generator = torch.Generator().manual_seed(5)
    drawn = torch.randint(N_POSTS, (16,), generator=generator).numpy()
    lists = {0: [1, 2, 3], 1: [4, 2], 2: [7, 8, 9, 1]}
    flat = [(user, place) for user, posts in lists.items() for place in range(len(posts))]
    post_table = model._posts.weight.numpy().astype(float)
    people = model._users.weight.numpy().astype(float) if user_ids else np.zeros((3, 8))
    rng = np.random.default_rng(int(torch.randint(1 << 62, (1,), generator=generator)))
    losses = []
    positive = [lists[user][place] for user, place in (flat[example] for example in batch)]
    sampled = {}
    if not ordered:  # the one user with more posts than the history holds
        draws = rng.random(sum(min(len(lists[flat[e][0]]), 3) for e in batch))
        at = 0
        for example in batch:
            user, place = flat[example]
            n = min(len(lists[user]), 3)
            chosen = range(n) if len(lists[user]) <= 3 else (draws[at : at + n] * len(lists[user])).astype(int)
            sampled[example] = [lists[user][c] for c in chosen if c != place]
            at += n
    share = np.bincount(log.post, minlength=N_POSTS) / len(log.post)
    for i, example in enumerate(batch):
        user, place = flat[example]
        seen = lists[user][max(0, place - 3) : place] if ordered else sampled[example]
        weight = np.exp([0.3, -0.2, 0.1][: len(seen)])[::-1] if ordered else np.ones(len(seen))
        vector = people[user] + (weight @ post_table[seen] / np.sqrt(weight.sum()) if seen else 0)
        vector = vector / max(np.linalg.norm(vector), 1e-12)
        unit = post_table / np.linalg.norm(post_table, axis=1, keepdims=True)
        score = np.exp(unit @ vector / config.temperature + np.linspace(-1, 1, N_POSTS))
        others = [(positive[j], 3 * share[positive[j]]) for j in range(4) if j != i]
        others += [(post, 16 / N_POSTS) for post in drawn]
        total = sum(score[post] / (2 * often) for post, often in others if post != positive[i])
        losses.append(-np.log(score[positive[i]] / (score[positive[i]] + total)))
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def missing_rank(model, log):
    """Mean place of the one post of its taste that each user did not click, among all not clicked."""
    users = np.arange(log.n_users, dtype=np.int32)
    score = model.user_vectors(users, log) @ model.post_vectors().T
    places = []
    for user in users.tolist():
        had = set(log.post[log.start[user] : log.start[user + 1]].tolist())
        order = [post for post in np.argsort(-score[user]).tolist() if post not in had]
        places.append(order.index(missing(user)))
    return np.mean(places)


@pytest.mark.parametrize(
    "change", [{}, {"history_size": 0, "user_ids": True}, {"user_ids": True}, {"history_dropout": 0.3}]
)
def test_users_get_what_is_missing_of_their_taste(tastes, change):
    model = IdTowers(tastes, N_POSTS, SMALL.model_copy(update=change))
    model.fit(nothing)
    assert missing_rank(model, tastes) < 0.5  # by chance 3


def test_a_user_who_was_not_learned_from_is_known_by_the_history_given_later(tastes):
    silent = Log(np.append(tastes.start, tastes.start[-1]), tastes.post, ordered=False)
    model = IdTowers(silent, N_POSTS, SMALL)
    model.fit(nothing)
    known = Log(np.append(tastes.start, tastes.start[-1] + 2), np.append(tastes.post, rows([1, 3])), ordered=False)
    score = model.user_vectors(rows([40]), known) @ model.post_vectors().T
    assert set(np.argsort(-score[0])[:6].tolist()) == {1, 3, 5, 7, 9, 11}


def test_the_order_of_a_sequence_is_learned():
    """What comes next is the newest post's successor, whatever came before it."""
    rng = np.random.default_rng(0)
    lists = []
    for _ in range(300):
        first = int(rng.integers(N_POSTS))
        lists.append([int(rng.integers(N_POSTS)), int(rng.integers(N_POSTS)), first, (first + 1) % N_POSTS])
    config = SMALL.model_copy(update={"epochs": 60, "temperature": 0.2})
    model = IdTowers(log_of(lists, ordered=True), N_POSTS, config)
    model.fit(nothing)
    assert model._recency[0] > model._recency[2]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tastes):
    def vectors(seed):
        model = IdTowers(tastes, N_POSTS, SMALL.model_copy(update={"seed": seed, "epochs": 2}))
        model.fit(nothing)
        return model.post_vectors().tobytes() + model.user_vectors(rows([0, 1]), tastes).tobytes()

    assert vectors(1) == vectors(1) != vectors(2)


def test_what_everybody_clicks_is_popular(tastes):
    lists = [[*range(user % 2, N_POSTS - 2, 2), N_POSTS - 1] for user in range(40)]
    model = IdTowers(log_of(lists), N_POSTS, SMALL)
    model.fit(nothing)
    popularity = model.post_vectors()[:, -1]
    assert popularity.argmax() == N_POSTS - 1
    np.testing.assert_array_equal(model.user_vectors(rows([0, 1]), log_of(lists))[:, -1], 1)


def test_a_user_alone_gets_the_vector_of_the_same_user_among_others(tastes):
    model = IdTowers(tastes, N_POSTS, SMALL)
    together = model.user_vectors(np.arange(40, dtype=np.int32), tastes)
    for user in (0, 7, 39):
        np.testing.assert_allclose(model.user_vectors(rows([user]), tastes)[0], together[user], rtol=1e-5, atol=1e-6)


def test_neither_ids_nor_history_is_refused():
    with pytest.raises(ValidationError, match="user_ids or a history_size above 0"):
        IdTowersConfig(user_ids=False, history_size=0)
