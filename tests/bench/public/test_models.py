"""Models that learn, on data whose answer is known; and the lists they are read out by."""

import numpy as np
import pytest

from recsys.bench.public.compare import evaluate
from recsys.bench.public.data import Interactions, read_dataset
from recsys.bench.public.models import MODELS, _held_out, best
from recsys.config import IdTowersConfig, RetrievalConfig

CONFIG = RetrievalConfig(
    id_towers=IdTowersConfig(
        epochs=12, embedding_size=16, batch_size=128, n_uniform_negatives=64, learning_rate=0.03
    )
)  # fmt: skip


def no_report(done, total):
    pass


def interactions(lists):
    start = np.cumsum([0, *map(len, lists)])
    return Interactions(start, np.array([item for items in lists for item in items], np.int32))


@pytest.fixture
def tastes(tmp_path):
    """120 users of 4 tastes, of 12 items each; half of a user's items are the test."""
    rng = np.random.default_rng(0)
    with (tmp_path / "train.txt").open("w") as train, (tmp_path / "test.txt").open("w") as test:
        for user in range(120):
            items = [f"{user % 4}-{item}" for item in rng.permutation(12)]
            print(user, *items[:6], file=train)
            print(user, *items[6:], file=test)
    return read_dataset(tmp_path)


@pytest.fixture
def cycles(tmp_path):
    """Sequences that go round a cycle of 30 items, from anywhere."""
    rng = np.random.default_rng(0)
    with (tmp_path / "sequences.txt").open("w") as lines:
        for user in range(200):
            first = rng.integers(30)
            print(user, *((first + step) % 30 for step in range(8)), file=lines)
    return read_dataset(tmp_path)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "popularity"])
def test_a_model_that_learns_finds_tastes(tastes, name):
    learned = MODELS[name](tastes, 20, CONFIG, no_report)
    assert evaluate(tastes, learned.recommend, no_report)["recall@20"] > 0.9
    popular = MODELS["popularity"](tastes, 20, CONFIG, no_report)
    assert evaluate(tastes, popular.recommend, no_report)["recall@20"] < 0.6


def test_two_towers_learn_what_comes_next(cycles):
    learned = MODELS["two_tower"](cycles, 20, CONFIG, no_report)
    assert evaluate(cycles, learned.recommend, no_report)["hr@10"] > 0.9


def test_the_test_is_not_learned_from(tastes, tmp_path):
    """Other test items of the same users change nothing but the figures."""
    (tmp_path / "test.txt").write_text("".join(f"{user} {user % 4}-0\n" for user in range(120)))
    other = read_dataset(tmp_path)
    users = np.arange(120, dtype=np.int32)
    for name, learn in MODELS.items():
        one, two = (learn(dataset, 20, CONFIG, no_report).recommend(users) for dataset in (tastes, other))
        np.testing.assert_array_equal(one, two, err_msg=name)


@pytest.mark.parametrize("name", MODELS)
def test_a_data_set_with_hardly_anything_is_no_error(tmp_path, name):
    (tmp_path / "train.txt").write_text("u a\n")
    (tmp_path / "test.txt").write_text("u b\nw a\n")
    dataset = read_dataset(tmp_path)
    learned = MODELS[name](dataset, 20, CONFIG, no_report)
    lists = learned.recommend(np.array([0, 1], np.int32))
    assert set(lists[0].tolist()) == {1, -1}
    assert set(lists[1].tolist()) == {0, 1, -1}


def test_the_best_unseen_are_those_of_a_plain_loop():
    rng = np.random.default_rng(1)
    lists = [rng.permutation(9)[: rng.integers(0, 9)].tolist() for _ in range(20)]
    score = rng.integers(-2, 3, (20, 9)).astype(np.float32)  # many equal ones
    users = np.array([3, 3, 0, 19, 7], np.int32)
    found = best(score[users], interactions(lists), users, 4)
    for user, items in zip(users.tolist(), found.tolist(), strict=True):
        left = [item for item in range(9) if item not in lists[user]]
        expected = sorted(left, key=lambda item: (-score[user, item], item))[:4]
        assert items == expected + [-1] * (4 - len(expected))


def test_held_out_clicks_leave_training_and_every_user_keeps_some():
    rng = np.random.default_rng(0)
    lists = [rng.permutation(50)[: rng.integers(1, 9)].tolist() for _ in range(3000)]
    train, held = _held_out(interactions(lists), 0)
    assert 0.01 < len(held) / (len(train) + len(held)) < 0.03
    assert train.size.min() >= 1
    for user in range(3000):
        parts = [part.item[part.start[user] : part.start[user + 1]].tolist() for part in (train, held)]
        assert sorted(parts[0] + parts[1]) == sorted(lists[user])
