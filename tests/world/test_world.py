"""What the world answers about its truth agrees with trying."""

import numpy as np
import pytest

from recsys.errors import DataError
from recsys.types import DAY
from recsys.world.choice import appeal_of, relevance
from recsys.world.sampling import seeded, uniform
from recsys.world.sessions import CLICKED, HIDDEN, LIKED, MORE, SHARED, act
from recsys.world.world import World


@pytest.fixture(scope="module")
def world(small):
    return small.world()


@pytest.fixture
def now(small):
    return small.written.logs_end


def test_true_probabilities_are_those_of_the_truth_table(world, small):
    truth = small.table("truth").sample(200, random_state=0)
    probability, relevant = world.true_click_probability(truth.request_id.to_numpy(), truth.position.to_numpy())
    np.testing.assert_array_equal(probability, truth.click_probability)
    np.testing.assert_array_equal(relevant, truth.relevance)


@pytest.mark.parametrize(
    ("request_id", "position"),
    [(10**9, 0), (2, -1), (1, 10), (1, 13)],
    ids=["no such request", "unknown position", "beyond the slate", "far beyond"],
)
def test_an_impression_without_truth_is_an_error_and_never_another_ones_truth(world, request_id, position):
    with pytest.raises(DataError, match="1 impressions have no truth"):
        world.true_click_probability(np.array([request_id]), np.array([position], np.int32))


def test_a_folder_without_world_or_truth_is_named(small, tmp_path):
    with pytest.raises(DataError, match=r"no world in .*; run `recsys simulate`"):
        World.open(tmp_path)
    alone = World(small.config, tmp_path / "truth")
    with pytest.raises(DataError, match=r"no truth in .*truth; run `recsys simulate`"):
        alone.true_click_probability(np.array([1]), np.array([0], np.int32))


def test_the_world_is_drawn_again_as_it_was_logged(world, small):
    population = world.population
    posts, users = small.table("posts"), small.table("users")
    assert (population.post_id == posts.post_id).all()
    assert (population.post_created_at == posts.created_at).all()
    assert (population.user_id[population.post_author] == posts.author_id).all()
    assert population.texts == posts.text.tolist()
    assert (population.user_created_at == users.created_at).all()
    assert world.user_row(int(users.user_id[7])) == 7
    assert world.post_rows(posts.post_id[[5, 3]].to_numpy()).tolist() == [5, 3]
    with pytest.raises(DataError, match="user 3 does not live in this world"):
        world.user_row(3)


@pytest.mark.parametrize(("n_posts", "k"), [(250, 8), (2000, 2)], ids=["long slate", "many posts per topic"])
@pytest.mark.parametrize("user", [0, 17, 299])
def test_the_best_slate_adds_the_post_with_most_clicks_at_every_position(simulated, user, n_posts, k):
    world = simulated(n_posts=n_posts, n_impressions=1000, fatigue=0.8).world()
    now = world.population.start + 2 * DAY
    allowed = np.random.default_rng(user).random(n_posts) < 0.6
    fit = set(np.flatnonzero(allowed & (world.population.post_created_at <= now)).tolist())
    slate = world.best_slate(user, now, allowed, k).tolist()
    assert len(set(slate)) == len(slate) == k
    assert set(slate) <= fit
    for n in range(k):
        clicks = [world.expected_clicks(user, np.array([*slate[:n], p], np.int32), now) for p in fit - set(slate[:n])]
        assert world.expected_clicks(user, np.array(slate[: n + 1], np.int32), now) >= max(clicks) - 1e-12


def test_fatigue_spreads_the_best_slate_over_topics(simulated):
    def n_topics(fatigue):
        world = simulated(n_posts=250, n_impressions=1000, fatigue=fatigue).world()
        allowed = np.ones(250, bool)
        slates = [world.best_slate(user, world.population.start + 2 * DAY, allowed, 8) for user in range(0, 300, 20)]
        return np.mean([len(set(world.population.post_topic[slate])) for slate in slates])

    assert n_topics(0.8) > n_topics(0) + 1


def test_the_best_slate_of_few_posts_holds_them_all(world, now):
    allowed = np.zeros(world.population.n_posts, bool)
    assert len(world.best_slate(3, now, allowed, 5)) == 0
    allowed[[4, 9]] = True
    assert set(world.best_slate(3, now, allowed, 5)) == {4, 9}


def test_expected_clicks_are_the_mean_of_what_users_do(world, now):
    """One slate, twice the same topic three times in it, lived through many times."""
    topic = world.population.post_topic
    tired = np.flatnonzero(topic == np.argmax(world.truth.taste_end[11]))[-6:]
    slate = np.concatenate([tired, np.arange(1000, 1004)]).astype(np.int32)
    logit = appeal_of(world.truth, 11, slate, now)
    state, n = seeded(1, 2), 20_000
    clicks = np.zeros(n)
    above = [int((topic[slate[:k]] == topic[slate[k]]).sum()) for k in range(len(slate))]
    relevant = [relevance(world.truth, logit[k], above[k]) for k in range(len(slate))]
    for i in range(n):
        for k in range(len(slate)):
            bits, _ = act(relevant[k], k, world.truth.position_bias, state)
            clicks[i] += (bits & CLICKED) > 0
            if uniform(state) >= MORE:
                break
    expected = world.expected_clicks(11, slate, now)
    assert max(above) >= 5
    assert abs(clicks.mean() - expected) < 4 * clicks.std() / np.sqrt(n)


def test_an_act_is_consistent():
    state = seeded(3, 1)
    seen = [act(0.5, 0, 0.4, state) for _ in range(20_000)]
    bits = np.array([b for b, _ in seen])
    dwell = np.array([d for _, d in seen])
    clicked = (bits & CLICKED) > 0
    assert abs(clicked.mean() - 0.5) < 0.02
    assert ((dwell > 0) == clicked).all()
    assert (clicked | ((bits & (LIKED | SHARED)) == 0)).all(), "who likes or shares has clicked"
    assert not (clicked & ((bits & HIDDEN) > 0)).any(), "nobody hides what they clicked"
    for bit in (LIKED, SHARED, HIDDEN):
        assert ((bits & bit) > 0).any()
